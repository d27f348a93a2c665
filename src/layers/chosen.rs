//! Rows chosen by number, on a CUDA device: what Embed, BatchReindex and Filter have in common.
//!
//! The numbers come from the host, where they have been checked.

use crate::Result;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::Address;
use crate::device::cuda::memory::Scratch;
use crate::device::cuda::source::Source;

/// Kernels of these layers.
pub static KERNELS: Source = Source {
    name: "chosen",
    text: r#"
extern "C" __global__ void gather_rows(int64 n, const float* x, const int* rows, float* y,
                                       int64 len) {
  KERNEL_LOOP(i, n) { y[i] = x[rows[i / len] * len + i % len]; }
}

// A row may be chosen many times. `order` brings these choices together: the block of the first of
// them adds them all, in order.
extern "C" __global__ void scatter_rows(int64 n, const float* dy, const int* rows, const int* order,
                                        float* dx, int64 len) {
  for (int64 first = blockIdx.x; first < n; first += gridDim.x) {
    int row = rows[order[first]];
    if (first > 0 && rows[order[first - 1]] == row) continue;
    for (int64 i = threadIdx.x; i < len; i += blockDim.x) {
      float sum = dx[row * len + i];
      for (int64 k = first; k < n && rows[order[k]] == row; ++k) sum += dy[order[k] * len + i];
      dx[row * len + i] = sum;
    }
  }
}
"#,
    functions: &["gather_rows", "scatter_rows"],
};

/// Numbers of rows in device memory.
#[derive(Default)]
pub struct Chosen {
    rows: Scratch,
    order: Scratch,
}

impl Chosen {
    /// y ← the `rows` of x, each of `len` elements.
    ///
    /// # Errors
    /// A device that failed.
    pub fn gather(
        &mut self,
        cuda: &CudaRun,
        (rows, len): (&[usize], usize),
        x: Address,
        y: Address,
    ) -> Result<()> {
        let at = self.rows.integers(&cuda.device, rows)?;
        let args = [x.into(), at.into(), y.into(), len.into()];
        cuda.each(&KERNELS, "gather_rows", rows.len() * len, &args)
    }

    /// Adds each row of dy to that of dx which it was gathered from.
    ///
    /// # Errors
    /// A device that failed.
    pub fn scatter(
        &mut self,
        cuda: &CudaRun,
        (rows, len): (&[usize], usize),
        dy: Address,
        dx: Address,
    ) -> Result<()> {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|&k| rows[k]);
        let at = self.rows.integers(&cuda.device, rows)?;
        let order = self.order.integers(&cuda.device, &order)?;
        let args = [dy.into(), at.into(), order.into(), dx.into(), len.into()];
        cuda.rows(&KERNELS, "scatter_rows", rows.len(), &args)
    }
}
