//! Clip: y = x, but at least `min` and at most `max`, element by element; both must be given.
//!
//! ```text
//! layer { name: "relu6" type: "Clip" bottom: "x" top: "y" clip_param { min: 0 max: 6 } }
//! ```
//! The gradient passes where min ≤ x ≤ max. In place, where x is gone, it passes everywhere, as it
//! does in BVLC Caffe: a clipped value lies within the limits, too.

use super::elementwise::cuda::{Unary, UnaryLayer, Value, unary_kernels};
use super::elementwise::{self, AtZero, From};
use super::{CudaLayer, Io, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::source::Source;
use crate::{Result, bail, ensure};

/// The layer.
struct Clip {
    min: f32,
    max: f32,
}

impl Clip {
    /// A NaN stays one.
    fn value(&self, x: f32) -> f32 {
        if x < self.min {
            self.min
        } else if x > self.max {
            self.max
        } else {
            x
        }
    }
}

impl Layer for Clip {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        elementwise::forward(run, &io, AtZero::of(self.value(0.0)), |x| self.value(x))
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let Clip { min, max } = *self;
        let inside = |x: f32| if x >= min && x <= max { 1.0 } else { 0.0 };
        elementwise::backward(run, &io, From::Bottom, |x, dy| dy * inside(x))
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source =
    unary_kernels!("clip", "x < a ? a : x > b ? b : x", "v >= a && v <= b ? dy : 0.0f * dy");

impl UnaryLayer for Clip {
    fn unary(&self) -> Unary {
        Unary { kernels: &KERNELS, numbers: [self.min, self.max, 0.0], value: Value::Bottom }
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let Some(param) = &setup.param.clip_param else { bail!("needs a clip_param with min and max") };
    let (min, max) = (param.min, param.max);
    ensure!(min <= max, "clip_param: min {min} must not be above max {max}");
    Ok(Box::new(Clip { min, max }))
}

/// `Clip`.
pub static DEF: LayerDef = LayerDef::new("Clip", "y = x, at least min and at most max", build)
    .kernels(&[&KERNELS])
    .in_place();

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{gradient, input, message, net, set, values};

    fn text(top: &str, param: &str) -> String {
        let x = input("x", &[5]);
        format!(
            "force_backward: true {x} \
             layer {{ name: 'c' type: 'Clip' bottom: 'x' top: '{top}' {param} }}"
        )
    }

    #[test]
    fn limits_belong_to_the_range_and_a_nan_stays() {
        let mut net = net(&text("y", "clip_param { min: -1 max: 2 }"), Phase::Train);
        set(&mut net, "x", &[-3.0, -1.0, 2.0, 2.5, f32::NAN]);
        net.forward().unwrap();
        let y = values(&mut net, "y");
        assert_eq!(y[..4], [-1.0, -1.0, 2.0, 2.0]);
        assert!(y[4].is_nan());
        let id = net.blob("y").unwrap();
        net.diff_mut(id).unwrap().fill(3.0);
        net.backward().unwrap();
        assert_eq!(gradient(&mut net, "x"), [0.0, 3.0, 3.0, 0.0, 0.0]);
    }

    #[test]
    fn in_place_the_gradient_passes_everywhere() {
        let mut net = net(&text("x", "clip_param { min: -1 max: 2 }"), Phase::Train);
        set(&mut net, "x", &[-3.0, -1.0, 0.0, 2.5, 9.0]);
        net.forward().unwrap();
        assert_eq!(values(&mut net, "x"), [-1.0, -1.0, 0.0, 2.0, 2.0]);
        let id = net.blob("x").unwrap();
        net.diff_mut(id).unwrap().fill(3.0);
        net.backward().unwrap();
        assert_eq!(gradient(&mut net, "x"), [3.0; 5]);
    }

    #[test]
    fn needs_its_limits_in_order() {
        assert!(message(&text("y", "")).contains("needs a clip_param with min and max"));
        let crossed = message(&text("y", "clip_param { min: 2 max: 1 }"));
        assert!(crossed.contains("min 2 must not be above max 1"), "{crossed}");
    }
}
