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
use super::per_channel::Channels;
use super::{Io, Layer, LayerDef, Setup, dims};
use crate::Result;
use crate::blob::{Layout, Shape};
use crate::device::Run;
use crate::device::cpu::threads::Threads;
use crate::params::ParamDef;

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
    partial: Vec<[f64; 2]>,
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
        // Two passes: a variance from Σx² loses all its digits where the mean is large.
        let sums = loops.sums(threads, &mut self.partial, |_, i| [x[i], 0.0]);
        self.mean.iter_mut().zip(&sums).for_each(|(mean, s)| *mean = (s[0] / m) as f32);
        let mean = &self.mean;
        let sums = loops.sums(threads, &mut self.partial, |c, i| [(x[i] - mean[c]).powi(2), 0.0]);
        let unbiased = if m > 1.0 { m / (m - 1.0) } else { 1.0 };
        let (means, variances, weight) = (io.param_mut(0)?, io.param_mut(1)?, io.param_mut(2)?);
        weight[0] = weight[0] * self.fraction + 1.0;
        for c in 0..self.channels {
            let variance = sums[c][0] / m;
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

    /// dx from dy through the batch's own mean and variance; `normal(c, i)` is a normalized value,
    /// `dx` holds dy where `dy` is none.
    fn through_statistics(
        &mut self,
        threads: Threads,
        loops: Channels,
        normal: impl Fn(&Self, usize, usize) -> f32 + Sync,
        dy: Option<&[f32]>,
        dx: &mut [f32],
    ) {
        let mut partial = std::mem::take(&mut self.partial);
        let given = dy.unwrap_or(dx);
        let sums =
            loops.sums(threads, &mut partial, |c, i| [given[i], given[i] * normal(self, c, i)]);
        self.partial = partial;
        let m = loops.per_channel() as f64;
        let means: Vec<[f32; 2]> = sums.iter().map(|s| s.map(|s| (s / m) as f32)).collect();
        loops.update(threads, dx, |c, i, old| {
            let dy = dy.map_or(old, |dy| dy[i]);
            self.inverse[c] * (dy - means[c][0] - normal(self, c, i) * means[c][1])
        });
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
        let (mean, inverse) = (&self.mean, &self.inverse);
        match x {
            Some(x) => loops.update(threads, y, |c, i, _| (x[i] - mean[c]) * inverse[c]),
            None => loops.update(threads, y, |c, _, x| (x - mean[c]) * inverse[c]),
        }
        if self.saves(&io) {
            self.saved.resize(y.len(), 0.0);
            self.saved.copy_from_slice(y);
            self.saved_layout = layout;
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
                loops.update(threads, dx, |c, _, dy| dy * self.inverse[c]);
            } else {
                self.through_statistics(threads, loops, |bn, _, i| bn.saved[i], None, dx);
            }
            return Ok(());
        }
        let (dy, dx) = (io.top_diff_in(0, layout)?, io.bottom_diff_mut_in(0, layout)?);
        if self.use_global_stats {
            loops.update(threads, dx, |c, i, _| dy[i] * self.inverse[c]);
        } else {
            let x = io.bottom_in(0, layout)?;
            let normal = |bn: &Self, c: usize, i: usize| (x[i] - bn.mean[c]) * bn.inverse[c];
            self.through_statistics(threads, loops, normal, Some(dy), dx);
        }
        Ok(())
    }
}

fn build(setup: &Setup<'_>, bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.batch_norm_param.as_deref().cloned().unwrap_or_default();
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
        partial: Vec::new(),
    }))
}

/// `BatchNorm`.
pub static DEF: LayerDef =
    LayerDef::new("BatchNorm", "every channel with mean 0 and variance 1", build).in_place();
