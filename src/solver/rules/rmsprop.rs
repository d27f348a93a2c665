//! RMSProp: h ← rms_decay · h + (1 − rms_decay) · g²; update = rate · g / (√h + delta).

use caffe_proto::SolverParameter;

use super::{At, OnDevice, UpdateRule, update_kernels};
use crate::device::cuda::source::Source;
use crate::{Result, ensure};

struct RmsProp {
    decay: f32,
    delta: f32,
}

impl UpdateRule for RmsProp {
    fn type_name(&self) -> &'static str {
        "RMSProp"
    }

    fn histories(&self) -> usize {
        1
    }

    fn update(&self, at: At, g: &mut [f32], [h, _]: [&mut [f32]; 2]) {
        for (g, h) in g.iter_mut().zip(h) {
            *h = self.decay * *h + (1.0 - self.decay) * *g * *g;
            *g = at.rate * *g / (h.sqrt() + self.delta);
        }
    }

    fn on_device(&self, _iter: u64) -> OnDevice {
        OnDevice { kernels: &KERNELS, factor: 1.0, numbers: [self.decay, self.delta, 0.0] }
    }
}

pub(super) static KERNELS: Source = update_kernels!(
    "rmsprop",
    r#"
    h0[i] = a * h0[i] + (1 - a) * g * g;
    g = rate * g / (sqrtf(h0[i]) + b);
"#
);

pub(super) fn build(param: &SolverParameter) -> Result<Box<dyn UpdateRule>> {
    ensure!(
        param.momentum() == 0.0,
        "RMSProp takes no momentum; remove `momentum` from the solver"
    );
    let decay = param.rms_decay();
    ensure!((0.0..1.0).contains(&decay), "rms_decay must lie in [0, 1), got {decay}");
    Ok(Box::new(RmsProp { decay, delta: param.delta() }))
}
