//! Slice: cuts the bottom into the tops along `axis` (`slice_dim` in old nets), at the
//! `slice_point`s or into equal parts.
//!
//! ```text
//! layer { name: "cut" type: "Slice" bottom: "x" top: "a" top: "b" slice_param { axis: 1 slice_point: 2 } }
//! ```

use super::parts::{KERNELS, Parts};
use super::{Count, CudaLayer, DeviceIo, Io, Layer, LayerDef, Orders, Reals, Setup, dims};
use crate::blob::{Layout, Shape};
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::{Result, ensure};

/// The layer.
struct Slice {
    axis: i32,
    points: Vec<usize>,
    tops: usize,
    parts: Parts,
}

impl Slice {
    /// Extent of each top along the axis.
    fn extents(&self, bottom: &Shape, axis: usize) -> Result<Vec<usize>> {
        let whole = bottom[axis];
        if self.points.is_empty() {
            ensure!(
                whole.is_multiple_of(self.tops),
                "cannot cut axis {axis} of {bottom} into {} equal parts; give slice_point",
                self.tops
            );
            return Ok(vec![whole / self.tops; self.tops]);
        }
        ensure!(
            self.points.len() + 1 == self.tops,
            "{} tops need {} slice_point entries, got {}",
            self.tops,
            self.tops - 1,
            self.points.len()
        );
        let ends = self.points.iter().copied().chain([whole]);
        let mut start = 0;
        ends.map(|end| {
            ensure!(
                start < end,
                "slice_point must rise and stay inside axis {axis} of {bottom}, got {:?}",
                self.points
            );
            let extent = end - start;
            start = end;
            Ok(extent)
        })
        .collect()
    }
}

impl Layer for Slice {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let axis = bottoms[0].axis(self.axis)?;
        let extents = self.extents(&bottoms[0], axis)?;
        let tops: Vec<Shape> = extents.iter().map(|&e| bottoms[0].with(axis, e)).collect();
        self.parts = Parts::new(axis, &tops);
        Ok(tops)
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let layout = self.parts.layout([io.bottom_layout(0)]);
        let x = io.bottom_in(0, layout)?;
        for i in 0..io.tops() {
            self.parts.cut(run.threads(), layout, i, x, io.top_mut_in(i, layout)?);
        }
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let there =
            |i: usize| if io.top_has_diff(i) { io.top_diff_layout(i) } else { Layout::Plain };
        let layout = self.parts.layout((0..io.tops()).map(there));
        let dx = io.bottom_diff_mut_in(0, layout)?;
        if (0..io.tops()).any(|i| !io.top_has_diff(i)) {
            dx.fill(0.0);
        }
        for i in (0..io.tops()).filter(|&i| io.top_has_diff(i)) {
            self.parts.place(run.threads(), layout, i, io.top_diff_in(i, layout)?, dx);
        }
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

impl CudaLayer for Slice {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let x = io.bottom(0)?;
        (0..io.tops()).try_for_each(|i| self.parts.cut_on((cuda, io.order()), i, x, io.top_mut(i)?))
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let dx = io.bottom_diff_mut(0)?;
        if (0..io.tops()).any(|i| !io.top_has_diff(i)) {
            cuda.zero(dx, io.bottom_shape(0).count())?;
        }
        let mut live = (0..io.tops()).filter(|&i| io.top_has_diff(i));
        live.try_for_each(|i| self.parts.place_on((cuda, io.order()), i, io.top_diff(i)?, dx))
    }

    fn reals(&self) -> Reals {
        Reals::ALL
    }

    fn orders(&self) -> Orders {
        Orders::Bottoms
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.slice_param.as_deref().cloned().unwrap_or_default();
    let axis = dims::axis_or_old(param.axis, (param.slice_dim, "slice_dim"))?;
    let points = param.slice_point.iter().map(|&p| p as usize).collect();
    Ok(Box::new(Slice { axis, points, tops: setup.tops, parts: Parts::default() }))
}

/// `Slice`.
pub static DEF: LayerDef =
    LayerDef::new("Slice", "cuts the bottom into the tops along axis", build)
        .kernels(&[&KERNELS])
        .counts(Count::Exactly(1), Count::AtLeast(1));

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{net, set, try_net, values};

    fn text(param: &str) -> String {
        format!(
            "layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ dim: 2 dim: 4 }} }} }} \
             layer {{ name: 's' type: 'Slice' bottom: 'x' top: 'a' top: 'b' slice_param {{ {param} }} }}"
        )
    }

    #[test]
    fn cuts_at_points_and_in_halves() {
        for (param, a) in [
            ("slice_point: 1", &[0.0, 4.0][..]),
            ("slice_dim: 1", &[0.0, 1.0, 4.0, 5.0]),
            ("axis: -2", &[0.0, 1.0, 2.0, 3.0]),
        ] {
            let mut net = net(&text(param), Phase::Test);
            set(&mut net, "x", &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
            net.forward().unwrap();
            assert_eq!(values(&mut net, "a"), a, "{param}");
        }
    }

    #[test]
    fn refuses_points_outside() {
        for param in ["slice_point: 4", "slice_point: 0", "slice_point: 1 slice_point: 2"] {
            assert!(try_net(&text(param), Phase::Test).is_err(), "{param}");
        }
    }
}
