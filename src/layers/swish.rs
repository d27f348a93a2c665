//! Swish: y = x · σ(beta · x) with σ(t) = 1 / (1 + e^−t), element by element, also in place.
//!
//! ```text
//! layer { name: "swish1" type: "Swish" bottom: "conv1" top: "conv1" swish_param { beta: 1 } }
//! ```
//! The gradient: with s = σ(beta · x), dy · (s + beta · x · s · (1 − s)). In place x is kept for it.

use super::elementwise::cuda::{Unary, Value, unary_kernels};
use super::elementwise::{self, AtZero, From, Kept};
use super::sigmoid::sigmoid;
use super::{CudaLayer, DeviceIo, Io, Layer, LayerDef, Orders, Reals, Setup};
use crate::Result;
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::memory::Scratch;
use crate::device::cuda::source::Source;

/// The layer.
struct Swish {
    beta: f32,
    kept: Kept,
    kept_on_device: Scratch,
}

impl Layer for Swish {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let beta = self.beta;
        elementwise::forward_keeping(run, &io, AtZero::Zero, &mut self.kept, |x| {
            x * sigmoid(beta * x)
        })
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let beta = self.beta;
        elementwise::backward(run, &io, From::Kept(&self.kept), |x, dy| {
            let s = sigmoid(beta * x);
            dy * (s + beta * x * s * (1.0 - s))
        })
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source = unary_kernels!(
    "swish",
    "x / (1 + expf(-a * x))",
    "dy * (1 + a * v * (1 - 1 / (1 + expf(-a * v)))) / (1 + expf(-a * v))"
);

impl Swish {
    fn unary(&self) -> Unary {
        Unary { kernels: &KERNELS, numbers: [self.beta, 0.0, 0.0], value: Value::Bottom }
    }
}

impl CudaLayer for Swish {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        self.unary().forward_keeping(cuda, &io, &mut self.kept_on_device)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        self.unary().backward_kept(cuda, &io, &mut self.kept_on_device)
    }

    fn reals(&self) -> Reals {
        Reals::FIRST
    }

    fn orders(&self) -> Orders {
        Orders::Bottoms
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.swish_param.as_deref().cloned().unwrap_or_default();
    Ok(Box::new(Swish {
        beta: param.beta(),
        kept: Kept::default(),
        kept_on_device: Scratch::default(),
    }))
}

/// `Swish`.
pub static DEF: LayerDef =
    LayerDef::new("Swish", "y = x · sigmoid(beta · x)", build).kernels(&[&KERNELS]).in_place();
