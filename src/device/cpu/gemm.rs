//! Plain-layout matrix multiplication in Rust, through the `gemm` crate.
//!
//! What runs where oneDNN is missing and under `--exact`, and the oracle of the fast path. The
//! result depends on the operands only, not on the number of threads: C is cut into panels of a
//! fixed size and each panel is one sequential multiplication.
//!
//! The sums are made in an order in which a BLAS of today makes them: fused multiply-adds along K,
//! in blocks of at most 320, each added to C. Rounding decides on which side of zero a value falls
//! that is zero but for rounding, and a ReLU makes something of that; so this order is what lets a
//! long run be compared with one of BVLC Caffe. (The length was found by trial: of 256, 320, 384
//! and 512 it is the one with which the recorded runs agree to their end.)
//!
//! ```
//! use caffe::device::cpu::{gemm::{Gemm, sgemm}, threads::Threads};
//! let (a, b) = ([1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 0.0, 1.0]);
//! let mut c = [0.0; 4];
//! sgemm(Threads::one(), Gemm::dense(false, false, 2, 2, 2), &a, &b, &mut c)?;
//! assert_eq!(c, a);
//! # Ok::<(), caffe::device::cpu::onednn::Error>(())
//! ```

use smallvec::SmallVec;

use super::onednn::Error;
use super::threads::Threads;

/// Rows and columns of a panel of C: small enough that the narrow products of inner products (a
/// batch by some outputs) make several.
const PANEL: [usize; 2] = [128, 64];

/// Longest run of K that is summed before it is added to C.
const BLOCK: usize = 320;

/// A block of B the other way round: at most [`BLOCK`] by a panel's columns, on the stack.
type Turned = SmallVec<[f32; 0x8000]>;

/// Elements of C up to which the crate takes a way of its own.
const SMALL: usize = 256;

/// The blocks of K, `(start, length)`: full ones while two of them are left, then halves of the
/// rest.
fn blocks(k: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let left = k - start;
        let len = match left {
            0 => return None,
            left if left >= 2 * BLOCK => BLOCK,
            left if left > BLOCK => left.div_ceil(2),
            left => left,
        };
        start += len;
        Some((start - len, len))
    })
}

/// One multiplication C ← alpha · op(A) · op(B) + beta · C. op(A) is M×K, op(B) is K×N, C is M×N;
/// matrices are row-major and `ld*` is the distance of two rows *as stored*. With `beta` 0, C is
/// only written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gemm {
    /// A is stored K×M.
    pub transa: bool,
    /// B is stored N×K.
    pub transb: bool,
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Length of the sums.
    pub k: usize,
    /// Factor of the product.
    pub alpha: f32,
    /// Row distance of A.
    pub lda: usize,
    /// Row distance of B.
    pub ldb: usize,
    /// Factor of the old C.
    pub beta: f32,
    /// Row distance of C.
    pub ldc: usize,
}

impl Gemm {
    /// A multiplication of matrices stored without gaps, alpha 1, beta 0.
    pub fn dense(transa: bool, transb: bool, m: usize, n: usize, k: usize) -> Self {
        let (lda, ldb) = (if transa { m } else { k }, if transb { k } else { n });
        Self { transa, transb, m, n, k, alpha: 1.0, lda, ldb, beta: 0.0, ldc: n }
    }

    /// The same, added to what C holds.
    #[must_use]
    pub fn accumulate(self) -> Self {
        Self { beta: 1.0, ..self }
    }
}

/// Checks that matrices of these lengths hold every element `g` touches.
pub(super) fn check_operands(g: Gemm, a: usize, b: usize, c: usize) -> Result<(), Error> {
    let (a_rows, a_cols) = if g.transa { (g.k, g.m) } else { (g.m, g.k) };
    let (b_rows, b_cols) = if g.transb { (g.n, g.k) } else { (g.k, g.n) };
    let operands = [
        ("A", a, a_rows, a_cols, g.lda),
        ("B", b, b_rows, b_cols, g.ldb),
        ("C", c, g.m, g.n, g.ldc),
    ];
    for (argument, found, rows, cols, ld) in operands {
        if rows == 0 || cols == 0 {
            continue;
        }
        let wanted = (rows - 1) * ld + cols;
        if found < wanted {
            let what = format!("a matrix multiplication {g:?}");
            return Err(Error::Length { what, argument, wanted, found });
        }
        if ld < cols {
            let what = format!("a matrix multiplication {g:?}");
            return Err(Error::Unsupported { what, reason: "a row distance is below the row" });
        }
    }
    Ok(())
}

