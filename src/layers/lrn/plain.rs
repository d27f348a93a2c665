//! Own loops: sums over neighbours as sums of whole rows. Plain order; within a channel also channel
//! blocks, whose planes are planes of blocks.

use crate::blob::{Layout, Shape};
use crate::device::cpu::threads::Threads;

/// The formula's constants.
#[derive(Clone, Copy, Debug)]
pub struct Formula {
    /// Neighbours are in the same plane, not in other channels.
    pub within: bool,
    /// Neighbours on either side.
    pub reach: usize,
    /// Factor of the sum of squares, the number of neighbours divided out.
    pub alpha: f32,
    /// The exponent.
    pub beta: f32,
    /// The constant term.
    pub k: f32,
}

/// A formula on blobs of one shape.
pub struct Plain {
    formula: Formula,
    /// Floats of a row of a plane, and from one place to the next in it.
    row: usize,
    step: usize,
    /// Floats of a plane, and of all that can be neighbours of each other: an image or a plane.
    plane: usize,
    unit: usize,
    /// s of the last forward pass.
    scale: Vec<f32>,
    /// What is summed over neighbours.
    terms: Vec<f32>,
}

/// s^−beta, without a logarithm for the usual exponents.
fn power(s: f32, beta: f32) -> f32 {
    if beta == 0.75 {
        let root = s.sqrt();
        1.0 / (root * root.sqrt())
    } else if beta == 0.5 {
        1.0 / s.sqrt()
    } else {
        s.powf(-beta)
    }
}

/// Adds `from` shifted by `by` places to `to`; what would come from outside is 0.
fn add_shifted(to: &mut [f32], from: &[f32], by: isize) {
    let len = to.len() - by.unsigned_abs().min(to.len());
    let (to, from) = if by < 0 {
        (&mut to[..len], &from[from.len() - len..])
    } else {
        let start = to.len() - len;
        (&mut to[start..], &from[..len])
    };
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

impl Plain {
    /// Still without a shape.
    pub fn new(formula: Formula) -> Self {
        let (scale, terms) = (Vec::new(), Vec::new());
        Plain { formula, row: 0, step: 1, plane: 0, unit: 0, scale, terms }
    }

    /// The constants.
    pub fn formula(&self) -> Formula {
        self.formula
    }

    /// Prepares for a bottom with axes N, C, H, W. Neighbours across channels are found in plain
    /// order only.
    pub fn reshape(&mut self, shape: &Shape, layout: Layout) {
        self.step = layout.block();
        self.row = shape[3] * self.step;
        self.plane = shape[2] * self.row;
        self.unit = if self.formula.within { self.plane } else { shape[1] * self.plane };
        let len = layout.padded_len(shape.dims());
        self.scale.resize(len, 0.0);
        self.terms.resize(len, 0.0);
    }

    /// sums ← Σ terms over the neighbours, for one unit. `terms` is spoiled.
    fn sum_neighbours(&self, terms: &mut [f32], sums: &mut [f32]) {
        sums.fill(0.0);
        // Neighbours on one axis are rows of `len` elements: channels, or the rows of a plane.
        let len = if self.formula.within { self.row } else { self.plane };
        let rows = terms.len() / len;
        for (r, sum) in sums.chunks_mut(len).enumerate() {
            for near in r.saturating_sub(self.formula.reach)..(r + self.formula.reach + 1).min(rows)
            {
                add_shifted(sum, &terms[near * len..][..len], 0);
            }
        }
        if self.formula.within {
            // Beyond the row's ends there is nothing.
            let reach = self.formula.reach.min(self.row / self.step).cast_signed();
            for (sum, row) in sums.chunks_mut(len).zip(terms.chunks_mut(len)) {
                row.copy_from_slice(sum);
                for by in (-reach..=reach).filter(|by| *by != 0) {
                    add_shifted(sum, row, by * self.step.cast_signed());
                }
            }
        }
    }

    /// y from x.
    pub fn forward(&mut self, threads: Threads, x: &[f32], y: &mut [f32]) {
        let (mut scale, mut terms) =
            (std::mem::take(&mut self.scale), std::mem::take(&mut self.terms));
        let unit = self.unit;
        let pieces = ((&mut scale[..], unit), (&mut terms[..], unit), (y, unit));
        threads.par_zip3_mut(pieces.0, pieces.1, pieces.2, |i, scale, terms, y| {
            let x = &x[i * unit..][..unit];
            terms.iter_mut().zip(x).for_each(|(t, x)| *t = x * x);
            self.sum_neighbours(terms, scale);
            for ((s, y), x) in scale.iter_mut().zip(y).zip(x) {
                *s = self.formula.k + self.formula.alpha * *s;
                *y = x * power(*s, self.formula.beta);
            }
        });
        (self.scale, self.terms) = (scale, terms);
    }

    /// dx from x and dy.
    pub fn backward(&mut self, threads: Threads, x: &[f32], dy: &[f32], dx: &mut [f32]) {
        let mut terms = std::mem::take(&mut self.terms);
        let unit = self.unit;
        let factor = 2.0 * self.formula.alpha * self.formula.beta;
        threads.par_zip2_mut((&mut terms[..], unit), (dx, unit), |i, terms, dx| {
            let at = i * unit..(i + 1) * unit;
            let (x, dy, scale) = (&x[at.clone()], &dy[at.clone()], &self.scale[at]);
            for (i, t) in terms.iter_mut().enumerate() {
                *t = dy[i] * x[i] * power(scale[i], self.formula.beta) / scale[i];
            }
            self.sum_neighbours(terms, dx);
            for (i, dx) in dx.iter_mut().enumerate() {
                *dx = dy[i] * power(scale[i], self.formula.beta) - factor * x[i] * *dx;
            }
        });
        self.terms = terms;
    }
}
