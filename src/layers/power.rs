//! Power: y = (shift + scale · x) ^ power, element by element.
//!
//! ```text
//! layer { name: "half" type: "Power" bottom: "x" top: "y" power_param { power: 2 scale: 0.5 shift: 1 } }
//! ```
//! In place only `power: 1` has a gradient, and that is what BVLC Caffe makes of it: the slope is
//! written over the gradient before the gradient is read, so that scale² arrives whatever the loss.
//! Nets that were trained so keep training so; with a top of another name the gradient is right.

use super::elementwise::cuda::{Unary, Value, unary_kernels};
use super::elementwise::{self, AtZero, From};
use super::{CudaLayer, DeviceIo, Io, Layer, LayerDef, Orders, Reals, Setup};
use crate::Result;
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::source::Source;

/// The layer.
struct Power {
    power: f32,
    scale: f32,
    shift: f32,
}

impl Power {
    fn value(&self, x: f32) -> f32 {
        let inner = self.shift + self.scale * x;
        if self.power == 1.0 {
            inner
        } else if self.power == 2.0 {
            inner * inner
        } else {
            inner.powf(self.power)
        }
    }
}

impl Layer for Power {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        elementwise::forward(run, &io, AtZero::of(self.value(0.0)), |x| self.value(x))
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let Power { power, scale, shift } = *self;
        let factor = power * scale;
        if power == 1.0 && io.in_place() {
            return elementwise::backward(run, &io, From::Top, |_, _| factor * factor);
        }
        if power == 1.0 || factor == 0.0 {
            // The value is not looked at.
            return elementwise::backward(run, &io, From::Top, |_, dy| factor * dy);
        }
        elementwise::refuse_in_place(&io)?;
        if power == 2.0 {
            return elementwise::backward(run, &io, From::Bottom, |x, dy| {
                factor * (shift + scale * x) * dy
            });
        }
        elementwise::backward(run, &io, From::Bottom, |x, dy| {
            let slope = factor * (shift + scale * x).powf(power - 1.0);
            // Padding channels bring dy = 0 and possibly an infinite slope.
            if dy == 0.0 { 0.0 } else { slope * dy }
        })
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source = unary_kernels!(
    "power",
    "a == 1 ? c + b * x : a == 2 ? (c + b * x) * (c + b * x) : powf(c + b * x, a)",
    "a * b == 0 ? 0.0f * dy : a == 1 ? a * b * dy : a == 2 ? a * b * (c + b * v) * dy \
     : a * b * powf(c + b * v, a - 1) * dy"
);

/// What in-place learning makes of power 1 (see above).
static SQUARE: Source = unary_kernels!("power_in_place", "c + b * x", "(a * b) * (a * b)");

impl CudaLayer for Power {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let numbers = [self.power, self.scale, self.shift];
        Unary { kernels: &KERNELS, numbers, value: Value::Bottom }.forward(cuda, &io)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let numbers = [self.power, self.scale, self.shift];
        if self.power == 1.0 && io.in_place() {
            return Unary { kernels: &SQUARE, numbers, value: Value::Top }.backward(cuda, &io);
        }
        // Elsewhere the value is not looked at.
        if self.power != 1.0 && self.power * self.scale != 0.0 {
            elementwise::refuse_in_place(&io)?;
        }
        Unary { kernels: &KERNELS, numbers, value: Value::Bottom }.backward(cuda, &io)
    }

    fn reals(&self) -> Reals {
        Reals::FIRST
    }

    fn orders(&self) -> Orders {
        Orders::Bottoms
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.power_param.as_deref().cloned().unwrap_or_default();
    Ok(Box::new(Power { power: param.power(), scale: param.scale(), shift: param.shift() }))
}

/// `Power`.
pub static DEF: LayerDef = LayerDef::new("Power", "y = (shift + scale · x) ^ power", build)
    .kernels(&[&KERNELS, &SQUARE])
    .in_place();
