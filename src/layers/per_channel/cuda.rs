//! The same on a CUDA device, for blobs in plain order: element i belongs to channel
//! i / inner mod channels.

use super::Channels;
use crate::Result;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::{Address, Arg};
use crate::device::cuda::divisor::Divisor;
use crate::device::cuda::source::Source;

/// Kernels of Scale, Bias, BatchNorm and the biases of convolutions and inner products.
pub static KERNELS: Source = Source {
    name: "per_channel",
    text: r#"
// y = x + b of the channel; with relu, zero where that is negative.
extern "C" __global__ void channel_add(int64 n, const real* x, const float* b, real* y,
                                       Divisor channels, Divisor inner, int relu) {
  KERNEL_LOOP(i, n) {
    float value = x[i] + b[rest(over(i, inner), channels)];
    y[i] = relu ? RELU(value) : value;
  }
}

// y = s * x + b of the channel; kept = x.
extern "C" __global__ void channel_scale(int64 n, const real* x, const float* s, const float* b,
                                         real* y, real* kept, Divisor channels, Divisor inner,
                                         int has_b, int keep) {
  KERNEL_LOOP(i, n) {
    uint32 c = rest(over(i, inner), channels);
    float value = x[i];
    if (keep) kept[i] = value;
    y[i] = s[c] * value + (has_b ? b[c] : 0.0f);
  }
}

// sums = (sums if accumulate) + the sum of x, or of x * w, over each channel: a block a channel.
extern "C" __global__ void channel_sums(int64 n, const real* x, const real* w, float* sums,
                                        int64 outer, int64 inner, int weighted, int accumulate) {
  for (int64 c = blockIdx.x; c < n; c += gridDim.x) {
    float sum = 0.0f;
    for (int64 i = threadIdx.x; i < outer * inner; i += blockDim.x) {
      int64 at = (i / inner * n + c) * inner + i % inner;
      sum += weighted ? x[at] * w[at] : x[at];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[c] = accumulate ? sums[c] + sum : sum;
  }
}

// The same where a channel's elements lie far apart: a thread a channel, neighbours side by side.
extern "C" __global__ void column_sums(int64 n, const real* x, const real* w, float* sums,
                                       int64 rows, int weighted, int accumulate) {
  KERNEL_LOOP(c, n) {
    float sum = 0.0f;
    for (int64 r = 0; r < rows; ++r) {
      int64 at = r * n + c;
      sum += weighted ? x[at] * w[at] : x[at];
    }
    sums[c] = accumulate ? sums[c] + sum : sum;
  }
}
"#,
    functions: &["channel_add", "channel_scale", "channel_sums", "column_sums"],
};

impl Channels {
    /// y = x + b of the channel, also in place.
    ///
    /// # Errors
    /// A device that failed.
    pub fn add_on(self, cuda: &CudaRun, x: Address, b: Address, y: Address) -> Result<()> {
        self.add_then_on(cuda, x, b, y, false)
    }

    /// The same, and then perhaps a ReLU.
    ///
    /// # Errors
    /// A device that failed.
    pub fn add_then_on(
        self,
        cuda: &CudaRun,
        x: Address,
        b: Address,
        y: Address,
        relu: bool,
    ) -> Result<()> {
        let [channels, inner] = self.divisors();
        let relu = Arg::Int(i32::from(relu));
        let args = [x.into(), b.into(), y.into(), channels, inner, relu];
        cuda.each(&KERNELS, "channel_add", self.elements(), &args)
    }

    fn divisors(self) -> [Arg; 2] {
        [self.channels, self.inner].map(|extent| Divisor::new(extent).into())
    }

    /// y = s · x + b of the channel, also in place; x into `kept`, where there is one.
    ///
    /// # Errors
    /// A device that failed.
    pub fn scale_on(
        self,
        cuda: &CudaRun,
        x: Address,
        (s, b): (Address, Option<Address>),
        y: Address,
        kept: Option<Address>,
    ) -> Result<()> {
        let flag = |there: bool| Arg::Int(i32::from(there));
        let [channels, inner] = self.divisors();
        let args = [
            x.into(),
            s.into(),
            b.unwrap_or(s).into(),
            y.into(),
            kept.unwrap_or(y).into(),
            channels,
            inner,
            flag(b.is_some()),
            flag(kept.is_some()),
        ];
        cuda.each(&KERNELS, "channel_scale", self.elements(), &args)
    }

    /// The sums over each channel of x, or of x · w; added to what is there, or instead of it.
    ///
    /// # Errors
    /// A device that failed.
    pub fn sums_on(
        self,
        cuda: &CudaRun,
        x: Address,
        w: Option<Address>,
        (sums, accumulate): (Address, bool),
    ) -> Result<()> {
        let flags = [w.is_some(), accumulate].map(|there| Arg::Int(i32::from(there)));
        let arrays = [x.into(), w.unwrap_or(x).into(), sums.into()];
        let [x, w, sums]: [Arg; 3] = arrays;
        if self.inner == 1 {
            let args = [x, w, sums, self.outer.into(), flags[0], flags[1]];
            return cuda.each(&KERNELS, "column_sums", self.channels, &args);
        }
        let args = [x, w, sums, self.outer.into(), self.inner.into(), flags[0], flags[1]];
        cuda.rows(&KERNELS, "channel_sums", self.channels, &args)
    }

    fn elements(self) -> usize {
        self.outer * self.channels * self.inner
    }
}
