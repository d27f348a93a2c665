//! LRN on a CUDA device: a thread an element, which adds up its own neighbours; where channels are last, a
//! thread a pack of channels.

use smallvec::SmallVec;

use super::Lrn;
use crate::Result;
use crate::device::cuda::backend::Arg;
use crate::device::cuda::divisor::Divisor;
use crate::device::cuda::packs::PACK;
use crate::device::cuda::source::Source;
use crate::device::cuda::{CudaRun, Order};
use crate::layers::{CudaLayer, DeviceIo, Orders, Reals};

pub(super) static KERNELS: Source = Source {
    name: "lrn",
    text: r#"
// Channels are `apart` from each other, and places in the image `lanes`.
#define IMAGE Divisor channels_, Divisor height_, Divisor width_, Divisor apart_, Divisor lanes_, \
              int within, int reach

// The sum of f(j) over the neighbours j of element i.
#define NEIGHBOURS(i, sum, f)                                                        \
  {                                                                                  \
    if (within) {                                                                    \
      int height = NUMBER(height_), width = NUMBER(width_);                          \
      uint32 at = over(i, lanes_), line = over(at, width_);                          \
      int w = at - line * width, h = rest(line, height_), lanes = NUMBER(lanes_);    \
      for (int y_ = max(h - reach, 0); y_ <= min(h + reach, height - 1); ++y_)       \
        for (int x_ = max(w - reach, 0); x_ <= min(w + reach, width - 1); ++x_) {    \
          int64 j = i + ((int64)(y_ - h) * width + (x_ - w)) * lanes;                \
          sum += f;                                                                  \
        }                                                                            \
    } else {                                                                         \
      int channels = NUMBER(channels_), apart = NUMBER(apart_);                      \
      int c = rest(over(i, apart_), channels_);                                      \
      for (int c_ = max(c - reach, 0); c_ <= min(c + reach, channels - 1); ++c_) {   \
        int64 j = i + (int64)(c_ - c) * apart;                                       \
        sum += f;                                                                    \
      }                                                                              \
    }                                                                                \
  }

// s to the power of -beta; the usual 0.75 by roots.
static __device__ __forceinline__ float inverse_power(float s, float beta) {
  float root = 1.0f / sqrtf(s);
  return beta == 0.75f ? root * sqrtf(root) : powf(s, -beta);
}

extern "C" __global__ void lrn_forward(int64 n, const real* x, real* y, float* scale, float alpha,
                                       float beta, float k, IMAGE) {
  KERNEL_LOOP(i, n) {
    float sum = 0.0f;
    NEIGHBOURS(i, sum, x[j] * x[j])
    float s = k + alpha * sum;
    scale[i] = s;
    y[i] = x[i] * inverse_power(s, beta);
  }
}

// What the gradient adds up over neighbours.
extern "C" __global__ void lrn_terms(int64 n, const real* x, const real* dy, const float* scale,
                                     float* terms, float beta) {
  KERNEL_LOOP(i, n) { terms[i] = dy[i] * x[i] * inverse_power(scale[i], beta) / scale[i]; }
}

extern "C" __global__ void lrn_backward(int64 n, const real* x, const real* dy, const float* scale,
                                        const float* terms, real* dx, float alpha, float beta,
                                        IMAGE) {
  KERNEL_LOOP(i, n) {
    float sum = 0.0f;
    NEIGHBOURS(i, sum, terms[j])
    dx[i] = dy[i] * inverse_power(scale[i], beta) - 2 * alpha * beta * x[i] * sum;
  }
}

// Across few channels that are last: a thread has a pack of them, reads its neighbours, too, and makes again
// what else would have to be kept for backward and read back.
#define REACH 2

// The pack at `at`, of channels from c on, between its neighbours; zeros beyond the first and last channel.
static __device__ __forceinline__ void with_neighbours(const real* x, int64 at, uint32 c,
                                                       uint32 channels, float* v) {
  Pack<PACK> own = pack<PACK>(x, at), before = own, behind = own;
  if (c > 0) before = pack<PACK>(x, at - PACK);
  if (c + PACK < channels) behind = pack<PACK>(x, at + PACK);
  for (int j = 0; j < PACK; ++j) {
    v[j] = c > 0 ? (float)before.at[j] : 0.0f;
    v[PACK + j] = own.at[j];
    v[2 * PACK + j] = c + PACK < channels ? (float)behind.at[j] : 0.0f;
  }
}

// k + alpha times the squares of v[j] and those next to it.
static __device__ __forceinline__ float scale_at(const float* v, int j, int reach, float alpha,
                                                 float k) {
  float sum = 0.0f;
#pragma unroll
  for (int d = -REACH; d <= REACH; ++d)
    if (d <= reach && -d <= reach) sum += v[j + d] * v[j + d];
  return k + alpha * sum;
}

extern "C" __global__ void lrn_forward_last(int64 n, const real* x, real* y, float alpha, float beta,
                                            float k, Divisor packs, int reach) {
  KERNEL_LOOP(i, n / PACK) {
    float v[3 * PACK];
    with_neighbours(x, PACK * i, PACK * rest(i, packs), PACK * NUMBER(packs), v);
    Pack<PACK> to;
#pragma unroll
    for (int j = 0; j < PACK; ++j) {
      float s = scale_at(v, PACK + j, reach, alpha, k);
      to.at[j] = v[PACK + j] * inverse_power(s, beta);
    }
    put(y, PACK * i, to);
  }
}

extern "C" __global__ void lrn_backward_last(int64 n, const real* x, const real* dy, real* dx,
                                             float alpha, float beta, float k, Divisor packs,
                                             int reach) {
  KERNEL_LOOP(i, n / PACK) {
    float v[3 * PACK], slope[3 * PACK], power[3 * PACK], term[3 * PACK];
    uint32 c = PACK * rest(i, packs), channels = PACK * NUMBER(packs);
    with_neighbours(x, PACK * i, c, channels, v);
    with_neighbours(dy, PACK * i, c, channels, slope);
#pragma unroll
    for (int j = PACK - REACH; j < 2 * PACK + REACH; ++j) {
      float s = scale_at(v, j, reach, alpha, k);
      power[j] = inverse_power(s, beta);
      term[j] = slope[j] * v[j] * power[j] / s;
    }
    Pack<PACK> to;
#pragma unroll
    for (int j = PACK; j < 2 * PACK; ++j) {
      float sum = 0.0f;
#pragma unroll
      for (int d = -REACH; d <= REACH; ++d)
        if (d <= reach && -d <= reach) sum += term[j + d];
      to.at[j - PACK] = slope[j] * power[j] - 2 * alpha * beta * v[j] * sum;
    }
    put(dx, PACK * i, to);
  }
}
"#,
    functions: &[
        "lrn_forward",
        "lrn_terms",
        "lrn_backward",
        "lrn_forward_last",
        "lrn_backward_last",
    ],
};

