//! Split: one blob read by several layers. The tops share the bottom's values; the gradients of
//! the tops are summed. Nets insert it by themselves.
//!
//! ```text
//! layer { name: "x_split" type: "Split" bottom: "x" top: "x_split_0" top: "x_split_1" }
//! ```

use smallvec::{SmallVec, smallvec};

use super::dims::first_blocked;
use super::{Alias, Count, CudaLayer, DeviceIo, Io, Layer, LayerDef, Orders, Reals, Setup};
use crate::Result;
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cpu::channels;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::Arg;
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

pub(super) static KERNELS: Source = Source {
    name: "split",
    text: r#"
// dx = a + b.
extern "C" __global__ void split_add(int64 n, const real* a, const real* b, real* dx) {
  each_number(n, dx, [](float u, float v) -> float { return u + v; }, a, b);
}

// dx = (dx if add) + the first `count` of the others.
extern "C" __global__ void split_sum(int64 n, real* dx, int add, int count, const real* a,
                                     const real* b, const real* c, const real* d, const real* e,
                                     const real* f, const real* g, const real* h) {
  // Mostly it is a few, whose sum does not go on; then as packs.
  if (!add && count == 2) {
    each_number(n, dx, [](float s, float t) -> float { return s + t; }, a, b);
  } else if (!add && count == 3) {
    each_number(n, dx, [](float s, float t, float u) -> float { return s + t + u; }, a, b, c);
  } else if (!add && count == 4) {
    each_number(n, dx, [](float s, float t, float u, float v) -> float { return s + t + u + v; },
                a, b, c, d);
  } else {
    KERNEL_LOOP(i, n) {
      float sum = a[i];
      if (count > 1) sum += b[i];
      if (count > 2) sum += c[i];
      if (count > 3) sum += d[i];
      if (count > 4) sum += e[i];
      if (count > 5) sum += f[i];
      if (count > 6) sum += g[i];
      if (count > 7) sum += h[i];
      dx[i] = add ? dx[i] + sum : sum;
    }
  }
}
"#,
    functions: &["split_add", "split_sum"],
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
        let live: SmallVec<[usize; TOGETHER]> =
            (0..io.tops()).filter(|&j| io.top_has_diff(j)).collect();
        match live[..] {
            [] => return cuda.zero(dx, n),
            [only] => return cuda.copy(io.top_diff(only)?, dx, n),
            _ => {}
        }
        for (pass, tops) in live.chunks(TOGETHER).enumerate() {
            let (add, count) = (i32::from(pass > 0), tops.len() as i32);
            let mut args: SmallVec<[Arg; 12]> = smallvec![dx.into(), add.into(), count.into()];
            for k in 0..TOGETHER {
                args.push(io.top_diff(*tops.get(k).unwrap_or(&tops[0]))?.into());
            }
            cuda.packs(&KERNELS, "split_sum", n, &args)?;
        }
        Ok(())
    }

    fn reals(&self) -> Reals {
        Reals::ALL
    }

    fn orders(&self) -> Orders {
        Orders::Bottoms
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
