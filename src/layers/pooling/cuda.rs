//! Pooling on a CUDA device. Own kernels: cuDNN's windows do not hang over the edge as Caffe's do, its
//! means divide by something else, and it tells no places.

use super::{Method, Pooling};
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::{Address, Arg};
use crate::device::cuda::divisor::Divisor;
use crate::device::cuda::source::Source;
use crate::layers::{CudaLayer, DeviceIo, Reals};
use crate::rng::philox_cuda;
use crate::{Result, bail};

/// Every kernel takes the windows as height, width, rows, columns, then extent, stride and padding of
/// each axis. Outputs and inputs look for their counterparts, so nothing is added by two threads.
pub(in crate::layers) static KERNELS: Source = Source {
    name: "pooling",
    text: concat!(
        philox_cuda!(),
        r#"
#define WINDOWS Divisor height_, Divisor width_, Divisor rows_, Divisor columns_, int kh, int kw, int sh, \
                int sw, int ph, int pw
#define SIZES                                                                            \
  int height = NUMBER(height_), width = NUMBER(width_), rows = NUMBER(rows_),            \
      columns = NUMBER(columns_);

// The window of output i: its plane, and the image's elements in it; `divisor`: its part inside the
// padded image.
#define WINDOW(i)                                                                        \
  SIZES                                                                                  \
  uint32 line = over(i, columns_), image = over(line, rows_);                            \
  int column = i - line * columns, row = line - image * rows;                            \
  const real* plane = x + (int64)image * height * width;                                 \
  int top_padded = min(row * sh + kh, height + 2 * ph);                                  \
  int right_padded = min(column * sw + kw, width + 2 * pw);                              \
  int h0 = min(max(row * sh - ph, 0), height), w0 = min(max(column * sw - pw, 0), width); \
  int h1 = min(max(top_padded - ph, 0), height), w1 = min(max(right_padded - pw, 0), width); \
  int divisor = max(max(top_padded - row * sh, 0) * max(right_padded - column * sw, 0), 1); \
  (void)divisor;

// The outputs whose windows hold element i of the bottom.
#define COVER(i)                                                                         \
  SIZES                                                                                  \
  uint32 line = over(i, width_), image = over(line, height_);                            \
  int w = i - line * width, h = line - image * height;                                   \
  int64 first = (int64)image * rows * columns;                                           \
  int r0 = h + ph < kh ? 0 : (h + ph - kh) / sh + 1, r1 = min((h + ph) / sh + 1, rows);  \
  int c0 = w + pw < kw ? 0 : (w + pw - kw) / sw + 1, c1 = min((w + pw) / sw + 1, columns);

extern "C" __global__ void pool_max(int64 n, const real* x, real* y, int* places, WINDOWS) {
  KERNEL_LOOP(i, n) {
    WINDOW(i)
    float best = -FLOAT_MAX;
    int place = -1;
    for (int h = h0; h < h1; ++h)
      for (int w = w0; w < w1; ++w)
        if (plane[h * width + w] > best) {
          best = plane[h * width + w];
          place = h * width + w;
        }
    y[i] = best;
    places[i] = place;
  }
}

extern "C" __global__ void pool_places(int64 n, const int* places, float* top) {
  KERNEL_LOOP(i, n) { top[i] = places[i]; }
}

extern "C" __global__ void pool_mean(int64 n, const real* x, real* y, WINDOWS) {
  KERNEL_LOOP(i, n) {
    WINDOW(i)
    float sum = 0.0f;
    for (int h = h0; h < h1; ++h)
      for (int w = w0; w < w1; ++w) sum += plane[h * width + w];
    y[i] = sum / divisor;
  }
}

// An element drawn in proportion to its value.
extern "C" __global__ void pool_draw(int64 n, const real* x, real* y, int* places, const Step* step,
                                     int64 record, int key0, int key1, int stream0, int stream1,
                                     WINDOWS) {
  KERNEL_LOOP(i, n) {
    WINDOW(i)
    float sum = 0.0f;
    for (int h = h0; h < h1; ++h)
      for (int w = w0; w < w1; ++w) sum += plane[h * width + w];
    uint32 words[4];
    philox(step->first_record * record + i, key0, key1, stream0, stream1, words);
    float threshold = unit(words[0]) * sum, passed = 0.0f, chosen = 0.0f;
    int place = -1;
    for (int h = h0; h < h1 && !(passed > threshold); ++h)
      for (int w = w0; w < w1 && !(passed > threshold); ++w) {
        place = h * width + w;
        chosen = plane[place];
        passed += chosen;
      }
    y[i] = chosen;
    places[i] = place;
  }
}

// What drawing gives on average.
extern "C" __global__ void pool_expect(int64 n, const real* x, real* y, WINDOWS) {
  KERNEL_LOOP(i, n) {
    WINDOW(i)
    float sum = 0.0f, squares = 0.0f;
    for (int h = h0; h < h1; ++h)
      for (int w = w0; w < w1; ++w) {
        float v = plane[h * width + w];
        sum += v;
        squares += v * v;
      }
    y[i] = sum == 0 ? 0.0f : squares / sum;
  }
}

extern "C" __global__ void pool_to_places(int64 n, const real* dy, const int* places, real* dx,
                                          WINDOWS) {
  KERNEL_LOOP(i, n) {
    COVER(i)
    int place = h * width + w;
    float sum = 0.0f;
    for (int r = r0; r < r1; ++r)
      for (int c = c0; c < c1; ++c) {
        int64 at = first + (int64)r * columns + c;
        if (places[at] == place) sum += dy[at];
      }
    dx[i] = sum;
  }
}

extern "C" __global__ void pool_spread(int64 n, const real* dy, real* dx, WINDOWS) {
  KERNEL_LOOP(i, n) {
    COVER(i)
    float sum = 0.0f;
    for (int r = r0; r < r1; ++r)
      for (int c = c0; c < c1; ++c) {
        int tall = min(r * sh + kh, height + 2 * ph) - r * sh;
        int wide = min(c * sw + kw, width + 2 * pw) - c * sw;
        sum += dy[first + (int64)r * columns + c] / max(tall * wide, 1);
      }
    dx[i] = sum;
  }
}
"#
    ),
    functions: &[
        "pool_max",
        "pool_places",
        "pool_mean",
        "pool_draw",
        "pool_expect",
        "pool_to_places",
        "pool_spread",
    ],
};

