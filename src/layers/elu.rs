//! ELU, the exponential linear unit: y = x for x > 0, else alpha · (e^x − 1), element by element,
//! also in place.
//!
//! ```text
//! layer { name: "elu1" type: "ELU" bottom: "conv1" top: "conv1" elu_param { alpha: 1 } }
//! ```
//! Below 0 the slope is alpha · e^x = y + alpha. Which side it was y tells as long as alpha ≥ 0;
//! below, in-place layers cannot learn.

use super::elementwise::cuda::{Unary, Value, unary_kernels};
use super::elementwise::{self, AtZero, From};
use super::{CudaLayer, DeviceIo, Io, Layer, LayerDef, Orders, Reals, Setup};
use crate::Result;
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::source::Source;

/// The layer.
struct Elu {
    alpha: f32,
}

impl Layer for Elu {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let alpha = self.alpha;
        elementwise::forward(
            run,
            &io,
            AtZero::Zero,
            |x| {
                if x > 0.0 { x } else { alpha * x.exp_m1() }
            },
        )
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let alpha = self.alpha;
        if alpha >= 0.0 {
            return elementwise::backward(run, &io, From::Top, |y, dy| {
                dy * if y > 0.0 { 1.0 } else { y + alpha }
            });
        }
        elementwise::refuse_in_place(&io)?;
        elementwise::backward(run, &io, From::Bottom, |x, dy| {
            dy * if x > 0.0 { 1.0 } else { alpha * x.exp() }
        })
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source = unary_kernels!(
    "elu",
    "x > 0 ? x : a * expm1f(x)",
    // b: v is the top.
    "dy * (v > 0 ? 1.0f : b != 0 ? v + a : a * expf(v))"
);

impl Elu {
    fn unary(&self) -> Unary {
        let from_top = self.alpha >= 0.0;
        let value = if from_top { Value::Top } else { Value::Bottom };
        let numbers = [self.alpha, f32::from(u8::from(from_top)), 0.0];
        Unary { kernels: &KERNELS, numbers, value }
    }
}

impl CudaLayer for Elu {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        self.unary().forward(cuda, &io)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if self.alpha < 0.0 {
            elementwise::refuse_in_place(&io)?;
        }
        self.unary().backward(cuda, &io)
    }

    fn reals(&self) -> Reals {
        Reals::FIRST
    }

    fn orders(&self) -> Orders {
        Orders::Bottoms
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.elu_param.as_deref().cloned().unwrap_or_default();
    Ok(Box::new(Elu { alpha: param.alpha() }))
}

/// `ELU`.
pub static DEF: LayerDef = LayerDef::new("ELU", "y = x above 0, alpha · (e^x - 1) below", build)
    .kernels(&[&KERNELS])
    .in_place();
