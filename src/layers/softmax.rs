//! Softmax: y_c = e^(x_c) / Σ_k e^(x_k) along `axis`.
//!
//! ```text
//! layer { name: "prob" type: "Softmax" bottom: "fc8" top: "prob" softmax_param { axis: 1 } }
//! ```
//! `engine` makes no difference.

use super::dims::Around;
use super::{CudaLayer, DeviceIo, Io, Layer, LayerDef, Reals, Setup};
use crate::Result;
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cpu::threads::Threads;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::Address;
use crate::device::cuda::source::Source;

/// The layer.
struct Softmax {
    axis: i32,
    around: Around,
}

/// y = softmax(x) along the middle extent; for losses, too.
pub(super) fn softmax(threads: Threads, around: Around, x: &[f32], y: &mut [f32]) {
    let Around { extent, inner, .. } = around;
    threads.par_chunks_mut(y, extent * inner, |n, y| {
        let x = &x[n * extent * inner..][..extent * inner];
        for at in 0..inner {
            let column = || x[at..].iter().step_by(inner);
            // Without its largest value no exponent overflows.
            let largest = column().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
            let mut sum = 0.0;
            for (y, &x) in y[at..].iter_mut().step_by(inner).zip(column()) {
                *y = (x - largest).exp();
                sum += *y;
            }
            y[at..].iter_mut().step_by(inner).for_each(|y| *y /= sum);
        }
    });
}

impl Layer for Softmax {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        self.around = Around::of(&bottoms[0], bottoms[0].axis(self.axis)?);
        Ok(vec![bottoms[0].clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        softmax(run.threads(), self.around, io.bottom(0)?, io.top_mut(0)?);
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let Around { extent, inner, .. } = self.around;
        let (y, dy, dx) = (io.top(0)?, io.top_diff(0)?, io.bottom_diff_mut(0)?);
        run.threads().par_chunks_mut(dx, extent * inner, |n, dx| {
            let at = n * extent * inner..(n + 1) * extent * inner;
            let (y, dy) = (&y[at.clone()], &dy[at]);
            for at in 0..inner {
                let pairs = || y[at..].iter().zip(&dy[at..]).step_by(inner);
                let dot: f32 = pairs().map(|(y, dy)| y * dy).sum();
                for (dx, (y, dy)) in dx[at..].iter_mut().step_by(inner).zip(pairs()) {
                    *dx = y * (dy - dot);
                }
            }
        });
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

/// Along the last axis a block takes a row; else a thread takes a column, whose neighbours lie beside
/// it. Probabilities and their gradients are f32 whatever `real` is.
pub(super) static KERNELS: Source = Source {
    name: "softmax",
    text: r#"
extern "C" __global__ void softmax_rows(int64 n, const real* from, float* to, int64 extent) {
  for (int64 row = blockIdx.x; row < n; row += gridDim.x) {
    const real* x = from + row * extent;
    float* y = to + row * extent;
    // Without its largest value no exponent overflows.
    float largest = -FLOAT_MAX;
    for (int64 i = threadIdx.x; i < extent; i += blockDim.x) largest = fmaxf(largest, x[i]);
    largest = block_max(largest);
    float sum = 0.0f;
    for (int64 i = threadIdx.x; i < extent; i += blockDim.x) {
      y[i] = expf(x[i] - largest);
      sum += y[i];
    }
    sum = block_sum(sum);
    for (int64 i = threadIdx.x; i < extent; i += blockDim.x) y[i] /= sum;
  }
}

extern "C" __global__ void softmax_columns(int64 n, const real* from, float* to, int64 extent,
                                           int64 inner) {
  KERNEL_LOOP(column, n) {
    int64 first = column / inner * extent * inner + column % inner, end = first + extent * inner;
    float largest = -FLOAT_MAX, sum = 0.0f;
    for (int64 i = first; i < end; i += inner) largest = fmaxf(largest, from[i]);
    for (int64 i = first; i < end; i += inner) {
      to[i] = expf(from[i] - largest);
      sum += to[i];
    }
    for (int64 i = first; i < end; i += inner) to[i] /= sum;
  }
}

extern "C" __global__ void softmax_rows_backward(int64 n, const float* y, const float* dy, real* dx,
                                                 int64 extent) {
  for (int64 row = blockIdx.x; row < n; row += gridDim.x) {
    float dot = 0.0f;
    for (int64 i = threadIdx.x; i < extent; i += blockDim.x)
      dot += y[row * extent + i] * dy[row * extent + i];
    dot = block_sum(dot);
    for (int64 i = threadIdx.x; i < extent; i += blockDim.x)
      dx[row * extent + i] = y[row * extent + i] * (dy[row * extent + i] - dot);
  }
}

extern "C" __global__ void softmax_columns_backward(int64 n, const float* y, const float* dy, real* dx,
                                                    int64 extent, int64 inner) {
  KERNEL_LOOP(column, n) {
    int64 first = column / inner * extent * inner + column % inner, end = first + extent * inner;
    float dot = 0.0f;
    for (int64 i = first; i < end; i += inner) dot += y[i] * dy[i];
    for (int64 i = first; i < end; i += inner) dx[i] = y[i] * (dy[i] - dot);
  }
}
"#,
    functions: &[
        "softmax_rows",
        "softmax_columns",
        "softmax_rows_backward",
        "softmax_columns_backward",
    ],
};

/// [`softmax`] on a device.
///
/// # Errors
/// A device that failed.
pub(super) fn softmax_on(cuda: &CudaRun, around: Around, x: Address, y: Address) -> Result<()> {
    let Around { outer, extent, inner } = around;
    let args = [x.into(), y.into(), extent.into(), inner.into()];
    match inner {
        1 => cuda.rows(&KERNELS, "softmax_rows", outer, &args[..3]),
        _ => cuda.each(&KERNELS, "softmax_columns", outer * inner, &args),
    }
}

impl CudaLayer for Softmax {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        softmax_on(cuda, self.around, io.bottom(0)?, io.top_mut(0)?)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let Around { outer, extent, inner } = self.around;
        let (y, dy, dx) = (io.top(0)?, io.top_diff(0)?, io.bottom_diff_mut(0)?);
        let args = [y.into(), dy.into(), dx.into(), extent.into(), inner.into()];
        match inner {
            1 => cuda.rows(&KERNELS, "softmax_rows_backward", outer, &args[..4]),
            _ => cuda.each(&KERNELS, "softmax_columns_backward", outer * inner, &args),
        }
    }

    fn reals(&self) -> Reals {
        Reals::BOTTOM
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.softmax_param.as_deref().cloned().unwrap_or_default();
    Ok(Box::new(Softmax { axis: param.axis(), around: Around::default() }))
}

/// `Softmax`.
pub static DEF: LayerDef =
    LayerDef::new("Softmax", "y_c = e^x_c / sum of e^x along axis", build).kernels(&[&KERNELS]);
