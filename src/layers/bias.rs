//! Bias: y = x + b with b laid over the bottom from `axis` on, also in place. b is learned, or the
//! second bottom.
//!
//! ```text
//! layer { name: "shift" type: "Bias" bottom: "x" top: "x" bias_param { axis: 1 num_axes: 1 } }
//! ```
//! A learned b has the extents of `num_axes` axes: 1 for one value per channel, 0 for a single
//! value, −1 for all axes from `axis` on. It starts with 0.

use std::ops::Range;

use caffe_proto::BiasParameter;

use super::dims::Around;
use super::per_channel::{Channels, cuda::KERNELS};
use super::{Count, CudaLayer, DeviceIo, Io, Layer, LayerDef, Orders, Reals, Setup, dims};
use crate::Result;
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::params::ParamDef;

/// The layer.
struct Bias {
    param: BiasParameter,
    /// Shape of b.
    shape: Shape,
    /// b is the second bottom.
    from_bottom: bool,
    /// Axes of the bottom that b is laid over.
    axes: Range<usize>,
    partial: Vec<[f64; 1]>,
}

impl Bias {
    fn axes(param: &BiasParameter, bottoms: &[Shape]) -> Result<Range<usize>> {
        match bottoms.get(1) {
            Some(values) => dims::laid_over(&bottoms[0], param.axis(), values),
            None => dims::span(&bottoms[0], param.axis(), param.num_axes()),
        }
    }
}

impl Layer for Bias {
    fn params(&self) -> Vec<ParamDef> {
        if self.from_bottom {
            return Vec::new();
        }
        let filler = self.param.filler.clone().unwrap_or_default();
        vec![ParamDef::learned(self.shape.clone(), filler)]
    }

    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        self.axes = Self::axes(&self.param, bottoms)?;
        let shape = Shape::new(&bottoms[0].dims()[self.axes.clone()]);
        dims::expect("the shape of the bias", &self.shape, &shape)?;
        Ok(vec![bottoms[0].clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let (channels, layout) =
            Channels::over(io.bottom_shape(0), self.axes.clone(), io.bottom_layout(0));
        let b = if self.from_bottom { io.bottom(1)? } else { io.param(0)? };
        if io.in_place() {
            let y = io.top_update_in(0, layout)?;
            channels.update(run.threads(), y, |c, _, x| x + b[c]);
        } else {
            let (x, y) = (io.bottom_in(0, layout)?, io.top_mut_in(0, layout)?);
            channels.update(run.threads(), y, |c, i, _| x[i] + b[c]);
        }
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let (channels, layout) =
            Channels::over(io.bottom_shape(0), self.axes.clone(), io.top_diff_layout(0));
        let dy = io.top_diff_in(0, layout)?;
        let wanted = if self.from_bottom { io.propagate_down(1) } else { io.param_needs_diff(0) };
        if wanted {
            let sums = channels.sums(run.threads(), &mut self.partial, |_, i| [dy[i]]);
            if self.from_bottom {
                let db = io.bottom_diff_mut(1)?;
                db.iter_mut().zip(&sums).for_each(|(db, s)| *db = s[0] as f32);
            } else {
                let db = io.param_diff_mut(0)?;
                db.iter_mut().zip(&sums).for_each(|(db, s)| *db += s[0] as f32);
            }
        }
        if io.propagate_down(0) && !io.in_place() {
            io.bottom_diff_mut_in(0, layout)?.copy_from_slice(dy);
        }
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

impl CudaLayer for Bias {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let channels =
            Channels::plain(Around::on(io.order(), io.bottom_shape(0), self.axes.clone()));
        let b = if self.from_bottom { io.bottom(1)? } else { io.param(0)? };
        let (x, y) = io.through()?;
        channels.add_on(cuda, x, b, y)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let channels =
            Channels::plain(Around::on(io.order(), io.bottom_shape(0), self.axes.clone()));
        let dy = io.top_diff(0)?;
        if self.from_bottom && io.propagate_down(1) {
            channels.sums_on(cuda, dy, None, (io.bottom_diff_mut(1)?, false))?;
        } else if !self.from_bottom && io.param_needs_diff(0) {
            channels.sums_on(cuda, dy, None, (io.param_diff_mut(0)?, true))?;
        }
        if io.propagate_down(0) && !io.in_place() {
            cuda.copy(dy, io.bottom_diff_mut(0)?, io.bottom_shape(0).count())?;
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
    let param = setup.param.bias_param.clone().unwrap_or_default();
    let axes = Bias::axes(&param, bottoms)?;
    Ok(Box::new(Bias {
        shape: Shape::new(&bottoms[0].dims()[axes.clone()]),
        from_bottom: bottoms.len() == 2,
        param: Clone::clone(&param),
        axes,
        partial: Vec::new(),
    }))
}

/// `Bias`.
pub static DEF: LayerDef = LayerDef::new("Bias", "y = x + b along some axes", build)
    .kernels(&[&KERNELS])
    .counts(Count::Between(1, 2), Count::Exactly(1))
    .in_place();
