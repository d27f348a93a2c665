//! SGD with momentum: h ← momentum · h + rate · g; update = h.

use caffe_proto::SolverParameter;

use super::{At, UpdateRule};
use crate::Result;

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
}

pub(super) fn build(param: &SolverParameter) -> Result<Box<dyn UpdateRule>> {
    Ok(Box::new(Sgd { momentum: param.momentum() }))
}
