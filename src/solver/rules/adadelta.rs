//! AdaDelta: s ← momentum · s + (1 − momentum) · g²; u = g · √((delta + t) / (delta + s));
//! t ← momentum · t + (1 − momentum) · u²; update = rate · u.

use caffe_proto::SolverParameter;

use super::{At, OnDevice, UpdateRule, update_kernels};
use crate::Result;
use crate::device::cuda::source::Source;

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

    fn on_device(&self, _iter: u64) -> OnDevice {
        OnDevice { kernels: &KERNELS, factor: 1.0, numbers: [self.momentum, self.delta, 0.0] }
    }
}

pub(super) static KERNELS: Source = update_kernels!(
    "adadelta",
    r#"
    h0[i] = a * h0[i] + (1 - a) * g * g;
    float u = g * sqrtf((b + h1[i]) / (b + h0[i]));
    h1[i] = a * h1[i] + (1 - a) * u * u;
    g = rate * u;
"#
);

pub(super) fn build(param: &SolverParameter) -> Result<Box<dyn UpdateRule>> {
    Ok(Box::new(AdaDelta { momentum: param.momentum(), delta: param.delta() }))
}
