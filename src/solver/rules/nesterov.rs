//! Nesterov's accelerated gradient: h' ← momentum · h + rate · g;
//! update = (1 + momentum) · h' − momentum · h.

use caffe_proto::SolverParameter;

use super::{At, OnDevice, UpdateRule, update_kernels};
use crate::Result;
use crate::device::cuda::source::Source;

struct Nesterov {
    momentum: f32,
}

impl UpdateRule for Nesterov {
    fn type_name(&self) -> &'static str {
        "Nesterov"
    }

    fn histories(&self) -> usize {
        1
    }

    fn update(&self, at: At, g: &mut [f32], [h, _]: [&mut [f32]; 2]) {
        let m = self.momentum;
        for (g, h) in g.iter_mut().zip(h) {
            let before = *h;
            *h = m * before + at.rate * *g;
            *g = (1.0 + m) * *h - m * before;
        }
    }

    fn on_device(&self, _iter: u64) -> OnDevice {
        OnDevice { kernels: &KERNELS, factor: 1.0, numbers: [self.momentum, 0.0, 0.0] }
    }
}

pub(super) static KERNELS: Source = update_kernels!(
    "nesterov",
    r#"
    float before = h0[i];
    h0[i] = a * before + rate * g;
    g = (1 + a) * h0[i] - a * before;
"#
);

pub(super) fn build(param: &SolverParameter) -> Result<Box<dyn UpdateRule>> {
    Ok(Box::new(Nesterov { momentum: param.momentum() }))
}