/// Runs `g`.
///
/// # Errors
/// Where a slice is too short for its matrix.
pub fn sgemm(threads: Threads, g: Gemm, a: &[f32], b: &[f32], c: &mut [f32]) -> Result<(), Error> {
    check_operands(g, a.len(), b.len(), c.len())?;
    if g.m == 0 || g.n == 0 {
        return Ok(());
    }
    if g.k == 0 {
        for row in c.chunks_mut(g.ldc).take(g.m) {
            row[..g.n].iter_mut().for_each(|c| *c = if g.beta == 0.0 { 0.0 } else { *c * g.beta });
        }
        return Ok(());
    }
    let panels = [g.m.div_ceil(PANEL[0]), g.n.div_ceil(PANEL[1])];
    let out = Output(c.as_mut_ptr());
    threads.limited(g.m * g.n * g.k, 1 << 16).parallel_for(panels[0] * panels[1], |i| {
        let (row, column) = (i / panels[1] * PANEL[0], i % panels[1] * PANEL[1]);
        let rows = PANEL[0].min(g.m - row);
        let columns = PANEL[1].min(g.n - column);
        let (a_row, a_column) = if g.transa { (1, g.lda) } else { (g.lda, 1) };
        let (b_row, b_column) = if g.transb { (1, g.ldb) } else { (g.ldb, 1) };
        let mut beta = g.beta;
        let mut turned = Turned::new();
        for (from, len) in blocks(g.k) {
            let a = &a[row * a_row + from * a_column..];
            let b = &b[column * b_column + from * b_row..];
            // Where both run along K the crate adds small products up in another order.
            let turn = a_column == 1 && b_row == 1 && rows * columns <= SMALL;
            if turn {
                turned.clear();
                turned
                    .extend((0..len * columns).map(|at| b[at / columns + at % columns * b_column]));
            }
            let (b, b_row, b_column) =
                if turn { (&turned[..], columns, 1) } else { (b, b_row, b_column) };
            // SAFETY: `check_operands` has shown that all elements of the three matrices lie in
            // their slices (`turned` holds all of its block); panels of C are disjoint, so each
            // thread writes its own elements.
            unsafe {
                gemm::gemm(
                    rows,
                    columns,
                    len,
                    out.at(row * g.ldc + column),
                    1,
                    g.ldc.cast_signed(),
                    beta != 0.0,
                    a.as_ptr(),
                    a_column.cast_signed(),
                    a_row.cast_signed(),
                    b.as_ptr(),
                    b_column.cast_signed(),
                    b_row.cast_signed(),
                    beta,
                    g.alpha,
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
            }
            beta = 1.0;
        }
    });
    Ok(())
}

/// C, written by several threads in disjoint panels.
struct Output(*mut f32);

// SAFETY: see `sgemm`: every thread writes elements of its own panels only.
unsafe impl Sync for Output {}

impl Output {
    /// # Safety
    /// `offset` lies within C.
    unsafe fn at(&self, offset: usize) -> *mut f32 {
        // SAFETY: promised by the caller.
        unsafe { self.0.add(offset) }
    }
}

/// The definition, in double precision.
#[cfg(test)]
pub(super) fn naive_sgemm(g: Gemm, a: &[f32], b: &[f32], c: &mut [f32]) {
    for i in 0..g.m {
        for j in 0..g.n {
            let sum: f64 = (0..g.k)
                .map(|l| {
                    let x = if g.transa { a[l * g.lda + i] } else { a[i * g.lda + l] };
                    let y = if g.transb { b[j * g.ldb + l] } else { b[l * g.ldb + j] };
                    f64::from(x) * f64::from(y)
                })
                .sum();
            let old = &mut c[i * g.ldc + j];
            let kept = if g.beta == 0.0 { 0.0 } else { g.beta * *old };
            *old = kept + g.alpha * sum as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order of the sums, in which a run can be compared with one of BVLC Caffe.
    #[test]
    fn adds_along_k_in_blocks() {
        let number = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 1009.0 - 0.5;
        for (m, n, k) in [(32, 75, 1024), (16, 10, 2048), (5, 70, 75), (130, 3, 800)] {
            for (transa, transb) in [(false, false), (false, true), (true, false)] {
                let g = Gemm::dense(transa, transb, m, n, k).accumulate();
                let a: Vec<f32> = (0..m * k).map(number).collect();
                let b: Vec<f32> = (0..n * k).map(|i| number(i + 5)).collect();
                let mut c: Vec<f32> = (0..m * n).map(|i| number(3 * i)).collect();
                let old = c.clone();
                sgemm(Threads::one(), g, &a, &b, &mut c).unwrap();
                for (at, c) in c.iter().enumerate() {
                    let (i, j) = (at / n, at % n);
                    let mut wanted = old[at];
                    for (from, len) in blocks(k) {
                        wanted += (from..from + len).fold(0.0, |sum: f32, l| {
                            let x = if transa { a[l * m + i] } else { a[i * k + l] };
                            let y = if transb { b[j * k + l] } else { b[l * n + j] };
                            x.mul_add(y, sum)
                        });
                    }
                    assert_eq!(*c, wanted, "{g:?} at {i}, {j}");
                }
            }
        }
    }

    #[test]
    fn blocks_cover_k() {
        for (k, wanted) in [
            (0, vec![]),
            (320, vec![(0, 320)]),
            (321, vec![(0, 161), (161, 160)]),
            (1024, vec![(0, 320), (320, 320), (640, 192), (832, 192)]),
        ] {
            assert_eq!(blocks(k).collect::<Vec<_>>(), wanted, "{k}");
        }
    }

    fn ramp(len: usize, step: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * step) % 23) as f32 / 11.0 - 1.0).collect()
    }

    #[test]
    fn agrees_with_three_loops() {
        for (m, n, k) in [(1, 1, 1), (5, 7, 3), (130, 300, 40), (0, 4, 2), (4, 4, 0)] {
            for flags in 0..4 {
                let dense = Gemm::dense(flags & 1 == 1, flags & 2 == 2, m, n, k);
                for g in [dense, Gemm { alpha: -0.5, beta: 0.25, ..dense }, dense.accumulate()] {
                    let (a, b) = (ramp(m * k, 7), ramp(k * n, 5));
                    let mut found = ramp(m * n, 3);
                    let mut wanted = found.clone();
                    sgemm(Threads::new(2), g, &a, &b, &mut found).unwrap();
                    naive_sgemm(g, &a, &b, &mut wanted);
                    for (f, w) in found.iter().zip(&wanted) {
                        assert!((f - w).abs() < 1e-4, "{g:?}: {f} {w}");
                    }
                }
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_number_of_threads() {
        let g = Gemm::dense(false, true, 300, 520, 77);
        let (a, b) = (ramp(g.m * g.k, 7), ramp(g.k * g.n, 5));
        let run = |threads| {
            let mut c = vec![0.0; g.m * g.n];
            sgemm(threads, g, &a, &b, &mut c).unwrap();
            c.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        };
        let alone = run(Threads::one());
        assert_eq!(run(Threads::new(2)), alone);
        assert_eq!(run(Threads::without_openmp(3)), alone);
    }

    #[test]
    fn beta_zero_ignores_what_c_held() {
        let mut c = [f32::NAN; 1];
        sgemm(Threads::one(), Gemm::dense(false, false, 1, 1, 1), &[2.0], &[3.0], &mut c).unwrap();
        assert_eq!(c, [6.0]);
    }

    #[test]
    fn gaps_between_rows_are_left_alone() {
        let g = Gemm { ldc: 3, ..Gemm::dense(false, false, 2, 2, 1) };
        let mut c = [9.0; 6];
        sgemm(Threads::one(), g, &[1.0, 2.0], &[3.0, 4.0], &mut c).unwrap();
        assert_eq!(c, [3.0, 4.0, 9.0, 6.0, 8.0, 9.0]);
        assert!(sgemm(Threads::one(), g, &[1.0], &[3.0, 4.0], &mut c).is_err());
        let overlapping = Gemm { ldc: 1, ..g };
        assert!(sgemm(Threads::one(), overlapping, &[1.0, 2.0], &[3.0, 4.0], &mut c).is_err());
    }
}
