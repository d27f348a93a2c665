//! Exp: y = base ^ (shift + scale · x), element by element, also in place. A base of −1, the
//! default, stands for e.
//!
//! ```text
//! layer { name: "grow" type: "Exp" bottom: "x" top: "y" exp_param { base: 2 scale: 0.5 shift: 1 } }
//! ```

use super::elementwise::cuda::{Unary, UnaryLayer, Value, unary_kernels};
use super::elementwise::{self, AtZero, From};
use super::{CudaLayer, Io, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::source::Source;
use crate::{Result, ensure};

/// The layer: y = outer · e^(inner · x).
struct Exp {
    inner: f32,
    outer: f32,
}

/// The natural logarithm of a `base` in prototxt, where −1 stands for e. Of Log's base, too.
///
/// # Errors
/// When there is none.
pub(super) fn ln_base(base: f32) -> Result<f32> {
    if base == -1.0 {
        return Ok(1.0);
    }
    ensure!(
        base > 0.0 && base.is_finite(),
        "base must be above 0, or -1 which stands for e; got {base}"
    );
    Ok(base.ln())
}

impl Layer for Exp {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let Exp { inner, outer } = *self;
        elementwise::forward(run, &io, AtZero::Other, |x| outer * (inner * x).exp())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let inner = self.inner;
        elementwise::backward(run, &io, From::Top, |y, dy| inner * y * dy)
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source = unary_kernels!("exp_layer", "b * expf(a * x)", "a * v * dy");

impl UnaryLayer for Exp {
    fn unary(&self) -> Unary {
        Unary { kernels: &KERNELS, numbers: [self.inner, self.outer, 0.0], value: Value::Top }
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.exp_param.as_deref().cloned().unwrap_or_default();
    let ln_base = ln_base(param.base())?;
    Ok(Box::new(Exp { inner: ln_base * param.scale(), outer: (ln_base * param.shift()).exp() }))
}

/// `Exp`.
pub static DEF: LayerDef =
    LayerDef::new("Exp", "y = base ^ (shift + scale · x)", build).kernels(&[&KERNELS]).in_place();

#[cfg(test)]
mod tests {
    use crate::layers::testing::{input, message};

    #[test]
    fn a_base_has_a_logarithm() {
        for base in ["0", "-2", "inf", "nan"] {
            let x = input("x", &[2]);
            let text = format!(
                "{x} layer {{ name: 'e' type: 'Exp' bottom: 'x' top: 'y' exp_param {{ base: {base} }} }}"
            );
            assert!(message(&text).contains("base must be above 0"), "{base}");
        }
    }
}
