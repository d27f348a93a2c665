//! BatchNorm on a CUDA device.

use super::BatchNorm;
use crate::Result;
use crate::blob::Shape;
use crate::device::cuda::CudaRun;
use crate::device::cuda::memory::Scratch;
use crate::device::cuda::source::Source;
use crate::device::cuda::sums::{By, Sums};
use crate::layers::dims::Around;
use crate::layers::per_channel::Channels;
use crate::layers::{CudaLayer, DeviceIo};

pub(super) static KERNELS: Source = Source {
    name: "batch_norm",
    text: r#"
// Sums of each channel's values and of their squares: a block a part of a channel. Less the channel's
// first value, so that the variance keeps its digits where the mean is large.
extern "C" __global__ void batch_norm_moments(int64 n, const float* x, int64 channels, int64 outer,
                                              int64 inner, int64 parts, float* sums, float factor,
                                              int accumulate) {
  for (int64 b = blockIdx.x; b < n; b += gridDim.x) {
    int64 c = b / parts;
    float shift = x[c * inner], sum = 0.0f, squares = 0.0f;
    PART_LOOP(i, outer * inner, b % parts, parts) {
      float v = x[channel_element(i, c, channels, inner)] - shift;
      sum += v;
      squares += v * v;
    }
    sum = block_sum(sum);
    squares = block_sum(squares);
    if (threadIdx.x == 0) {
      put_sum(sums + b, factor * sum, accumulate);
      put_sum(sums + n + b, factor * squares, accumulate);
    }
  }
}

// Mean and 1 / deviation of each channel in place of these sums, and into the running sums.
extern "C" __global__ void batch_norm_measure(int64 n, const float* x, float* mean, float* inverse,
                                              float* means, float* variances, float* weight,
                                              int64 count, int64 inner, float fraction, float eps) {
  KERNEL_LOOP(c, n) {
    float sum = mean[c] / count, squares = inverse[c] / count;
    float variance = fmaxf(squares - sum * sum, 0.0f);
    mean[c] = x[c * inner] + sum;
    inverse[c] = 1 / sqrtf(variance + eps);
    means[c] = means[c] * fraction + mean[c];
    float unbiased = count > 1 ? (float)count / (count - 1) : 1.0f;
    variances[c] = variances[c] * fraction + unbiased * variance;
    if (c == 0) weight[0] = weight[0] * fraction + 1;
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

extern "C" __global__ void batch_norm_forward(int64 n, const float* x, const float* mean,
                                              const float* inverse, float* y, float* kept,
                                              int64 channels, int64 inner) {
  KERNEL_LOOP(i, n) {
    int64 c = i / inner % channels;
    float value = (x[i] - mean[c]) * inverse[c];
    kept[i] = value;
    y[i] = value;
  }
}

// Sums over each channel of dy and of dy times the normalized values: a block a part of a channel.
extern "C" __global__ void batch_norm_sums(int64 n, const float* dy, const float* normal,
                                           int64 channels, int64 outer, int64 inner, int64 parts,
                                           float* sums, float factor, int accumulate) {
  for (int64 b = blockIdx.x; b < n; b += gridDim.x) {
    float sum = 0.0f, product = 0.0f;
    PART_LOOP(i, outer * inner, b % parts, parts) {
      int64 at = channel_element(i, b / parts, channels, inner);
      sum += dy[at];
      product += dy[at] * normal[at];
    }
    sum = block_sum(sum);
    product = block_sum(product);
    if (threadIdx.x == 0) {
      put_sum(sums + b, factor * sum, accumulate);
      put_sum(sums + n + b, factor * product, accumulate);
    }
  }
}

extern "C" __global__ void batch_norm_backward(int64 n, const float* dy, const float* normal,
                                               const float* inverse, const float* a, const float* b,
                                               float* dx, int64 channels, int64 inner) {
  KERNEL_LOOP(i, n) {
    int64 c = i / inner % channels;
    dx[i] = inverse[c] * (dy[i] - a[c] - normal[i] * b[c]);
  }
}
"#,
    functions: &[
        "batch_norm_moments",
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
            let count = outer * inner;
            let args = [x.into(), channels.into(), outer.into(), inner.into()];
            let to = Sums { at: mean, each: 2, factor: 1.0, accumulate: false };
            cuda.sums((&KERNELS, "batch_norm_moments", By::Block), (channels, count), &args, to)?;
            let args = [
                x.into(),
                mean.into(),
                inverse.into(),
                means.into(),
                variances.into(),
                weight.into(),
                count.into(),
                inner.into(),
                self.fraction.into(),
                self.eps.into(),
            ];
            cuda.each(&KERNELS, "batch_norm_measure", channels, &args)?;
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
        let args = [dy.into(), normal.into(), channels.into(), outer.into(), inner.into()];
        let (count, factor) = (outer * inner, 1.0 / (outer * inner) as f32);
        let to = Sums { at: a, each: 2, factor, accumulate: false };
        cuda.sums((&KERNELS, "batch_norm_sums", By::Block), (channels, count), &args, to)?;
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
}
