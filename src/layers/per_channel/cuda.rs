//! The same on a CUDA device: element i belongs to channel i / inner mod channels. Where channels are last,
//! inner is 1.

use std::ops::Range;

use super::Channels;
use crate::Result;
use crate::device::cuda::backend::{Address, Arg};
use crate::device::cuda::divisor::Divisor;
use crate::device::cuda::source::Source;
use crate::device::cuda::sums::{By, Sums};
use crate::device::cuda::{CudaRun, Order};
use crate::layers::Orders;

/// Kernels of Scale, Bias, BatchNorm and the biases of convolutions and inner products.
pub static KERNELS: Source = Source {
    name: "per_channel",
    text: r#"
// y = x + b of the channel; with relu, zero where that is negative.
extern "C" __global__ void channel_add(int64 n, const real* x, const float* b, real* y,
                                       Divisor channels, Divisor inner, int relu) {
  each_of_channels(n, y, channels, inner, [=](uint32 c) { return b[c]; },
                   [=](float shift, float v) -> float {
    float value = v + shift;
    return relu ? RELU(value) : value;
  }, x);
}

struct Line { float slope, shift; };

// y = s * x + b of the channel; kept = x.
extern "C" __global__ void channel_scale(int64 n, const real* x, const float* s, const float* b,
                                         real* y, real* kept, Divisor channels, Divisor inner,
                                         int has_b, int keep) {
  auto line = [=](uint32 c) { return Line{s[c], has_b ? b[c] : 0.0f}; };
  auto value = [](Line of, float v) -> float { return of.slope * v + of.shift; };
  if (!keep) {
    each_of_channels(n, y, channels, inner, line, value, x);
  } else {
    auto same = [](Line, float v) -> float { return v; };
    keep_of_channels(n, x, kept, y, channels, inner, line, same, value);
  }
}

// The sums of x, or of x * w, over the channels: a block a part of a channel.
extern "C" __global__ void channel_sums(int64 n, const real* x, const real* w, int64 channels,
                                        int64 outer, Divisor inner, int weighted, int64 parts,
                                        float* sums, float factor, int accumulate) {
  for (int64 b = blockIdx.x; b < n; b += gridDim.x) {
    float sum = 0.0f;
    PART_LOOP(i, outer * NUMBER(inner), b % parts, parts) {
      int64 at = channel_element(i, b / parts, channels, inner);
      sum += weighted ? x[at] * w[at] : x[at];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) put_sum(sums + b, factor * sum, accumulate);
  }
}

// The same where a channel's elements lie far apart.
extern "C" __global__ void column_sums(int64 n, const real* x, const real* w, int64 channels,
                                       int64 rows, int weighted, int64 parts, float* sums,
                                       float factor, int accumulate) {
  auto none = [](int64) { return 0; };
  if (weighted)
    column_sums_of<1>(n, channels, rows, parts, sums, factor, accumulate, none,
                      [](int, float* sum, float v, float u) { sum[0] += v * u; }, x, w);
  else
    column_sums_of<1>(n, channels, rows, parts, sums, factor, accumulate, none,
                      [](int, float* sum, float v) { sum[0] += v; }, x);
}

// The gradient in front of a ReLU whose top is y, in the place of the one behind it.
extern "C" __global__ void relu_back(int64 n, const real* y, real* dy) {
  each_number(n, dy, [](float v, float slope) -> float { return v > 0 ? slope : 0.0f; }, y, dy);
}

// The same where channels are last, and its sums over them. Rows go by fours: the compiler does not read
// ahead of what is written.
#define ROWS 4
template <int W>
static __device__ __forceinline__ void relu_sums(int64 n, const real* y, real* dy, int64 channels,
                                                 int64 count, int64 parts, float* to, float factor,
                                                 int accumulate) {
  int64 rows = (count + parts - 1) / parts, groups = channels / W;
  KERNEL_LOOP(i, n / W) {
    int64 part = i / groups, c = W * (i - part * groups), end = min((part + 1) * rows, count);
    float sums[W] = {};
    for (int64 r = part * rows; r < end; r += ROWS) {
      Pack<W> value[ROWS], slope[ROWS];
#pragma unroll
      for (int k = 0; k < ROWS; ++k)
        if (r + k < end) {
          value[k] = pack<W>(y, (r + k) * channels + c);
          slope[k] = pack<W>(dy, (r + k) * channels + c);
        }
#pragma unroll
      for (int k = 0; k < ROWS; ++k)
        if (r + k < end) {
          for (int j = 0; j < W; ++j) {
            float s = value[k].at[j] > 0 ? (float)slope[k].at[j] : 0.0f;
            slope[k].at[j] = s;
            sums[j] += s;
          }
          put(dy, (r + k) * channels + c, slope[k]);
        }
    }
    for (int j = 0; j < W; ++j) put_sum(to + (c + j) * parts + part, factor * sums[j], accumulate);
  }
}
extern "C" __global__ void relu_back_sums(int64 n, const real* y, real* dy, int64 channels,
                                          int64 count, int64 parts, float* sums, float factor,
                                          int accumulate) {
  if (packed(y, dy) && channels % PACK == 0)
    relu_sums<PACK>(n, y, dy, channels, count, parts, sums, factor, accumulate);
  else
    relu_sums<1>(n, y, dy, channels, count, parts, sums, factor, accumulate);
}
"#,
    functions: &[
        "channel_add",
        "channel_scale",
        "channel_sums",
        "column_sums",
        "relu_back",
        "relu_back_sums",
    ],
};

