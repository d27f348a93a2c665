//! Softmax: y_c = e^(x_c) / Σ_k e^(x_k) along `axis`.
//!
//! ```text
//! layer { name: "prob" type: "Softmax" bottom: "fc8" top: "prob" softmax_param { axis: 1 } }
//! ```
//! `engine` makes no difference.

use super::dims::Around;
use super::{Io, Layer, LayerDef, Setup};
use crate::Result;
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cpu::threads::Threads;

/// The layer.
struct Softmax {
    axis: i32,
    around: Around,
}

/// y = softmax(x) along the middle extent; for losses, too.
pub(super) fn softmax(threads: Threads, around: Around, x: &[f32], y: &mut [f32]) {
    let Around { extent, inner, .. } = around;
    threads.par_chunks_mut(y, extent * inner, |n, y| {
        let x = &x[n * extent * inner..][..extent * inner];
        for at in 0..inner {
            let column = || x[at..].iter().step_by(inner);
            // Without its largest value no exponent overflows.
            let largest = column().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
            let mut sum = 0.0;
            for (y, &x) in y[at..].iter_mut().step_by(inner).zip(column()) {
                *y = (x - largest).exp();
                sum += *y;
            }
            y[at..].iter_mut().step_by(inner).for_each(|y| *y /= sum);
        }
    });
}

impl Layer for Softmax {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        self.around = Around::of(&bottoms[0], bottoms[0].axis(self.axis)?);
        Ok(vec![bottoms[0].clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        softmax(run.threads(), self.around, io.bottom(0)?, io.top_mut(0)?);
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let Around { extent, inner, .. } = self.around;
        let (y, dy, dx) = (io.top(0)?, io.top_diff(0)?, io.bottom_diff_mut(0)?);
        run.threads().par_chunks_mut(dx, extent * inner, |n, dx| {
            let at = n * extent * inner..(n + 1) * extent * inner;
            let (y, dy) = (&y[at.clone()], &dy[at]);
            for at in 0..inner {
                let pairs = || y[at..].iter().zip(&dy[at..]).step_by(inner);
                let dot: f32 = pairs().map(|(y, dy)| y * dy).sum();
                for (dx, (y, dy)) in dx[at..].iter_mut().step_by(inner).zip(pairs()) {
                    *dx = y * (dy - dot);
                }
            }
        });
        Ok(())
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.softmax_param.as_deref().cloned().unwrap_or_default();
    Ok(Box::new(Softmax { axis: param.axis(), around: Around::default() }))
}

/// `Softmax`.
pub static DEF: LayerDef = LayerDef::new("Softmax", "y_c = e^x_c / sum of e^x along axis", build);
