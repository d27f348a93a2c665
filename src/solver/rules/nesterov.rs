//! Nesterov's accelerated gradient: h' ← momentum · h + rate · g;
//! update = (1 + momentum) · h' − momentum · h.

use caffe_proto::SolverParameter;

use super::{At, UpdateRule};
use crate::Result;

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
}

pub(super) fn build(param: &SolverParameter) -> Result<Box<dyn UpdateRule>> {
    Ok(Box::new(Nesterov { momentum: param.momentum() }))
}
