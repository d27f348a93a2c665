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

mod cuda;
mod kernels;

use caffe_proto::Phase;

use super::dims::Around;
use super::per_channel::{Channels, Sums};
use super::{CudaLayer, Io, Layer, LayerDef, Setup, dims, per_channel};
use crate::blob::{Layout, Shape};
use crate::device::Run;
use crate::device::cpu::threads::Threads;
use crate::params::ParamDef;
use crate::{Result, bail};
use cuda::OnDevice;
use kernels::KERNELS;

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
