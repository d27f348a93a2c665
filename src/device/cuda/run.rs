//! [`CudaRun`]: what a layer computes with on a CUDA device.

use std::cell::RefCell;
use std::rc::Rc;

use super::backend::{Address, Arg, Backend};
use super::memory::Scratch;
use super::source::{BLOCK, Source};
use crate::Result;
use crate::device::cpu::CpuRun;
use crate::device::cpu::gemm::Gemm;

/// Most blocks of a kernel that loops: enough to fill any device, few enough to start quickly.
const MOST: usize = 1 << 16;

/// A device that nets are built on.
#[derive(Clone)]
pub struct CudaDevice(pub Rc<dyn Backend>);

impl std::fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.describe())
    }
}

/// A device, and the host beside it for what has no device code.
pub struct CudaRun {
    /// The device.
    pub device: Rc<dyn Backend>,
    /// Runs data layers, and whatever `--allow-cpu-fallback` allows.
    pub host: CpuRun,
    /// Sums of parts of rows, from one kernel to the next.
    pub partial: RefCell<Scratch>,
}

impl CudaRun {
    /// Runs a kernel over `n` elements. Its first parameter is `long long n`, the others are `args`.
    ///
    /// # Errors
    /// A kernel that does not compile, or a device that failed.
    pub fn each(
        &self,
        source: &'static Source,
        function: &'static str,
        n: usize,
        args: &[Arg],
    ) -> Result<()> {
        if n == 0 {
            return Ok(());
        }
        self.run(source, function, n.div_ceil(BLOCK).min(MOST), n, args)
    }

    /// Runs a kernel with one block for each of `n` rows. Its first parameter is `long long n`, its
    /// rows are `blockIdx.x`, `blockIdx.x + gridDim.x`, … below n.
    ///
    /// # Errors
    /// As [`each`](CudaRun::each).
    pub fn rows(
        &self,
        source: &'static Source,
        function: &'static str,
        n: usize,
        args: &[Arg],
    ) -> Result<()> {
        if n == 0 {
            return Ok(());
        }
        self.run(source, function, n.min(MOST), n, args)
    }

    fn run(
        &self,
        source: &'static Source,
        function: &'static str,
        blocks: usize,
        n: usize,
        args: &[Arg],
    ) -> Result<()> {
        let mut all = smallvec::SmallVec::<[Arg; 16]>::new();
        all.push(Arg::from(n));
        all.extend_from_slice(args);
        self.device.launch(source, function, blocks, &all)
    }

    /// C ← alpha · op(A) · op(B) + beta · C.
    ///
    /// # Errors
    /// A device that failed.
    pub fn product(&self, g: Gemm, a: Address, b: Address, c: Address) -> Result<()> {
        match g.m * g.n {
            0 => Ok(()),
            _ => self.device.product(g, a, b, c),
        }
    }
}
