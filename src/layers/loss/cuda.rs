//! What losses share on a CUDA device: the sum of what every record, or every element, costs, and what it is
//! divided by.
//!
//! Labels are judged where they are, on the device ([`Judge`]): one that names no class makes the divisor NaN,
//! so that no update comes of it, and the report says so; the host then looks for it
//! ([`Layer::explain`](crate::layers::Layer::explain)).

use super::Labels;
use crate::Result;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::{Address, Arg};
use crate::device::cuda::memory::Scratch;
use crate::device::cuda::source::{BLOCK, Source};
use crate::device::cuda::sums::{By, Sums};

/// Terms that one block sums up in no time; more are first summed to as many parts as threads.
const FEW: usize = 64 * BLOCK;

/// Kernels of all losses.
pub static KERNELS: Source = Source {
    name: "loss",
    text: r#"
// Sums of terms, those of part p at a distance of n blocks; no matter how many blocks there are.
static __device__ __forceinline__ void parts(int64 n, const float* terms, int64 count, float divisor,
                                             float* sums) {
  for (int64 part = blockIdx.x; part < n; part += gridDim.x) {
    float sum = 0.0f;
    for (int64 i = part * blockDim.x + threadIdx.x; i < count; i += n * blockDim.x) sum += terms[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[part] = sum / divisor;
  }
}
extern "C" __global__ void loss_parts(int64 n, const float* terms, int64 count, float divisor,
                                      float* sums) {
  parts(n, terms, count, divisor, sums);
}
extern "C" __global__ void loss_parts_over(int64 n, const float* terms, int64 count,
                                           const float* divisor, float* sums) {
  parts(n, terms, count, *divisor, sums);
}

// The labels that count, and those that name none of the classes (any, where `classes` is 0): a block a
// part of them.
extern "C" __global__ void count_labels(int64 n, const float* labels, int64 count, int64 classes,
                                        int has_ignore, int ignore, int64 parts, float* sums,
                                        float factor, int accumulate) {
  for (int64 part = blockIdx.x; part < n; part += gridDim.x) {
    float valid = 0.0f, bad = 0.0f;
    PART_LOOP(i, count, part, parts) {
      float label = labels[i];
      // A NaN is no label to ignore.
      if (has_ignore && label == label && (int)label == ignore) continue;
      valid += 1.0f;
      if (classes && !(label == label && (int)label >= 0 && (int)label < classes)) bad += 1.0f;
    }
    valid = block_sum(valid);
    bad = block_sum(bad);
    if (threadIdx.x == 0) {
      put_sum(sums + part, factor * valid, accumulate);
      put_sum(sums + n + part, factor * bad, accumulate);
    }
  }
}
// The divisor: a fixed one, or where that is 0 the number of labels that count.
extern "C" __global__ void judge_labels(int64 n, const float* sums, float fixed, float* divisor,
                                        float* fault) {
  KERNEL_LOOP(i, n) {
    *divisor = fixed > 0.0f ? fixed : fmaxf(sums[0], 1.0f);
    if (sums[1] > 0.0f) {
      *divisor = __uint_as_float(0x7fc00000u);
      *fault = 1.0f;
    }
  }
}
"#,
    functions: &["loss_parts", "loss_parts_over", "count_labels", "judge_labels"],
};

/// What a sum is divided by.
#[derive(Clone, Copy, Debug)]
pub enum Divisor {
    /// A number.
    Fixed(f32),
    /// What the device has found.
    Found(Address),
}

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
        divisor: Divisor,
        loss: Address,
    ) -> Result<()> {
        let (mut terms, mut left) = (self.room(cuda, count)?, count);
        if count > FEW {
            let parts = self.parts.room(&cuda.device, BLOCK)?;
            let args = [terms.into(), count.into(), 1.0.into(), parts.into()];
            cuda.rows(&KERNELS, "loss_parts", BLOCK, &args)?;
            (terms, left) = (parts, BLOCK);
        }
        let (divisor, function) = match divisor {
            Divisor::Fixed(divisor) => (divisor.into(), "loss_parts"),
            Divisor::Found(at) => (at.into(), "loss_parts_over"),
        };
        let args = [terms.into(), left.into(), divisor, loss.into()];
        cuda.rows(&KERNELS, function, 1, &args)
    }
}

/// Judges labels on the device.
#[derive(Default)]
pub struct Judge {
    sums: Scratch,
    divisor: Scratch,
}

impl Judge {
    /// Judges `count` labels, and finds what a loss is divided by: `fixed`, or where that is 0 the number of
    /// labels that count, at least 1.
    ///
    /// # Errors
    /// A device that failed, or without memory.
    pub fn judge(
        &mut self,
        cuda: &CudaRun,
        labels: Labels,
        (at, count): (Address, usize),
        fixed: f32,
    ) -> Result<Divisor> {
        let sums = self.sums.room(&cuda.device, 2)?;
        let [has_ignore, ignore] = labels.ignore_args();
        let args = [at.into(), count.into(), labels.classes.into(), has_ignore, ignore];
        let to = Sums { at: sums, each: 2, factor: 1.0, accumulate: false };
        cuda.sums((&KERNELS, "count_labels", By::Block), (1, count), &args, to)?;
        let divisor = self.divisor.room(&cuda.device, 1)?;
        let fault = cuda.report.fault();
        let args = [sums.into(), fixed.into(), divisor.into(), fault.into()];
        cuda.each(&KERNELS, "judge_labels", 1, &args)?;
        self.found(cuda).map(Divisor::Found)
    }

    /// Where the divisor of the last forward pass is.
    ///
    /// # Errors
    /// A device without memory.
    pub fn found(&mut self, cuda: &CudaRun) -> Result<Address> {
        self.divisor.room(&cuda.device, 1)
    }
}

impl Labels {
    /// Looks at all of them.
    ///
    /// # Errors
    /// When one is no class, as [`class`](Labels::class).
    pub fn check(self, labels: &[f32]) -> Result<()> {
        (0..labels.len()).try_for_each(|i| self.class(labels, i).map(|_| ()))
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
