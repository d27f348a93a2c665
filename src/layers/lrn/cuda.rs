//! LRN on a CUDA device: a thread an element, which adds up its own neighbours.

use super::Lrn;
use crate::Result;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::Arg;
use crate::device::cuda::divisor::Divisor;
use crate::device::cuda::source::Source;
use crate::layers::{CudaLayer, DeviceIo, Reals};

pub(super) static KERNELS: Source = Source {
    name: "lrn",
    text: r#"
#define IMAGE Divisor channels_, Divisor height_, Divisor width_, Divisor area_, int within, int reach

// The sum of f(j) over the neighbours j of element i.
#define NEIGHBOURS(i, sum, f)                                                        \
  {                                                                                  \
    if (within) {                                                                    \
      int height = NUMBER(height_), width = NUMBER(width_);                          \
      uint32 line = over(i, width_);                                                 \
      int w = i - line * width, h = rest(line, height_);                             \
      for (int y_ = max(h - reach, 0); y_ <= min(h + reach, height - 1); ++y_)       \
        for (int x_ = max(w - reach, 0); x_ <= min(w + reach, width - 1); ++x_) {    \
          int64 j = i + (int64)(y_ - h) * width + (x_ - w);                          \
          sum += f;                                                                  \
        }                                                                            \
    } else {                                                                         \
      int channels = NUMBER(channels_), area = NUMBER(area_);                        \
      int c = rest(over(i, area_), channels_);                                       \
      for (int c_ = max(c - reach, 0); c_ <= min(c + reach, channels - 1); ++c_) {   \
        int64 j = i + (int64)(c_ - c) * area;                                        \
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
    fn image_on(&self, io: &DeviceIo<'_>) -> Result<[Arg; 6]> {
        let [_, channels, height, width] = io.bottom_shape(0).nchw()?;
        let formula = self.plain.formula();
        let [channels, height, width, area] =
            [channels, height, width, height * width].map(|size| Divisor::new(size).into());
        let [within, reach] =
            [usize::from(formula.within), formula.reach].map(|size| Arg::Int(size as i32));
        Ok([channels, height, width, area, within, reach])
    }
}

impl CudaLayer for Lrn {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let n = io.bottom_shape(0).count();
        let scale = self.on_device[0].room(&cuda.device, n)?;
        let formula = self.plain.formula();
        let [channels, height, width, area, within, reach] = self.image_on(&io)?;
        let args = [
            io.bottom(0)?.into(),
            io.top_mut(0)?.into(),
            scale.into(),
            formula.alpha.into(),
            formula.beta.into(),
            formula.k.into(),
            channels,
            height,
            width,
            area,
            within,
            reach,
        ];
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
        let [channels, height, width, area, within, reach] = self.image_on(&io)?;
        let args = [
            x,
            dy,
            scale,
            terms,
            io.bottom_diff_mut(0)?.into(),
            formula.alpha.into(),
            formula.beta.into(),
            channels,
            height,
            width,
            area,
            within,
            reach,
        ];
        cuda.each(&KERNELS, "lrn_backward", n, &args)
    }

    fn reals(&self) -> Reals {
        Reals::FIRST
    }
}
