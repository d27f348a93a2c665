//! [`CpuRun`]: one replica's share of the CPU.

use super::gemm::{self, Gemm};
use super::onednn;
use super::threads::Threads;
use crate::Result;
use crate::device::Step;

/// What a layer computes with on the CPU.
pub struct CpuRun {
    /// Threads of this replica.
    pub threads: Threads,
    /// oneDNN for the fast path; `None` where the library is missing or bits matter more than
    /// speed (`--exact`): then everything is plain loops.
    pub onednn: Option<onednn::Context>,
    /// The present step.
    pub step: Step,
}

impl CpuRun {
    /// A CPU device with so many threads; `exact` keeps to the plain path.
    pub fn new(threads: usize, exact: bool) -> Self {
        let threads = Threads::new(threads);
        let onednn = if exact { None } else { onednn::Context::new(threads).ok() };
        CpuRun { threads, onednn, step: Step::default() }
    }

    /// Matrix product on this replica's threads, by the fastest means there is.
    ///
    /// # Errors
    /// Slices too short for their matrices.
    pub fn sgemm(&self, g: Gemm, a: &[f32], b: &[f32], c: &mut [f32]) -> Result<()> {
        match &self.onednn {
            // With B alone transposed, as W is in inner products, oneDNN is only half as fast as
            // the `gemm` crate.
            Some(onednn) if g.transa || !g.transb => onednn.sgemm(g, a, b, c)?,
            _ => gemm::sgemm(self.threads, g, a, b, c)?,
        }
        Ok(())
    }
}
