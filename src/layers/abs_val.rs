//! AbsVal: y = |x|, element by element, with slope 0 at 0. Not in place, as in Caffe: the gradient
//! needs the bottom's signs.
//!
//! ```text
//! layer { name: "size" type: "AbsVal" bottom: "x" top: "y" }
//! ```

use super::elementwise::cuda::{Unary, UnaryLayer, Value, unary_kernels};
use super::elementwise::{self, AtZero, From};
use super::{CudaLayer, Io, Layer, LayerDef, Setup};
use crate::Result;
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::source::Source;

/// The layer.
struct AbsVal;

/// −1, 0 or 1; of a NaN, too, 0. (`f32::signum` knows no 0.)
pub(super) fn sign(x: f32) -> f32 {
    f32::from(i8::from(x > 0.0) - i8::from(x < 0.0))
}

impl Layer for AbsVal {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        elementwise::forward(run, &io, AtZero::Zero, f32::abs)
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        elementwise::backward(run, &io, From::Bottom, |x, dy| sign(x) * dy)
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source = unary_kernels!("abs_val", "fabsf(x)", "dy * ((v > 0) - (v < 0))");

impl UnaryLayer for AbsVal {
    fn unary(&self) -> Unary {
        Unary { kernels: &KERNELS, numbers: [0.0; 3], value: Value::Bottom }
    }
}

fn build(_setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    Ok(Box::new(AbsVal))
}

/// `AbsVal`.
pub static DEF: LayerDef = LayerDef::new("AbsVal", "y = |x|", build).kernels(&[&KERNELS]);
