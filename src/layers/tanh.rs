//! TanH: y = tanh(x), element by element, also in place.
//!
//! ```text
//! layer { name: "squash" type: "TanH" bottom: "x" top: "y" }
//! ```
//! `engine` makes no difference.

use super::elementwise::cuda::{Unary, UnaryLayer, Value, unary_kernels};
use super::elementwise::{self, AtZero, From};
use super::{CudaLayer, Io, Layer, LayerDef, Setup};
use crate::Result;
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::source::Source;

/// The layer.
struct TanH;

impl Layer for TanH {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        elementwise::forward(run, &io, AtZero::Zero, f32::tanh)
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        elementwise::backward(run, &io, From::Top, |y, dy| dy * (1.0 - y * y))
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source = unary_kernels!("tanh", "tanhf(x)", "dy * (1 - v * v)");

impl UnaryLayer for TanH {
    fn unary(&self) -> Unary {
        Unary { kernels: &KERNELS, numbers: [0.0; 3], value: Value::Top }
    }
}

fn build(_setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    Ok(Box::new(TanH))
}

/// `TanH`.
pub static DEF: LayerDef =
    LayerDef::new("TanH", "y = tanh(x)", build).kernels(&[&KERNELS]).in_place();
