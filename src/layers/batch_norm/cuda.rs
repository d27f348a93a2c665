//! BatchNorm on a CUDA device.

use super::BatchNorm;
use crate::Result;
use crate::blob::Shape;
use crate::device::cuda::CudaRun;
use crate::device::cuda::memory::Scratch;
use crate::device::cuda::source::Source;
use crate::layers::dims::Around;
use crate::layers::per_channel::Channels;
use crate::layers::{CudaLayer, DeviceIo, Reals};

pub(super) static KERNELS: Source = Source {
    name: "batch_norm",
    text: r#"
// Mean and 1 / deviation of each channel, and into the running sums: a block a channel. Less the
// channel's first value, so that the variance keeps its digits where the mean is large.
extern "C" __global__ void batch_norm_measure(int64 n, const real* x, float* mean, float* inverse,
                                              float* means, float* variances, float* weight,
                                              int64 outer, int64 inner, float fraction, float eps) {
  for (int64 c = blockIdx.x; c < n; c += gridDim.x) {
    int64 count = outer * inner;
    float shift = x[c * inner], sum = 0.0f, squares = 0.0f;
    for (int64 i = threadIdx.x; i < count; i += blockDim.x) {
      float v = x[(i / inner * n + c) * inner + i % inner] - shift;
      sum += v;
      squares += v * v;
    }
    sum = block_sum(sum) / count;
    squares = block_sum(squares) / count;
    if (threadIdx.x == 0) {
      float variance = fmaxf(squares - sum * sum, 0.0f);
      mean[c] = shift + sum;
      inverse[c] = 1 / sqrtf(variance + eps);
      means[c] = means[c] * fraction + mean[c];
      float unbiased = count > 1 ? (float)count / (count - 1) : 1.0f;
      variances[c] = variances[c] * fraction + unbiased * variance;
      if (c == 0) weight[0] = weight[0] * fraction + 1;
    }
  }
}

extern "C" __global__ void batch_norm_recall(int64 n, const float* means, const float* variances,
                                             const float* weight, float* mean, float* inverse,
                                             float eps) {
  KERNEL_LOOP(c, n) {
    float factor = weight[0] == 0 ? 0.0f : 1 / weight[0];
    mean[c] = factor * means[c];
    inverse[c] = 1 / sqrtf(factor * variances[c] + eps);
  }
}

extern "C" __global__ void batch_norm_forward(int64 n, const real* x, const float* mean,
                                              const float* inverse, real* y, real* kept,
                                              int64 channels, int64 inner) {
  KERNEL_LOOP(i, n) {
    int64 c = i / inner % channels;
    float value = (x[i] - mean[c]) * inverse[c];
    kept[i] = value;
    y[i] = value;
  }
}

// The means over each channel of dy and of dy times the normalized values.
extern "C" __global__ void batch_norm_sums(int64 n, const real* dy, const real* normal, float* a,
                                           float* b, int64 outer, int64 inner) {
  for (int64 c = blockIdx.x; c < n; c += gridDim.x) {
    float sum = 0.0f, product = 0.0f;
    for (int64 i = threadIdx.x; i < outer * inner; i += blockDim.x) {
      int64 at = (i / inner * n + c) * inner + i % inner;
      sum += dy[at];
      product += dy[at] * normal[at];
    }
    sum = block_sum(sum);
    product = block_sum(product);
    if (threadIdx.x == 0) {
      a[c] = sum / (outer * inner);
      b[c] = product / (outer * inner);
    }
  }
}

extern "C" __global__ void batch_norm_backward(int64 n, const real* dy, const real* normal,
                                               const float* inverse, const float* a, const float* b,
                                               real* dx, int64 channels, int64 inner) {
  KERNEL_LOOP(i, n) {
    int64 c = i / inner % channels;
    dx[i] = inverse[c] * (dy[i] - a[c] - normal[i] * b[c]);
  }
}
"#,
    functions: &[
        "batch_norm_measure",
        "batch_norm_recall",
        "batch_norm_forward",
        "batch_norm_sums",
        "batch_norm_backward",
    ],
};

/// What the layer keeps on a device.
#[derive(Default)]
pub(super) struct OnDevice {
    /// Per channel: mean, inverse, and the two means of sums.
    channels: Scratch,
    /// The normalized values, for the gradient.
    normal: Scratch,
}

impl BatchNorm {
    fn around(&self, shape: &Shape) -> Around {
        match shape.axes() < 2 {
            true => Around { outer: shape.count(), extent: 1, inner: 1 },
            false => Around::of(shape, 1),
        }
    }
}

impl CudaLayer for BatchNorm {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let Around { outer, extent: channels, inner } = self.around(io.bottom_shape(0));
        let n = io.bottom_shape(0).count();
        let mean = self.on_device.channels.room(&cuda.device, 4 * channels)?;
        let inverse = mean.plus(channels);
        let statistic = |i| if self.use_global_stats { io.param(i) } else { io.param_mut(i) };
        let (means, variances, weight) = (statistic(0)?, statistic(1)?, statistic(2)?);
        let keeps = io.propagate_down(0) && !self.use_global_stats;
        let (x, y) = io.through()?;
        let kept = if keeps { self.on_device.normal.room(&cuda.device, n)? } else { y };
        if self.use_global_stats {
            let args = [
                means.into(),
                variances.into(),
                weight.into(),
                mean.into(),
                inverse.into(),
                self.eps.into(),
            ];
            cuda.each(&KERNELS, "batch_norm_recall", channels, &args)?;
        } else {
            let args = [
                x.into(),
                mean.into(),
                inverse.into(),
                means.into(),
                variances.into(),
                weight.into(),
                outer.into(),
                inner.into(),
                self.fraction.into(),
                self.eps.into(),
            ];
            cuda.rows(&KERNELS, "batch_norm_measure", channels, &args)?;
        }
        let args = [
            x.into(),
            mean.into(),
            inverse.into(),
            y.into(),
            kept.into(),
            channels.into(),
            inner.into(),
        ];
        cuda.each(&KERNELS, "batch_norm_forward", n, &args)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let around = self.around(io.bottom_shape(0));
        let Around { outer, extent: channels, inner } = around;
        let n = io.bottom_shape(0).count();
        let mean = self.on_device.channels.room(&cuda.device, 4 * channels)?;
        let [inverse, a, b] = [1, 2, 3].map(|i| mean.plus(i * channels));
        let (dy, dx) = io.back_through()?;
        if self.use_global_stats {
            return Channels::plain(around).scale_on(cuda, dy, (inverse, None), dx, None);
        }
        let normal = self.on_device.normal.room(&cuda.device, n)?;
        let args = [dy.into(), normal.into(), a.into(), b.into(), outer.into(), inner.into()];
        cuda.rows(&KERNELS, "batch_norm_sums", channels, &args)?;
        let args = [
            dy.into(),
            normal.into(),
            inverse.into(),
            a.into(),
            b.into(),
            dx.into(),
            channels.into(),
            inner.into(),
        ];
        cuda.each(&KERNELS, "batch_norm_backward", n, &args)
    }

    fn reals(&self) -> Reals {
        Reals::FIRST
    }
}
