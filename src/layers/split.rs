//! Split: one blob read by several layers. The tops share the bottom's values; the gradients of
//! the tops are summed. Nets insert it by themselves.
//!
//! ```text
//! layer { name: "x_split" type: "Split" bottom: "x" top: "x_split_0" top: "x_split_1" }
//! ```

use super::dims::first_blocked;
use super::{Alias, Count, CudaLayer, DeviceIo, Io, Layer, LayerDef, Setup};
use crate::Result;
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cpu::channels;
use crate::device::cuda::CudaRun;
use crate::device::cuda::source::Source;

/// Gradients that are added up in one pass over memory.
const TOGETHER: usize = 8;

/// The layer.
struct Split {
    tops: usize,
}

impl Layer for Split {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone(); self.tops])
    }

    /// Nothing to do: the tops are the bottom's memory.
    fn forward(&mut self, _run: &mut Run, _io: Io<'_>) -> Result<()> {
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        // Tops that feed no loss (an Accuracy) bring no gradient. Work in a blocked layout as soon
        // as one of the others is: its producer is a fast primitive, and so is the reader.
        let live = || (0..io.tops()).filter(|&j| io.top_has_diff(j));
        let layout = first_blocked(live().map(|j| io.top_diff_layout(j)));
        let dx = io.bottom_diff_mut_in(0, layout)?;
        let mut live = live().peekable();
        let mut add = false;
        loop {
            let mut dys: [&[f32]; TOGETHER] = [&[]; TOGETHER];
            let mut count = 0;
            while count < TOGETHER
                && let Some(j) = live.next()
            {
                dys[count] = io.top_diff_in(j, layout)?;
                count += 1;
            }
            channels::sum(run.threads(), &dys[..count], dx, add);
            add = true;
            if live.peek().is_none() {
                return Ok(());
            }
        }
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source = Source {
    name: "split",
    text: r#"
// dx = a + b.
extern "C" __global__ void split_add(int64 n, const float* a, const float* b, float* dx) {
  KERNEL_LOOP(i, n) { dx[i] = a[i] + b[i]; }
}
"#,
    functions: &["split_add"],
};

impl CudaLayer for Split {
    /// Nothing to do: the tops are the bottom's memory.
    fn forward(&mut self, _cuda: &CudaRun, _io: DeviceIo<'_>) -> Result<()> {
        Ok(())
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let (n, dx) = (io.bottom_shape(0).count(), io.bottom_diff_mut(0)?);
        let mut live = (0..io.tops()).filter(|&j| io.top_has_diff(j));
        let (first, second) = (live.next(), live.next());
        match (first, second) {
            (None, _) => cuda.device.zero(dx, n)?,
            (Some(a), None) => cuda.device.copy(io.top_diff(a)?, dx, n)?,
            (Some(a), Some(b)) => {
                let args = [io.top_diff(a)?.into(), io.top_diff(b)?.into(), dx.into()];
                cuda.each(&KERNELS, "split_add", n, &args)?;
            }
        }
        live.try_for_each(|j| {
            let args = [dx.into(), io.top_diff(j)?.into(), dx.into()];
            cuda.each(&KERNELS, "split_add", n, &args)
        })
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    Ok(Box::new(Split { tops: setup.tops }))
}

/// `Split`.
pub static DEF: LayerDef =
    LayerDef::new("Split", "one blob for several readers; gradients are summed", build)
        .kernels(&[&KERNELS])
        .counts(Count::Exactly(1), Count::AtLeast(1))
        .aliasing(Alias::Values);