impl Channels {
    /// The orders in which layers with values along these axes take their blobs.
    pub fn orders(axes: &Range<usize>) -> Orders {
        if *axes == (1..2) { Orders::Bottoms } else { Orders::Only(Order::Plain) }
    }

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
        cuda.packs_of_channels(&KERNELS, "channel_add", self.elements(), &args)
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
        cuda.packs_of_channels(&KERNELS, "channel_scale", self.elements(), &args)
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
        let weighted = Arg::Int(i32::from(w.is_some()));
        let [x, w]: [Arg; 2] = [x.into(), w.unwrap_or(x).into()];
        let (channels, outer) = (self.channels.into(), self.outer.into());
        let size = (self.channels, self.per_channel());
        let to = Sums { at: sums, each: 1, factor: 1.0, accumulate };
        if self.inner == 1 {
            let args = [x, w, channels, outer, weighted];
            return cuda.sums((&KERNELS, "column_sums", By::Thread), size, &args, to);
        }
        let args = [x, w, channels, outer, Divisor::new(self.inner).into(), weighted];
        cuda.sums((&KERNELS, "channel_sums", By::Block), size, &args, to)
    }

    /// Backward through a ReLU whose top is y, in the place of the gradient behind it; where the channels are
    /// last and `sums` are wanted, the gradient's sums over the channels are added to these in the same pass.
    ///
    /// # Errors
    /// A device that failed.
    pub fn relu_back_on(
        self,
        cuda: &CudaRun,
        y: Address,
        dy: Address,
        sums: Option<Address>,
    ) -> Result<()> {
        let args = [y.into(), dy.into(), self.channels.into(), self.outer.into()];
        match sums {
            Some(at) if self.inner == 1 => {
                let to = Sums { at, each: 1, factor: 1.0, accumulate: true };
                let size = (self.channels, self.per_channel());
                cuda.sums((&KERNELS, "relu_back_sums", By::Thread), size, &args, to)
            }
            _ => {
                cuda.packs(&KERNELS, "relu_back", self.elements(), &args[..2])?;
                sums.map_or(Ok(()), |at| self.sums_on(cuda, dy, None, (at, true)))
            }
        }
    }

    fn elements(self) -> usize {
        self.outer * self.channels * self.inner
    }
}
