//! The CPU device: threads, and primitives from oneDNN where that library is found.

pub mod threads;

use crate::device::Step;
use threads::Threads;

/// What a layer computes with on the CPU.
pub struct CpuRun {
    /// Threads of this replica.
    pub threads: Threads,
    /// Plain path only: no Winograd, no private layouts; for bit-comparisons.
    pub exact: bool,
    /// The present step.
    pub step: Step,
}

impl CpuRun {
    /// A CPU device with so many threads; `exact` keeps to the plain path.
    pub fn new(threads: usize, exact: bool) -> Self {
        CpuRun { threads: Threads::new(threads), exact, step: Step::default() }
    }
}
