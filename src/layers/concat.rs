//! Concat: the bottoms one behind the other along `axis` (`concat_dim` in old nets).
//!
//! ```text
//! layer { name: "inception/output" type: "Concat" bottom: "a" bottom: "b" top: "y" concat_param { axis: 1 } }
//! ```
//! Along the channels of blocked blobs it copies blocks, where the bottoms' channels fill them.

use super::parts::{KERNELS, Parts};
use super::{Count, CudaLayer, DeviceIo, Io, Layer, LayerDef, Orders, Reals, Setup, dims};
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::{Result, ensure};

/// The layer.
struct Concat {
    axis: i32,
    parts: Parts,
}

impl Layer for Concat {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let axis = bottoms[0].axis(self.axis)?;
        for (i, bottom) in bottoms.iter().enumerate() {
            ensure!(
                bottom.axes() == bottoms[0].axes()
                    && bottom.with(axis, 0) == bottoms[0].with(axis, 0),
                "bottoms may differ in axis {axis} only: bottom 0 is {}, bottom {i} is {bottom}",
                bottoms[0]
            );
        }
        self.parts = Parts::new(axis, bottoms);
        Ok(vec![bottoms[0].with(axis, bottoms.iter().map(|b| b[axis]).sum())])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let layout = self.parts.layout((0..io.bottoms()).map(|i| io.bottom_layout(i)));
        let y = io.top_mut_in(0, layout)?;
        for i in 0..io.bottoms() {
            self.parts.place(run.threads(), layout, i, io.bottom_in(i, layout)?, y);
        }
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let layout = self.parts.layout([io.top_diff_layout(0)]);
        let dy = io.top_diff_in(0, layout)?;
        for i in (0..io.bottoms()).filter(|&i| io.propagate_down(i)) {
            self.parts.cut(run.threads(), layout, i, dy, io.bottom_diff_mut_in(i, layout)?);
        }
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

impl CudaLayer for Concat {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let y = io.top_mut(0)?;
        (0..io.bottoms())
            .try_for_each(|i| self.parts.place_on((cuda, io.order()), i, io.bottom(i)?, y))
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let dy = io.top_diff(0)?;
        let mut wanted = (0..io.bottoms()).filter(|&i| io.propagate_down(i));
        wanted
            .try_for_each(|i| self.parts.cut_on((cuda, io.order()), i, dy, io.bottom_diff_mut(i)?))
    }

    fn reals(&self) -> Reals {
        Reals::ALL
    }

    fn orders(&self) -> Orders {
        Orders::Bottoms
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.concat_param.as_deref().cloned().unwrap_or_default();
    let axis = dims::axis_or_old(param.axis, (param.concat_dim, "concat_dim"))?;
    Ok(Box::new(Concat { axis, parts: Parts::default() }))
}

/// `Concat`.
pub static DEF: LayerDef =
    LayerDef::new("Concat", "the bottoms one behind the other along axis", build)
        .kernels(&[&KERNELS])
        .counts(Count::AtLeast(1), Count::Exactly(1));
