//! BNLL, the binomial normal log likelihood (today called softplus): y = ln(1 + e^x), element by
//! element.
//!
//! ```text
//! layer { name: "smooth" type: "BNLL" bottom: "x" top: "y" }
//! ```
//! In place the gradient is what BVLC Caffe makes of it: the slope is taken at y, since x is gone.
//! Nets that were trained so keep training so; with a top of another name the gradient is right.

use super::elementwise::cuda::{Unary, UnaryLayer, Value, unary_kernels};
use super::elementwise::{self, AtZero, From};
use super::sigmoid::sigmoid;
use super::{CudaLayer, Io, Layer, LayerDef, Setup};
use crate::Result;
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::source::Source;

/// The layer.
struct Bnll;

/// ln(1 + e^x), with an exponent that cannot overflow; losses use it, too.
pub(super) fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

impl Layer for Bnll {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        elementwise::forward(run, &io, AtZero::Other, softplus)
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        elementwise::backward(run, &io, From::Bottom, |x, dy| dy * sigmoid(x))
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source =
    unary_kernels!("bnll", "fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x)))", "dy / (1 + expf(-v))");

impl UnaryLayer for Bnll {
    fn unary(&self) -> Unary {
        Unary { kernels: &KERNELS, numbers: [0.0; 3], value: Value::Bottom }
    }
}

fn build(_setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    Ok(Box::new(Bnll))
}

/// `BNLL`.
pub static DEF: LayerDef =
    LayerDef::new("BNLL", "y = ln(1 + e^x)", build).kernels(&[&KERNELS]).in_place();
