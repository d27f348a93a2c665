//! Sums over rows on a device: by a block or a thread for each row, and where rows are few and long by
//! many for each and then over their sums.
//!
//! Into how many parts a row is cut follows from shapes alone, and every sum is made in one order
//! without atomic operations: the same values give the same bits.

use super::CudaRun;
use super::backend::{Address, Arg};
use super::source::{BLOCK, Source};
use crate::Result;

/// Blocks that fill the largest devices: eight of 256 threads on each of 132 multiprocessors.
pub(super) const ENOUGH: usize = 8 * 132;
/// Fewest elements of a row in a part that a block sums.
const OF_BLOCK: usize = 16 * BLOCK;
/// Fewest elements of a row in a part that a thread sums.
const OF_THREAD: usize = 32;

/// The sums of parts to sums of rows.
pub static KERNELS: Source = Source {
    name: "sums",
    text: r#"
// y = (y if accumulate) + factor * the sum of n rows of `parts` floats: a block a row.
extern "C" __global__ void sum_parts(int64 n, const float* x, int64 parts, float* y, float factor,
                                     int accumulate) {
  for (int64 row = blockIdx.x; row < n; row += gridDim.x) {
    float sum = 0.0f;
    for (int64 i = threadIdx.x; i < parts; i += blockDim.x) sum += x[row * parts + i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) put_sum(y + row, factor * sum, accumulate);
  }
}
"#,
    functions: &["sum_parts"],
};

/// Who sums a part of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// A block: the elements of a row lie together.
    Block,
    /// A thread, beside those of other rows: elements of different rows lie together.
    Thread,
}

impl By {
    /// Parts of each of `rows` rows of `len` elements.
    fn parts(self, rows: usize, len: usize) -> usize {
        let (wanted, least) = match self {
            By::Block => (ENOUGH, OF_BLOCK),
            By::Thread => (ENOUGH * BLOCK, OF_THREAD),
        };
        wanted.div_ceil(rows.max(1)).min(len / least).max(1)
    }
}

/// What becomes of the sums.
#[derive(Clone, Copy, Debug)]
pub struct Sums {
    /// Where they go: the first of every row, then the second of every row, …
    pub at: Address,
    /// Sums that the kernel makes of a row.
    pub each: usize,
    /// What they are multiplied with.
    pub factor: f32,
    /// Whether they are added to what is there.
    pub accumulate: bool,
}

impl CudaRun {
    /// Sums `rows` rows of `len` elements with a kernel whose parameters are `long long n`, `args`,
    /// and at last `long long parts, float* sums, float factor, int accumulate`. Of its n = rows · parts
    /// items, which are blocks or threads, item b is for part b mod `parts` of row b / `parts`, and puts
    /// factor · its sum to sums\[b\] (a second one to sums\[n + b\]), or adds it there.
    ///
    /// # Errors
    /// A kernel that does not compile, or a device that failed.
    pub fn sums(
        &self,
        (source, function, by): (&'static Source, &'static str, By),
        (rows, len): (usize, usize),
        args: &[Arg],
        to: Sums,
    ) -> Result<()> {
        let parts = by.parts(rows, len);
        let run = |to: Sums| {
            let mut all = smallvec::SmallVec::<[Arg; 20]>::from_slice(args);
            all.extend([parts.into(), to.at.into(), to.factor.into(), flag(to.accumulate)]);
            match by {
                By::Block => self.rows(source, function, rows * parts, &all),
                By::Thread => self.each(source, function, rows * parts, &all),
            }
        };
        if parts == 1 {
            return run(to);
        }
        let at = self.partial.borrow_mut().room(&self.device, rows * parts * to.each)?;
        run(Sums { at, factor: 1.0, accumulate: false, ..to })?;
        let args = [at.into(), parts.into(), to.at.into(), to.factor.into(), flag(to.accumulate)];
        self.rows(&KERNELS, "sum_parts", rows * to.each, &args)
    }
}

fn flag(set: bool) -> Arg {
    Arg::Int(i32::from(set))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_where_they_are_few_and_long() {
        // A convolution's bias: 64 channels of 128 images of 112 x 112.
        let parts = By::Block.parts(64, 128 * 112 * 112);
        assert!((ENOUGH..2 * ENOUGH).contains(&(64 * parts)), "{parts}");
        assert_eq!(By::Block.parts(1, 1 << 30), ENOUGH);
        for (rows, len) in [(64, 1000), (ENOUGH, 1 << 20), (1 << 20, 1 << 20), (0, 0), (1, 8191)] {
            assert_eq!(By::Block.parts(rows, len), 1, "{rows} {len}");
        }
        // An inner product's bias: 1000 outputs of 256 records.
        assert_eq!(By::Thread.parts(1000, 256), 8);
        assert_eq!(By::Thread.parts(1 << 20, 256), 1);
    }
}
