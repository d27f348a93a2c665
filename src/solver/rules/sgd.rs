//! SGD with momentum: h ← momentum · h + rate · g; update = h.

use caffe_proto::SolverParameter;

use super::{At, OnDevice, UpdateRule, update_kernels};
use crate::Result;
use crate::device::cuda::source::Source;

struct Sgd {
    momentum: f32,
}

impl UpdateRule for Sgd {
    fn type_name(&self) -> &'static str {
        "SGD"
    }

    fn histories(&self) -> usize {
        1
    }

    fn update(&self, at: At, g: &mut [f32], [h, _]: [&mut [f32]; 2]) {
        for (g, h) in g.iter_mut().zip(h) {
            *h = self.momentum * *h + at.rate * *g;
            *g = *h;
        }
    }

    fn on_device(&self, _iter: u64) -> OnDevice {
        OnDevice { kernels: &KERNELS, factor: 1.0, numbers: [self.momentum, 0.0, 0.0] }
    }
}

pub(super) static KERNELS: Source = update_kernels!(
    "sgd",
    r#"
    h0[i] = a * h0[i] + rate * g;
    g = h0[i];
"#
);

pub(super) fn build(param: &SolverParameter) -> Result<Box<dyn UpdateRule>> {
    Ok(Box::new(Sgd { momentum: param.momentum() }))
}