impl Lrn {
    fn image_on(&self, io: &DeviceIo<'_>) -> Result<[Arg; 7]> {
        let [_, channels, height, width] = io.bottom_shape(0).nchw()?;
        let formula = self.plain.formula();
        let [apart, lanes] = match io.order() {
            Order::Plain => [height * width, 1],
            Order::ChannelsLast => [1, channels],
        };
        let [channels, height, width, apart, lanes] =
            [channels, height, width, apart, lanes].map(|size| Divisor::new(size).into());
        let [within, reach] =
            [usize::from(formula.within), formula.reach].map(|size| Arg::Int(size as i32));
        Ok([channels, height, width, apart, lanes, within, reach])
    }
}

/// Most neighbours on each side of a channel for which nothing is kept: what a pack and its neighbours hold.
const REACH: usize = 2;

impl Lrn {
    /// What the kernels for channels that are last take behind the arrays, where they can do it.
    fn last(&self, io: &DeviceIo<'_>) -> Result<Option<[Arg; 5]>> {
        let (formula, [_, channels, ..]) = (self.plain.formula(), io.bottom_shape(0).nchw()?);
        let fits = channels.is_multiple_of(PACK) && formula.reach <= REACH && !formula.within;
        if !fits || io.order() == Order::Plain {
            return Ok(None);
        }
        let (packs, reach) = (Divisor::new(channels / PACK), Arg::Int(formula.reach as i32));
        let [alpha, beta, k] = [formula.alpha, formula.beta, formula.k].map(Arg::from);
        Ok(Some([alpha, beta, k, packs.into(), reach]))
    }
}

impl CudaLayer for Lrn {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if let Some([alpha, beta, k, packs, reach]) = self.last(&io)? {
            let (x, y) = (io.bottom(0)?.into(), io.top_mut(0)?.into());
            let args = [x, y, alpha, beta, k, packs, reach];
            return cuda.packs(&KERNELS, "lrn_forward_last", io.bottom_shape(0).count(), &args);
        }
        let n = io.bottom_shape(0).count();
        let scale = self.on_device[0].room(&cuda.device, n)?;
        let formula = self.plain.formula();
        let image = self.image_on(&io)?;
        let args = [
            io.bottom(0)?.into(),
            io.top_mut(0)?.into(),
            scale.into(),
            formula.alpha.into(),
            formula.beta.into(),
            formula.k.into(),
        ];
        let args: SmallVec<[Arg; 20]> = args.into_iter().chain(image).collect();
        cuda.each(&KERNELS, "lrn_forward", n, &args)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let n = io.bottom_shape(0).count();
        if let Some([alpha, beta, k, packs, reach]) = self.last(&io)? {
            let (x, dy) = (io.bottom(0)?.into(), io.top_diff(0)?.into());
            let args = [x, dy, io.bottom_diff_mut(0)?.into(), alpha, beta, k, packs, reach];
            return cuda.packs(&KERNELS, "lrn_backward_last", n, &args);
        }
        let [scale, terms] = &mut self.on_device;
        let (scale, terms) = (scale.room(&cuda.device, n)?, terms.room(&cuda.device, n)?);
        let formula = self.plain.formula();
        let (x, dy): (Arg, Arg) = (io.bottom(0)?.into(), io.top_diff(0)?.into());
        let (scale, terms): (Arg, Arg) = (scale.into(), terms.into());
        cuda.each(&KERNELS, "lrn_terms", n, &[x, dy, scale, terms, formula.beta.into()])?;
        let image = self.image_on(&io)?;
        let args = [
            x,
            dy,
            scale,
            terms,
            io.bottom_diff_mut(0)?.into(),
            formula.alpha.into(),
            formula.beta.into(),
        ];
        let args: SmallVec<[Arg; 20]> = args.into_iter().chain(image).collect();
        cuda.each(&KERNELS, "lrn_backward", n, &args)
    }

    fn reals(&self) -> Reals {
        Reals::FIRST
    }

    fn orders(&self) -> Orders {
        Orders::Bottoms
    }
}
