//! Adam: m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) g²;
//! update = rate · √(1 − β₂ᵗ) / (1 − β₁ᵗ) · m / (√v + delta), with t = iteration + 1,
//! β₁ = `momentum`, β₂ = `momentum2`.

use caffe_proto::SolverParameter;

use super::{At, OnDevice, UpdateRule, update_kernels};
use crate::device::cuda::source::Source;
use crate::{Result, ensure};

struct Adam {
    beta1: f32,
    beta2: f32,
    delta: f32,
}

impl Adam {
    /// What makes up for histories that start from zero.
    fn correction(&self, iter: u64) -> f32 {
        let t = (iter + 1) as f64;
        let (b1, b2) = (f64::from(self.beta1), f64::from(self.beta2));
        ((1.0 - b2.powf(t)).sqrt() / (1.0 - b1.powf(t))) as f32
    }
}

impl UpdateRule for Adam {
    fn type_name(&self) -> &'static str {
        "Adam"
    }

    fn histories(&self) -> usize {
        2
    }

    fn update(&self, at: At, g: &mut [f32], [m, v]: [&mut [f32]; 2]) {
        let (b1, b2) = (self.beta1, self.beta2);
        let rate = at.rate * self.correction(at.iter);
        for ((g, m), v) in g.iter_mut().zip(m).zip(v) {
            *m = b1 * *m + (1.0 - b1) * *g;
            *v = b2 * *v + (1.0 - b2) * *g * *g;
            *g = rate * *m / (v.sqrt() + self.delta);
        }
    }

    fn on_device(&self, iter: u64) -> OnDevice {
        let numbers = [self.beta1, self.beta2, self.delta];
        OnDevice { kernels: &KERNELS, factor: self.correction(iter), numbers }
    }
}

pub(super) static KERNELS: Source = update_kernels!(
    "adam",
    r#"
    h0[i] = a * h0[i] + (1 - a) * g;
    h1[i] = b * h1[i] + (1 - b) * g * g;
    g = rate * h0[i] / (sqrtf(h1[i]) + c);
"#
);

pub(super) fn build(param: &SolverParameter) -> Result<Box<dyn UpdateRule>> {
    let (beta1, beta2) = (param.momentum(), param.momentum2());
    for (name, beta) in [("momentum", beta1), ("momentum2", beta2)] {
        ensure!((0.0..1.0).contains(&beta), "Adam needs {name} in [0, 1), got {beta}");
    }
    Ok(Box::new(Adam { beta1, beta2, delta: param.delta() }))
}
