//! Log: y = log_base(shift + scale · x), element by element. A base of −1, the default, stands for
//! e. In place it cannot learn: the gradient needs x.
//!
//! ```text
//! layer { name: "decades" type: "Log" bottom: "x" top: "y" log_param { base: 10 scale: 2 shift: 1 } }
//! ```

use super::elementwise::cuda::{Unary, Value, unary_kernels};
use super::elementwise::{self, AtZero, From};
use super::exp::ln_base;
use super::{CudaLayer, DeviceIo, Io, Layer, LayerDef, Orders, Reals, Setup};
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::source::Source;
use crate::{Result, ensure};

/// The layer: y = outer · ln(shift + scale · x).
struct Log {
    outer: f32,
    scale: f32,
    shift: f32,
}

impl Log {
    fn value(&self, x: f32) -> f32 {
        self.outer * (self.shift + self.scale * x).ln()
    }
}

impl Layer for Log {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        elementwise::forward(run, &io, AtZero::of(self.value(0.0)), |x| self.value(x))
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        elementwise::refuse_in_place(&io)?;
        let Log { outer, scale, shift } = *self;
        let factor = outer * scale;
        elementwise::backward(run, &io, From::Bottom, |x, dy| {
            let slope = factor / (shift + scale * x);
            // Padding channels bring dy = 0 and possibly an infinite slope.
            if dy == 0.0 { 0.0 } else { slope * dy }
        })
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source =
    unary_kernels!("log_layer", "a * logf(c + b * x)", "a * b / (c + b * v) * dy");

impl Log {
    fn unary(&self) -> Unary {
        let numbers = [self.outer, self.scale, self.shift];
        Unary { kernels: &KERNELS, numbers, value: Value::Bottom }
    }
}

impl CudaLayer for Log {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        self.unary().forward(cuda, &io)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        elementwise::refuse_in_place(&io)?;
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
    let param = setup.param.log_param.as_deref().cloned().unwrap_or_default();
    let ln_base = ln_base(param.base())?;
    ensure!(ln_base != 0.0, "there is no logarithm to base 1");
    Ok(Box::new(Log { outer: 1.0 / ln_base, scale: param.scale(), shift: param.shift() }))
}

/// `Log`.
pub static DEF: LayerDef =
    LayerDef::new("Log", "y = log_base(shift + scale · x)", build).kernels(&[&KERNELS]).in_place();

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{input, message, net, set, values};

    #[test]
    fn no_logarithm_to_base_one() {
        let x = input("x", &[2]);
        let text = format!(
            "{x} layer {{ name: 'l' type: 'Log' bottom: 'x' top: 'y' log_param {{ base: 1 }} }}"
        );
        assert!(message(&text).contains("base 1"));
    }

    #[test]
    fn in_place_it_computes_but_does_not_learn() {
        let x = input("x", &[2]);
        let text = format!("{x} layer {{ name: 'l' type: 'Log' bottom: 'x' top: 'x' }}");
        let mut test = net(&text, Phase::Test);
        set(&mut test, "x", &[1.0, 4.0]);
        test.forward().unwrap();
        assert_eq!(values(&mut test, "x"), [0.0, 4f32.ln()]);

        let mut train = net(&format!("force_backward: true {text}"), Phase::Train);
        set(&mut train, "x", &[1.0, 4.0]);
        train.forward().unwrap();
        let message = train.backward().unwrap_err().to_string();
        assert!(message.contains("cannot learn in place"), "{message}");
    }
}
