//! Plain-layout matrix multiplication: inner products, and convolutions without a blocked kernel.

use super::context::Context;
use super::error::{Result, check};
use crate::device::cpu::gemm::{Gemm, check_operands};

impl Context {
    /// C ← alpha · op(A) · op(B) + beta · C in row-major order, on this replica's threads, with
    /// oneDNN's compiled kernels. The arguments are those of [`crate::device::cpu::gemm::sgemm`].
    ///
    /// # Errors
    /// Where a slice is too short for its matrix.
    pub fn sgemm(&self, g: Gemm, a: &[f32], b: &[f32], c: &mut [f32]) -> Result<()> {
        check_operands(g, a.len(), b.len(), c.len())?;
        if g.m == 0 || g.n == 0 {
            return Ok(());
        }
        self.enter();
        let flag = |transposed| if transposed { b'T' } else { b'N' }.cast_signed();
        let dim = |size: usize| i64::try_from(size).unwrap_or(i64::MAX);
        // SAFETY: `check_operands` has shown that every element the call touches lies in its slice.
        let status = unsafe {
            self.api().dnnl_sgemm(
                flag(g.transa),
                flag(g.transb),
                dim(g.m),
                dim(g.n),
                dim(g.k),
                g.alpha,
                a.as_ptr(),
                dim(g.lda),
                b.as_ptr(),
                dim(g.ldb),
                g.beta,
                c.as_mut_ptr(),
                dim(g.ldc),
            )
        };
        check(status, "dnnl_sgemm", || format!("{g:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use crate::device::cpu::gemm::{Gemm, naive_sgemm};

    #[test]
    fn agrees_with_three_loops_for_every_transposition() {
        let Some(cx) = testing::context(2) else { return };
        for (m, n, k) in [(1, 1, 1), (7, 10, 33), (64, 48, 100), (3, 130, 5)] {
            for (transa, transb) in [(false, false), (false, true), (true, false), (true, true)] {
                let g = Gemm { alpha: 0.5, beta: 2.0, ..Gemm::dense(transa, transb, m, n, k) };
                let (a, b) = (testing::noise(m * k, 1), testing::noise(k * n, 2));
                let mut found = testing::noise(m * n, 3);
                let mut wanted = found.clone();
                cx.sgemm(g, &a, &b, &mut found).unwrap();
                naive_sgemm(g, &a, &b, &mut wanted);
                testing::assert_close(&format!("{g:?}"), &found, &wanted, 1e-5);
            }
        }
    }

    #[test]
    fn short_slices_are_refused() {
        let Some(cx) = testing::context(1) else { return };
        let g = Gemm::dense(false, false, 4, 5, 6);
        let error = cx.sgemm(g, &[0.0; 24], &[0.0; 29], &mut [0.0; 20]).unwrap_err().to_string();
        assert!(error.contains("29") && error.contains("30"), "{error}");
    }
}
