//! AdaGrad: h ← h + g²; update = rate · g / (√h + delta).

use caffe_proto::SolverParameter;

use super::{At, OnDevice, UpdateRule, update_kernels};
use crate::device::cuda::source::Source;
use crate::{Result, ensure};

struct AdaGrad {
    delta: f32,
}

impl UpdateRule for AdaGrad {
    fn type_name(&self) -> &'static str {
        "AdaGrad"
    }

    fn histories(&self) -> usize {
        1
    }

    fn update(&self, at: At, g: &mut [f32], [h, _]: [&mut [f32]; 2]) {
        for (g, h) in g.iter_mut().zip(h) {
            *h += *g * *g;
            *g = at.rate * *g / (h.sqrt() + self.delta);
        }
    }

    fn on_device(&self, _iter: u64) -> OnDevice {
        OnDevice { kernels: &KERNELS, factor: 1.0, numbers: [self.delta, 0.0, 0.0] }
    }
}

pub(super) static KERNELS: Source = update_kernels!(
    "adagrad",
    r#"
    h0[i] += g * g;
    g = rate * g / (sqrtf(h0[i]) + a);
"#
);

pub(super) fn build(param: &SolverParameter) -> Result<Box<dyn UpdateRule>> {
    ensure!(
        param.momentum() == 0.0,
        "AdaGrad takes no momentum; remove `momentum` from the solver"
    );
    Ok(Box::new(AdaGrad { delta: param.delta() }))
}
