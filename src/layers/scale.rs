//! Scale: y = s · x + b with s (and b, with `bias_term`) laid over the bottom from `axis` on, also
//! in place. s is learned, or the second bottom.
//!
//! ```text
//! layer { name: "scale1" type: "Scale" bottom: "bn1" top: "bn1" scale_param { bias_term: true } }
//! ```
//! A learned s has the extents of `num_axes` axes: 1 for one value per channel, 0 for a single
//! value, −1 for all axes from `axis` on. It starts with 1, b with 0.

use std::ops::Range;

use caffe_proto::{FillerParameter, ScaleParameter};

use super::dims::Around;
use super::per_channel::cuda::KERNELS;
use super::per_channel::{Channels, Sums};
use super::{Count, CudaLayer, DeviceIo, Io, Layer, LayerDef, Orders, Reals, Setup, dims};
use crate::Result;
use crate::blob::{Layout, Shape};
use crate::device::Run;
use crate::device::cpu::threads::Threads;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::Address;
use crate::device::cuda::memory::Scratch;
use crate::params::ParamDef;

/// The layer.
struct Scale {
    param: ScaleParameter,
    /// Shape of s and b.
    shape: Shape,
    /// s is the second bottom.
    from_bottom: bool,
    /// Axes of the bottom that s is laid over.
    axes: Range<usize>,
    /// In place: the bottom, for the gradient of s, and the layout it is in.
    saved: Vec<f32>,
    saved_layout: Layout,
    saved_on_device: Scratch,
    sums: Sums<2>,
    /// b where there is none.
    zeros: Vec<f32>,
}

impl Scale {
    fn axes(param: &ScaleParameter, bottoms: &[Shape]) -> Result<Range<usize>> {
        match bottoms.get(1) {
            Some(values) => dims::laid_over(&bottoms[0], param.axis(), values),
            None => dims::span(&bottoms[0], param.axis(), param.num_axes()),
        }
    }

    fn values<'a>(&self, io: &'a Io<'_>) -> Result<&'a [f32]> {
        if self.from_bottom { io.bottom(1) } else { io.param(0) }
    }

    /// Number of b among the parameters.
    fn bias(&self) -> Option<usize> {
        self.param.bias_term().then_some(usize::from(!self.from_bottom))
    }

    fn values_need_diff(&self, io: &Io<'_>) -> bool {
        if self.from_bottom { io.propagate_down(1) } else { io.param_needs_diff(0) }
    }

    /// The gradients of s and b.
    fn sum_up(
        &mut self,
        threads: Threads,
        io: &Io<'_>,
        channels: Channels,
        dy: &[f32],
        layout: Layout,
    ) -> Result<()> {
        let bias = self.bias().filter(|&i| io.param_needs_diff(i));
        if self.values_need_diff(io) {
            let x = if io.in_place() { &self.saved[..] } else { io.bottom_in(0, layout)? };
            channels.totals(threads, [], [dy, x], &mut self.sums, |[], [dy, x]| [dy * x, dy]);
            let sums = self.sums.total.iter().map(|s| s[0] as f32);
            if self.from_bottom {
                io.bottom_diff_mut(1)?.iter_mut().zip(sums).for_each(|(ds, s)| *ds = s);
            } else {
                io.param_diff_mut(0)?.iter_mut().zip(sums).for_each(|(ds, s)| *ds += s);
            }
        } else if bias.is_some() {
            channels.totals(threads, [], [dy], &mut self.sums, |[], [dy]| [0.0, dy]);
        }
        if let Some(i) = bias {
            let sums = self.sums.total.iter().map(|s| s[1] as f32);
            io.param_diff_mut(i)?.iter_mut().zip(sums).for_each(|(db, s)| *db += s);
        }
        Ok(())
    }
}

