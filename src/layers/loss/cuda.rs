//! What losses share on a CUDA device: the sum of what every record, or every element, costs.
//!
//! Labels are checked on the host, where they come from; kernels rely on that.

use super::{Labels, is_ignored};
use crate::Result;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::{Address, Arg};
use crate::device::cuda::memory::Scratch;
use crate::device::cuda::source::BLOCK;
use crate::device::cuda::source::Source;

/// Terms that one block sums up in no time; more are first summed to as many parts as threads.
const FEW: usize = 64 * BLOCK;

/// Kernels of all losses.
pub static KERNELS: Source = Source {
    name: "loss",
    text: r#"
// Sums of terms, those of part p at a distance of n blocks; no matter how many blocks there are.
extern "C" __global__ void loss_parts(int64 n, const float* terms, int64 count, float divisor,
                                      float* sums) {
  for (int64 part = blockIdx.x; part < n; part += gridDim.x) {
    float sum = 0.0f;
    for (int64 i = part * blockDim.x + threadIdx.x; i < count; i += n * blockDim.x) sum += terms[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[part] = sum / divisor;
  }
}
"#,
    functions: &["loss_parts"],
};

/// What records or elements cost.
#[derive(Default)]
pub struct Terms {
    each: Scratch,
    parts: Scratch,
}

impl Terms {
    /// Room for `count` terms.
    ///
    /// # Errors
    /// A device without memory.
    pub fn room(&mut self, cuda: &CudaRun, count: usize) -> Result<Address> {
        self.each.room(&cuda.device, count)
    }

    /// loss ← the sum of the `count` terms / divisor.
    ///
    /// # Errors
    /// A device that failed.
    pub fn total(
        &mut self,
        cuda: &CudaRun,
        count: usize,
        divisor: f32,
        loss: Address,
    ) -> Result<()> {
        let (mut terms, mut left) = (self.room(cuda, count)?, count);
        if count > FEW {
            let parts = self.parts.room(&cuda.device, BLOCK)?;
            let args = [terms.into(), count.into(), 1.0.into(), parts.into()];
            cuda.rows(&KERNELS, "loss_parts", BLOCK, &args)?;
            (terms, left) = (parts, BLOCK);
        }
        let args = [terms.into(), left.into(), divisor.into(), loss.into()];
        cuda.rows(&KERNELS, "loss_parts", 1, &args)
    }
}

impl Labels {
    /// How many labels count.
    ///
    /// # Errors
    /// When one is no class, as [`class`](Labels::class).
    pub fn count(self, labels: &[f32]) -> Result<usize> {
        let mut valid = 0;
        for i in 0..labels.len() {
            valid += usize::from(self.class(labels, i)?.is_some());
        }
        Ok(valid)
    }

    /// `int has_ignore, int ignore` of a kernel.
    pub fn ignore_args(self) -> [Arg; 2] {
        ignore_args(self.ignore)
    }
}

/// `int has_ignore, int ignore` of a kernel.
pub fn ignore_args(ignore: Option<i32>) -> [Arg; 2] {
    [i32::from(ignore.is_some()).into(), ignore.unwrap_or(0).into()]
}

/// How many targets count.
pub fn targets(ignore: Option<i32>, targets: &[f32]) -> usize {
    targets.iter().filter(|target| !is_ignored(ignore, **target)).count()
}