/// The windows as the kernels take them, of images of so many rows and columns; extent, stride and padding
/// of each axis.
pub(in crate::layers) fn windows(
    [height, width]: [usize; 2],
    (rows, columns): (usize, usize),
    [[kh, sh, ph], [kw, sw, pw]]: [[usize; 3]; 2],
) -> [Arg; 10] {
    let [height, width, rows, columns] =
        [height, width, rows, columns].map(|size| Divisor::new(size).into());
    let [kh, kw, sh, sw, ph, pw] = [kh, kw, sh, sw, ph, pw].map(|size| Arg::Int(size as i32));
    [height, width, rows, columns, kh, kw, sh, sw, ph, pw]
}

impl Pooling {
    fn windows_on(&self, io: &DeviceIo<'_>) -> Result<[Arg; 10]> {
        let [_, _, height, width] = io.bottom_shape(0).nchw()?;
        let axes = match &self.kernel {
            Some(kernel) => kernel.each_ref().map(|k| [k.size, k.stride, k.pad]),
            None => [[height, 1, 0], [width, 1, 0]],
        };
        Ok(windows([height, width], self.planes.positions(), axes))
    }

    fn launch(
        &self,
        cuda: &CudaRun,
        (function, n): (&'static str, usize),
        args: &[Arg],
        windows: [Arg; 10],
    ) -> Result<()> {
        let args: smallvec::SmallVec<[Arg; 20]> = args.iter().chain(&windows).copied().collect();
        cuda.each(&KERNELS, function, n, &args)
    }

    fn places_on(&mut self, cuda: &CudaRun, outputs: usize) -> Result<Address> {
        self.places_on_device.room(&cuda.device, outputs)
    }
}

impl CudaLayer for Pooling {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let (n, windows) = (io.top_shape(0).count(), self.windows_on(&io)?);
        let (x, y): (Arg, Arg) = (io.bottom(0)?.into(), io.top_mut(0)?.into());
        match self.method {
            Method::Max => {
                let places = self.places_on(cuda, n)?;
                self.launch(cuda, ("pool_max", n), &[x, y, places.into()], windows)?;
                if io.tops() == 2 {
                    let args = [places.into(), io.top_mut(1)?.into()];
                    cuda.each(&KERNELS, "pool_places", n, &args)?;
                }
                Ok(())
            }
            Method::Ave => self.launch(cuda, ("pool_mean", n), &[x, y], windows),
            Method::Expect => self.launch(cuda, ("pool_expect", n), &[x, y], windows),
            Method::Draw => {
                let places = self.places_on(cuda, n)?;
                let [key0, key1, stream0, stream1] = self.random.words().map(u32::cast_signed);
                let args = [
                    x,
                    y,
                    places.into(),
                    cuda.record.at().into(),
                    io.top_shape(0).count_from(1).into(),
                    key0.into(),
                    key1.into(),
                    stream0.into(),
                    stream1.into(),
                ];
                self.launch(cuda, ("pool_draw", n), &args, windows)
            }
        }
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let (n, windows) = (io.bottom_shape(0).count(), self.windows_on(&io)?);
        let (dy, dx): (Arg, Arg) = (io.top_diff(0)?.into(), io.bottom_diff_mut(0)?.into());
        match self.method {
            Method::Max | Method::Draw => {
                let places = self.places_on(cuda, io.top_shape(0).count())?;
                self.launch(cuda, ("pool_to_places", n), &[dy, places.into(), dx], windows)
            }
            Method::Ave => self.launch(cuda, ("pool_spread", n), &[dy, dx], windows),
            Method::Expect => bail!("STOCHASTIC pooling has a gradient in phase TRAIN only"),
        }
    }

    fn reals(&self) -> Reals {
        Reals::FIRST
    }
}
