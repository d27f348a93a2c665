//! Sigmoid: y = 1 / (1 + e^−x), element by element, also in place.
//!
//! ```text
//! layer { name: "gate" type: "Sigmoid" bottom: "x" top: "y" }
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
struct Sigmoid;

/// The function, which other layers use too.
pub(super) fn sigmoid(x: f32) -> f32 {
    // The exponent overflows to infinity at worst, which makes the result 0 as it should be.
    1.0 / (1.0 + (-x).exp())
}

impl Layer for Sigmoid {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        elementwise::forward(run, &io, AtZero::Other, sigmoid)
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        elementwise::backward(run, &io, From::Top, |y, dy| dy * y * (1.0 - y))
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source = unary_kernels!("sigmoid", "1 / (1 + expf(-x))", "dy * v * (1 - v)");

impl UnaryLayer for Sigmoid {
    fn unary(&self) -> Unary {
        Unary { kernels: &KERNELS, numbers: [0.0; 3], value: Value::Top }
    }
}

fn build(_setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    Ok(Box::new(Sigmoid))
}

/// `Sigmoid`.
pub static DEF: LayerDef =
    LayerDef::new("Sigmoid", "y = 1 / (1 + e^-x)", build).kernels(&[&KERNELS]).in_place();
