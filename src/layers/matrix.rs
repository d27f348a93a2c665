//! Matrix multiplication for the plain paths: row-major matrices without gaps.
//!
//! The result's bits depend on the operands only: C is cut into panels of a fixed number of rows,
//! and each panel is one sequential multiplication, whichever thread makes it.

use crate::device::cpu::threads::Threads;

/// Rows of C per task.
const ROWS: usize = 64;

/// One multiplication: C ← A · B, or C ← C + A · B. A is M×K, B is K×N, C is M×N.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    m: usize,
    n: usize,
    k: usize,
    a_transposed: bool,
    b_transposed: bool,
    accumulate: bool,
}

impl Product {
    /// C ← A · B.
    pub fn new(m: usize, n: usize, k: usize) -> Self {
        Product { m, n, k, a_transposed: false, b_transposed: false, accumulate: false }
    }

    /// A is stored as K×M.
    pub fn a_transposed(self) -> Self {
        Product { a_transposed: true, ..self }
    }

    /// B is stored as N×K.
    pub fn b_transposed(self) -> Self {
        Product { b_transposed: true, ..self }
    }

    /// Added to what C holds.
    pub fn accumulate(self) -> Self {
        Product { accumulate: true, ..self }
    }

    /// Runs it. The slices hold at least the matrices.
    pub fn run(self, threads: Threads, a: &[f32], b: &[f32], c: &mut [f32]) {
        let Product { m, n, k, .. } = self;
        let (a, b, c) = (&a[..m * k], &b[..k * n], &mut c[..m * n]);
        if k == 0 && !self.accumulate {
            return c.fill(0.0);
        }
        threads.par_chunks_mut(c, ROWS * n, |i, c| self.panel(i * ROWS, a, b, c));
    }

    /// The rows of C from `row` on that the slice `c` holds.
    fn panel(self, row: usize, a: &[f32], b: &[f32], c: &mut [f32]) {
        let Product { m, n, k, .. } = self;
        let rows = c.len() / n;
        let (a_row, a_column) = if self.a_transposed { (1, m) } else { (k, 1) };
        let (b_row, b_column) = if self.b_transposed { (1, k) } else { (n, 1) };
        let a = &a[row * a_row..];
        // SAFETY: `run` has cut a to M·K elements, b to K·N and c to whole rows of N elements of C,
        // so that every element addressed by these extents and strides lies in its slice: the last
        // of a is (row + rows − 1)·a_row + (k − 1)·a_column < M·K, and likewise for b and c.
        unsafe {
            gemm::gemm(
                rows,
                n,
                k,
                c.as_mut_ptr(),
                1,
                n.cast_signed(),
                self.accumulate,
                a.as_ptr(),
                a_column.cast_signed(),
                a_row.cast_signed(),
                b.as_ptr(),
                b_column.cast_signed(),
                b_row.cast_signed(),
                1.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(len: usize, step: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * step) % 23) as f32 / 11.0 - 1.0).collect()
    }

    #[test]
    fn agrees_with_three_loops() {
        for (m, n, k) in [(1, 1, 1), (5, 7, 3), (130, 30, 40), (3, 4, 0)] {
            for flags in 0..8 {
                let (ta, tb, add) = (flags & 1 == 1, flags & 2 == 2, flags & 4 == 4);
                let g = Product { m, n, k, a_transposed: ta, b_transposed: tb, accumulate: add };
                let (a, b) = (ramp(m * k, 7), ramp(k * n, 5));
                let before = ramp(m * n, 3);
                let mut c = before.clone();
                g.run(Threads::new(2), &a, &b, &mut c);
                for i in 0..m {
                    for j in 0..n {
                        let at = |l| {
                            let x = if ta { a[l * m + i] } else { a[i * k + l] };
                            x * if tb { b[j * k + l] } else { b[l * n + j] }
                        };
                        let sum: f32 = (0..k).map(at).sum();
                        let wanted = sum + if add { before[i * n + j] } else { 0.0 };
                        assert!((c[i * n + j] - wanted).abs() < 1e-4, "{g:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_number_of_threads() {
        let (a, b) = (ramp(300 * 77, 7), ramp(77 * 52, 5));
        let run = |threads| {
            let mut c = vec![0.0; 300 * 52];
            Product::new(300, 52, 77).run(threads, &a, &b, &mut c);
            c.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        };
        assert_eq!(run(Threads::new(2)), run(Threads::one()));
    }
}
