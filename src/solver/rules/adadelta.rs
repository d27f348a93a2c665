//! AdaDelta: s ← momentum · s + (1 − momentum) · g²; u = g · √((delta + t) / (delta + s));
//! t ← momentum · t + (1 − momentum) · u²; update = rate · u.

use caffe_proto::SolverParameter;

use super::{At, UpdateRule};
use crate::Result;

struct AdaDelta {
    momentum: f32,
    delta: f32,
}

impl UpdateRule for AdaDelta {
    fn type_name(&self) -> &'static str {
        "AdaDelta"
    }

    fn histories(&self) -> usize {
        2
    }

    fn update(&self, at: At, g: &mut [f32], [s, t]: [&mut [f32]; 2]) {
        let m = self.momentum;
        for ((g, s), t) in g.iter_mut().zip(s).zip(t) {
            *s = m * *s + (1.0 - m) * *g * *g;
            let u = *g * ((self.delta + *t) / (self.delta + *s)).sqrt();
            *t = m * *t + (1.0 - m) * u * u;
            *g = at.rate * u;
        }
    }
}

pub(super) fn build(param: &SolverParameter) -> Result<Box<dyn UpdateRule>> {
    Ok(Box::new(AdaDelta { momentum: param.momentum(), delta: param.delta() }))
}
