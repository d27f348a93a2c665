//! BatchNorm: y = (x − mean_c) / √(var_c + eps) for every channel c, with the batch's own mean and
//! variance in training and running ones in TEST (or where `use_global_stats` says so).
//!
//! ```text
//! layer { name: "bn1" type: "BatchNorm" bottom: "conv1" top: "conv1"
//!         batch_norm_param { moving_average_fraction: 0.999 eps: 1e-5 } }
//! ```
//! Three blobs that no solver touches: sums of means, sums of variances (each times m / (m − 1),
//! m elements per channel), and the weight of those sums. A training pass multiplies all three by
//! `moving_average_fraction` and adds its own with weight 1.

use caffe_proto::Phase;

use super::dims::Around;
use super::per_channel::{Channels, Sums};
use super::{CudaLayer, DeviceIo, Io, Layer, LayerDef, Setup, dims, per_channel};
use crate::blob::{Layout, Shape};
use crate::device::Run;
use crate::device::cpu::threads::Threads;
use crate::device::cuda::CudaRun;
use crate::device::cuda::memory::Scratch;
use crate::device::cuda::source::Source;
use crate::params::ParamDef;
use crate::{Result, bail};

/// The layer.
struct BatchNorm {
    use_global_stats: bool,
    fraction: f32,
    eps: f32,
    channels: usize,
    /// What the last forward pass subtracted and multiplied by.
    mean: Vec<f32>,
    inverse: Vec<f32>,
    /// In place: the top, for the gradient, since the next layer may overwrite it, and its layout.
    saved: Vec<f32>,
    saved_layout: Layout,
    sums: Sums<2>,
    /// Per channel: what is subtracted before summing, later the means of sums.
    scratch: [Vec<f32>; 2],
    on_device: OnDevice,
}

fn channel_count(bottom: &Shape) -> usize {
    if bottom.axes() < 2 { 1 } else { bottom[1] }
}

/// The loops over a bottom, and the layout they work in.
fn loops(shape: &Shape, there: Layout) -> (Channels, Layout) {
    if shape.axes() < 2 {
        let around = Around { outer: shape.count(), extent: 1, inner: 1 };
        return (Channels::plain(around), Layout::Plain);
    }
    Channels::over(shape, 1..2, there)
}

impl BatchNorm {
    /// Mean and variance of x; into the running sums, too.
    fn measure(&mut self, threads: Threads, io: &Io<'_>, loops: Channels, x: &[f32]) -> Result<()> {
        let m = loops.per_channel() as f64;
        // In one pass: x and x², each less the channel's first value, so that the variance keeps
        // its digits where the mean is large.
        let shift = &mut self.scratch[0];
        loops.firsts(x, shift);
        loops.totals(threads, [shift], [x], &mut self.sums, |[shift], [x]| {
            let x = x - shift;
            [x, x * x]
        });
        let unbiased = if m > 1.0 { m / (m - 1.0) } else { 1.0 };
        let (means, variances, weight) = (io.param_mut(0)?, io.param_mut(1)?, io.param_mut(2)?);
        weight[0] = weight[0] * self.fraction + 1.0;
        for c in 0..self.channels {
            let [sum, squares] = self.sums.total[c].map(|s| s / m);
            let variance = (squares - sum * sum).max(0.0);
            self.mean[c] = (f64::from(self.scratch[0][c]) + sum) as f32;
            self.inverse[c] = 1.0 / (variance as f32 + self.eps).sqrt();
            means[c] = means[c] * self.fraction + self.mean[c];
            variances[c] = variances[c] * self.fraction + (unbiased * variance) as f32;
        }
        Ok(())
    }

    /// Mean and variance out of the running sums.
    fn recall(&mut self, io: &Io<'_>) -> Result<()> {
        let (means, variances, weight) = (io.param(0)?, io.param(1)?, io.param(2)?[0]);
        let factor = if weight == 0.0 { 0.0 } else { 1.0 / weight };
        for c in 0..self.channels {
            self.mean[c] = factor * means[c];
            self.inverse[c] = 1.0 / (factor * variances[c] + self.eps).sqrt();
        }
        Ok(())
    }

    /// Whether backward needs the normalized values, and has to keep them itself.
    fn saves(&self, io: &Io<'_>) -> bool {
        io.in_place() && io.propagate_down(0) && !self.use_global_stats
    }

    /// The means over each channel of dy and of dy times the normalized values, from their sums.
    fn mean_sums(&mut self, loops: Channels) {
        let m = loops.per_channel() as f64;
        for (i, means) in self.scratch.iter_mut().enumerate() {
            means.iter_mut().zip(&self.sums.total).for_each(|(to, s)| *to = (s[i] / m) as f32);
        }
    }
}

