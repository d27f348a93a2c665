//! ReLU: y = max(x, 0) + negative_slope · min(x, 0), element by element, also in place.
//!
//! ```text
//! layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" relu_param { negative_slope: 0 } }
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
struct Relu {
    negative_slope: f32,
    /// The convolution before it has done the forward pass.
    fused: bool,
}

/// What x and its gradient are multiplied by. A choice of values, not of ways: in place, two ways
/// would become a store on one of them only, which compilers do not vectorize.
fn factor(x: f32, slope: f32) -> f32 {
    if x > 0.0 { 1.0 } else { slope }
}

impl Layer for Relu {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if self.fused {
            return Ok(());
        }
        let slope = self.negative_slope;
        // Not `max`, which would turn a NaN into 0 and hide it.
        elementwise::forward(run, &io, AtZero::Zero, |x| x * factor(x, slope))
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let slope = self.negative_slope;
        elementwise::backward(run, &io, From::Bottom, |x, dy| dy * factor(x, slope))
    }

    fn set_fused(&mut self) {
        self.fused = true;
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source =
    unary_kernels!("relu", "x * (x > 0 ? 1.0f : a)", "dy * (v > 0 ? 1.0f : a)");

impl UnaryLayer for Relu {
    fn unary(&self) -> Unary {
        Unary { kernels: &KERNELS, numbers: [self.negative_slope, 0.0, 0.0], value: Value::Bottom }
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.relu_param.as_deref().cloned().unwrap_or_default();
    Ok(Box::new(Relu { negative_slope: param.negative_slope(), fused: false }))
}

/// `ReLU`.
pub static DEF: LayerDef =
    LayerDef::new("ReLU", "y = max(x, 0) + negative_slope · min(x, 0)", build)
        .kernels(&[&KERNELS])
        .in_place();