impl Layer for Scale {
    fn params(&self) -> Vec<ParamDef> {
        let one = FillerParameter { value: Some(1.0), ..Default::default() };
        let scale = self.param.filler.clone().unwrap_or(one);
        let bias = self.param.bias_filler.clone().unwrap_or_default();
        let mut params = Vec::new();
        if !self.from_bottom {
            params.push(ParamDef::learned(self.shape.clone(), scale));
        }
        if self.param.bias_term() {
            params.push(ParamDef::learned(self.shape.clone(), bias));
        }
        params
    }

    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        self.axes = Self::axes(&self.param, bottoms)?;
        let shape = Shape::new(&bottoms[0].dims()[self.axes.clone()]);
        dims::expect("the shape of the scale", &self.shape, &shape)?;
        Ok(vec![bottoms[0].clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let threads = run.threads();
        let (channels, layout) =
            Channels::over(io.bottom_shape(0), self.axes.clone(), io.bottom_layout(0));
        let s = self.values(&io)?;
        let save = io.in_place() && self.values_need_diff(&io);
        let b = match self.bias() {
            Some(i) => io.param(i)?,
            None => {
                self.zeros.resize(s.len(), 0.0);
                &self.zeros
            }
        };
        if save {
            let y = io.top_update_in(0, layout)?;
            self.saved.resize(y.len(), 0.0);
            self.saved_layout = layout;
            let outputs = [y, &mut self.saved[..]];
            channels.map_two(threads, [s, b], [], outputs, |[s, b], [], x| [s * x + b, x]);
        } else if io.in_place() {
            let y = io.top_update_in(0, layout)?;
            channels.map(threads, [s, b], [], y, |[s, b], [], x| s * x + b);
        } else {
            let (x, y) = (io.bottom_in(0, layout)?, io.top_mut_in(0, layout)?);
            channels.map(threads, [s, b], [x], y, |[s, b], [x], _| s * x + b);
        }
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let threads = run.threads();
        let saved = io.in_place() && self.values_need_diff(&io);
        let there = if saved { self.saved_layout } else { io.top_diff_layout(0) };
        let (channels, layout) = Channels::over(io.bottom_shape(0), self.axes.clone(), there);
        let s = self.values(&io)?;
        if io.in_place() {
            let dx = io.bottom_diff_update_in(0, layout)?;
            self.sum_up(threads, &io, channels, dx, layout)?;
            channels.map(threads, [s], [], dx, |[s], [], dy| s * dy);
            return Ok(());
        }
        let dy = io.top_diff_in(0, layout)?;
        self.sum_up(threads, &io, channels, dy, layout)?;
        if io.propagate_down(0) {
            let dx = io.bottom_diff_mut_in(0, layout)?;
            channels.map(threads, [s], [dy], dx, |[s], [dy], _| s * dy);
        }
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

impl Scale {
    fn on_device(&self, io: &DeviceIo<'_>) -> Result<(Channels, Address)> {
        let channels =
            Channels::plain(Around::on(io.order(), io.bottom_shape(0), self.axes.clone()));
        Ok((channels, if self.from_bottom { io.bottom(1)? } else { io.param(0)? }))
    }
}

impl Scale {
    /// Room for the bottom of an in-place layer.
    fn saved_on(&mut self, cuda: &CudaRun, io: &DeviceIo<'_>) -> Result<Address> {
        self.saved_on_device.room(&cuda.device, cuda.real.floats(io.bottom_shape(0).count()))
    }
}

impl CudaLayer for Scale {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let (channels, s) = self.on_device(&io)?;
        let b = self.bias().map(|i| io.param(i)).transpose()?;
        let kept = if io.in_place() && self.values_need_diff(&io) {
            Some(self.saved_on(cuda, &io)?)
        } else {
            None
        };
        let (x, y) = io.through()?;
        channels.scale_on(cuda, x, (s, b), y, kept)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let (channels, s) = self.on_device(&io)?;
        let propagates = io.propagate_down(0);
        let (dy, dx) = match (io.in_place(), propagates) {
            (true, _) => io.back_through()?,
            (false, true) => (io.top_diff(0)?, io.bottom_diff_mut(0)?),
            (false, false) => (io.top_diff(0)?, io.top_diff(0)?),
        };
        if self.values_need_diff(&io) {
            let x = match io.in_place() {
                true => self.saved_on(cuda, &io)?,
                false => io.bottom(0)?,
            };
            let sums = match self.from_bottom {
                true => (io.bottom_diff_mut(1)?, false),
                false => (io.param_diff_mut(0)?, true),
            };
            channels.sums_on(cuda, dy, Some(x), sums)?;
        }
        if let Some(i) = self.bias().filter(|&i| io.param_needs_diff(i)) {
            channels.sums_on(cuda, dy, None, (io.param_diff_mut(i)?, true))?;
        }
        if io.in_place() || propagates {
            channels.scale_on(cuda, dy, (s, None), dx, None)?;
        }
        Ok(())
    }

    fn reals(&self) -> Reals {
        Reals::FIRST
    }

    fn orders(&self) -> Orders {
        Channels::orders(&self.axes)
    }
}

fn build(setup: &Setup<'_>, bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.scale_param.as_deref().cloned().unwrap_or_default();
    let axes = Scale::axes(&param, bottoms)?;
    Ok(Box::new(Scale {
        shape: Shape::new(&bottoms[0].dims()[axes.clone()]),
        from_bottom: bottoms.len() == 2,
        param,
        axes,
        saved: Vec::new(),
        saved_layout: Layout::Plain,
        saved_on_device: Scratch::default(),
        sums: Sums::default(),
        zeros: Vec::new(),
    }))
}

/// `Scale`.
pub static DEF: LayerDef = LayerDef::new("Scale", "y = s · x + b along some axes", build)
    .kernels(&[&KERNELS])
    .counts(Count::Between(1, 2), Count::Exactly(1))
    .in_place();