impl Layer for BatchNorm {
    fn params(&self) -> Vec<ParamDef> {
        [self.channels, self.channels, 1].map(|n| ParamDef::statistic(Shape::from([n]))).into()
    }

    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let channels = Shape::from([channel_count(&bottoms[0])]);
        dims::expect("the number of channels", &Shape::from([self.channels]), &channels)?;
        Ok(vec![bottoms[0].clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let threads = run.threads();
        let (loops, layout) = loops(io.bottom_shape(0), io.bottom_layout(0));
        let (x, y) = if io.in_place() {
            (None, io.top_update_in(0, layout)?)
        } else {
            (Some(io.bottom_in(0, layout)?), io.top_mut_in(0, layout)?)
        };
        if self.use_global_stats {
            self.recall(&io)?;
        } else {
            self.measure(threads, &io, loops, x.unwrap_or(y))?;
        }
        let saves = self.saves(&io);
        let coefficients = [&self.mean[..], &self.inverse];
        match x {
            Some(x) => loops.map(threads, coefficients, [x], y, |[m, i], [x], _| (x - m) * i),
            None if saves => {
                self.saved.resize(y.len(), 0.0);
                self.saved_layout = layout;
                loops.map_two(threads, coefficients, [], [y, &mut self.saved], |[m, i], [], x| {
                    [(x - m) * i; 2]
                });
            }
            None => loops.map(threads, coefficients, [], y, |[m, i], [], x| (x - m) * i),
        }
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let threads = run.threads();
        let there = if self.saves(&io) { self.saved_layout } else { io.top_diff_layout(0) };
        let (loops, layout) = loops(io.bottom_shape(0), there);
        if io.in_place() {
            let dx = io.bottom_diff_update_in(0, layout)?;
            if self.use_global_stats {
                loops.map(threads, [&self.inverse], [], dx, |[i], [], dy| dy * i);
                return Ok(());
            }
            let normal = &self.saved[..];
            loops.totals(threads, [], [dx, normal], &mut self.sums, |[], [dy, n]| [dy, dy * n]);
            self.mean_sums(loops);
            let [a, b] = &self.scratch;
            loops.map(threads, [&self.inverse, a, b], [&self.saved], dx, |[i, a, b], [n], dy| {
                i * (dy - a - n * b)
            });
            return Ok(());
        }
        let (dy, dx) = (io.top_diff_in(0, layout)?, io.bottom_diff_mut_in(0, layout)?);
        if self.use_global_stats {
            loops.map(threads, [&self.inverse], [dy], dx, |[i], [dy], _| dy * i);
            return Ok(());
        }
        let x = io.bottom_in(0, layout)?;
        let coefficients = [&self.mean[..], &self.inverse];
        loops.totals(threads, coefficients, [dy, x], &mut self.sums, |[m, i], [dy, x]| {
            [dy, dy * ((x - m) * i)]
        });
        self.mean_sums(loops);
        let [a, b] = &self.scratch;
        let coefficients = [&self.mean[..], &self.inverse, a, b];
        loops.map(threads, coefficients, [dy, x], dx, |[m, i, a, b], [dy, x], _| {
            i * (dy - a - (x - m) * i * b)
        });
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source = Source {
    name: "batch_norm",
    text: r#"
// Mean and 1 / deviation of each channel, and into the running sums: a block a channel. Less the
// channel's first value, so that the variance keeps its digits where the mean is large.
extern "C" __global__ void batch_norm_measure(int64 n, const float* x, float* mean, float* inverse,
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

// The means over each channel of dy and of dy times the normalized values.
extern "C" __global__ void batch_norm_sums(int64 n, const float* dy, const float* normal, float* a,
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
        "batch_norm_measure",
        "batch_norm_recall",
        "batch_norm_forward",
        "batch_norm_sums",
        "batch_norm_backward",
    ],
};

/// What the layer keeps on a device.
#[derive(Default)]
struct OnDevice {
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
}

fn build(setup: &Setup<'_>, bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.batch_norm_param.as_deref().cloned().unwrap_or_default();
    if let Some(spec) = setup.param.param.iter().find(|s| s.lr_mult.is_some_and(|m| m != 0.0)) {
        bail!(
            "has param {{ lr_mult: {} }}, but no solver may learn its statistics; give lr_mult 0, \
             or no `param` blocks",
            spec.lr_mult()
        );
    }
    let channels = channel_count(&bottoms[0]);
    Ok(Box::new(BatchNorm {
        use_global_stats: param.use_global_stats.unwrap_or(setup.phase == Phase::Test),
        fraction: param.moving_average_fraction(),
        eps: param.eps(),
        channels,
        mean: vec![0.0; channels],
        inverse: vec![0.0; channels],
        saved: Vec::new(),
        saved_layout: Layout::Plain,
        sums: Sums::default(),
        scratch: [vec![0.0; channels], vec![0.0; channels]],
        on_device: OnDevice::default(),
    }))
}

/// `BatchNorm`.
pub static DEF: LayerDef =
    LayerDef::new("BatchNorm", "every channel with mean 0 and variance 1", build)
        .kernels(&[&KERNELS, &per_channel::cuda::KERNELS])
        .in_place();
