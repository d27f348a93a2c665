//! LRN on a CUDA device: a thread an element, which adds up its own neighbours.

use smallvec::SmallVec;

use super::Lrn;
use crate::Result;
use crate::device::cuda::backend::Arg;
use crate::device::cuda::divisor::Divisor;
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

extern "C" __global__ void lrn_forward(int64 n, const real* x, real* y, float* scale, float alpha,
                                       float beta, float k, IMAGE) {
  KERNEL_LOOP(i, n) {
    float sum = 0.0f;
    NEIGHBOURS(i, sum, x[j] * x[j])
    float s = k + alpha * sum;
    scale[i] = s;
    y[i] = x[i] * powf(s, -beta);
  }
}

// What the gradient adds up over neighbours.
extern "C" __global__ void lrn_terms(int64 n, const real* x, const real* dy, const float* scale,
                                     float* terms, float beta) {
  KERNEL_LOOP(i, n) { terms[i] = dy[i] * x[i] * powf(scale[i], -beta) / scale[i]; }
}

extern "C" __global__ void lrn_backward(int64 n, const real* x, const real* dy, const float* scale,
                                        const float* terms, real* dx, float alpha, float beta,
                                        IMAGE) {
  KERNEL_LOOP(i, n) {
    float sum = 0.0f;
    NEIGHBOURS(i, sum, terms[j])
    dx[i] = dy[i] * powf(scale[i], -beta) - 2 * alpha * beta * x[i] * sum;
  }
}
"#,
    functions: &["lrn_forward", "lrn_terms", "lrn_backward"],
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

impl CudaLayer for Lrn {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
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
