//! MVN: every image, or every channel of every image, with mean 0 and deviation 1,
//! y = (x − mean) / (deviation + eps).
//!
//! ```text
//! layer { name: "mvn" type: "MVN" bottom: "x" top: "y"
//!         mvn_param { across_channels: true normalize_variance: true eps: 1e-9 } }
//! ```
//! Groups are the first axis's indices with `across_channels`, else those of the first two axes.
//! `normalize_variance: false` only takes the mean away. The gradient is that of eps = 0 divided by
//! (deviation + eps), as in BVLC Caffe: exact for the small eps that the layer is made for.

use caffe_proto::MvnParameter;

use super::{CudaLayer, DeviceIo, Io, Layer, LayerDef, Setup};
use crate::Result;
use crate::blob::{Layout, Shape};
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::memory::Scratch;
use crate::device::cuda::source::Source;

/// What a group's elements were reduced by, and then multiplied with.
#[derive(Clone, Copy, Default)]
struct Moments {
    mean: f32,
    inverse: f32,
}

/// The layer.
struct Mvn {
    param: MvnParameter,
    /// Elements of a group.
    len: usize,
    /// Of every group in the last forward pass.
    moments: Vec<Moments>,
    /// In place: the top, for the gradient, since the next layer may overwrite it.
    saved: Vec<f32>,
    moments_on_device: Scratch,
    saved_on_device: Scratch,
}

fn measure(param: &MvnParameter, x: &[f32]) -> Moments {
    let n = x.len() as f64;
    let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    if !param.normalize_variance() {
        return Moments { mean: mean as f32, inverse: 1.0 };
    }
    let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
    let deviation = variance.sqrt() as f32;
    Moments { mean: mean as f32, inverse: 1.0 / (deviation + param.eps()) }
}

impl Layer for Mvn {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let x = &bottoms[0];
        let groups = if self.param.across_channels() { 1 } else { 2 }.min(x.axes());
        self.len = x.count_from(groups);
        self.moments.resize(x.count_to(groups), Moments::default());
        Ok(vec![x.clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let (x, y) = if io.in_place() {
            (None, io.top_update_in(0, Layout::Plain)?)
        } else {
            (Some(io.bottom(0)?), io.top_mut(0)?)
        };
        let (param, mut moments) = (&self.param, std::mem::take(&mut self.moments));
        run.threads().par_zip2_mut((&mut *y, self.len), (&mut moments[..], 1), |i, y, moments| {
            if let Some(x) = x {
                y.copy_from_slice(&x[i * self.len..][..self.len]);
            }
            moments[0] = measure(param, y);
            let Moments { mean, inverse } = moments[0];
            y.iter_mut().for_each(|y| *y = (*y - mean) * inverse);
        });
        self.moments = moments;
        self.saved.clear();
        if io.in_place() && io.propagate_down(0) {
            self.saved.extend_from_slice(y);
        }
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let (x, dy, dx) = if io.in_place() {
            (None, None, io.bottom_diff_update_in(0, Layout::Plain)?)
        } else {
            (Some(io.bottom(0)?), Some(io.top_diff(0)?), io.bottom_diff_mut(0)?)
        };
        let normalize = self.param.normalize_variance();
        run.threads().par_chunks_mut(dx, self.len, |i, dx| {
            let here = i * self.len..(i + 1) * self.len;
            if let Some(dy) = dy {
                dx.copy_from_slice(&dy[here.clone()]);
            }
            let Moments { mean, inverse } = self.moments[i];
            let normal = |k: usize| match x {
                Some(x) => (x[here.start + k] - mean) * inverse,
                None => self.saved[here.start + k],
            };
            let n = dx.len() as f64;
            let mean_dy = dx.iter().map(|dy| f64::from(*dy)).sum::<f64>() / n;
            let product = |(k, dy): (usize, &f32)| f64::from(*dy) * f64::from(normal(k));
            let mean_product =
                if normalize { dx.iter().enumerate().map(product).sum::<f64>() / n } else { 0.0 };
            let (mean_dy, mean_product) = (mean_dy as f32, mean_product as f32);
            for (k, dx) in dx.iter_mut().enumerate() {
                *dx = (*dx - mean_dy - normal(k) * mean_product) * inverse;
            }
        });
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source = Source {
    name: "mvn",
    text: r#"
// A block a group, also in place; moments = mean and inverse of each.
extern "C" __global__ void mvn_forward(int64 n, const float* from, float* to, float* moments,
                                       int64 len, int normalize, float eps) {
  for (int64 g = blockIdx.x; g < n; g += gridDim.x) {
    const float* x = from + g * len;
    float* y = to + g * len;
    float sum = 0.0f, squares = 0.0f;
    for (int64 i = threadIdx.x; i < len; i += blockDim.x) sum += x[i];
    float mean = block_sum(sum) / len;
    for (int64 i = threadIdx.x; i < len; i += blockDim.x) squares += (x[i] - mean) * (x[i] - mean);
    float variance = block_sum(squares) / len;
    float inverse = normalize ? 1.0f / (sqrtf(variance) + eps) : 1.0f;
    for (int64 i = threadIdx.x; i < len; i += blockDim.x) y[i] = (x[i] - mean) * inverse;
    if (threadIdx.x == 0) {
      moments[2 * g] = mean;
      moments[2 * g + 1] = inverse;
    }
  }
}

// `value` is the bottom, or (saved) the top. dy and dx may be the same.
extern "C" __global__ void mvn_backward(int64 n, const float* value, const float* moments,
                                        const float* dy, float* dx, int64 len, int normalize,
                                        int saved) {
  for (int64 g = blockIdx.x; g < n; g += gridDim.x) {
    float inverse = moments[2 * g + 1];
    float shift = saved ? 0.0f : moments[2 * g], scale = saved ? 1.0f : inverse;
    float sum = 0.0f, products = 0.0f;
    for (int64 i = g * len + threadIdx.x; i < (g + 1) * len; i += blockDim.x) {
      sum += dy[i];
      products += dy[i] * ((value[i] - shift) * scale);
    }
    float mean_dy = block_sum(sum) / len, mean_product = block_sum(products) / len;
    if (!normalize) mean_product = 0.0f;
    for (int64 i = g * len + threadIdx.x; i < (g + 1) * len; i += blockDim.x)
      dx[i] = (dy[i] - mean_dy - (value[i] - shift) * scale * mean_product) * inverse;
  }
}
"#,
    functions: &["mvn_forward", "mvn_backward"],
};

impl CudaLayer for Mvn {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let ((x, y), groups) = (io.through()?, self.moments.len());
        let moments = self.moments_on_device.room(&cuda.device, 2 * groups)?.into();
        let normalize = i32::from(self.param.normalize_variance()).into();
        let args =
            [x.into(), y.into(), moments, self.len.into(), normalize, self.param.eps().into()];
        cuda.rows(&KERNELS, "mvn_forward", groups, &args)?;
        if io.in_place() && io.propagate_down(0) {
            let n = io.top_shape(0).count();
            cuda.device.copy(y, self.saved_on_device.room(&cuda.device, n)?, n)?;
        }
        Ok(())
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let ((dy, dx), groups) = (io.back_through()?, self.moments.len());
        let value = match io.in_place() {
            true => self.saved_on_device.room(&cuda.device, io.bottom_shape(0).count())?,
            false => io.bottom(0)?,
        };
        let moments = self.moments_on_device.room(&cuda.device, 2 * groups)?.into();
        let flags = [self.param.normalize_variance(), io.in_place()];
        let [normalize, saved] = flags.map(|flag| i32::from(flag).into());
        let (len, dy, dx) = (self.len.into(), dy.into(), dx.into());
        let args = [value.into(), moments, dy, dx, len, normalize, saved];
        cuda.rows(&KERNELS, "mvn_backward", groups, &args)
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.mvn_param.as_deref().cloned().unwrap_or_default();
    Ok(Box::new(Mvn {
        param,
        len: 0,
        moments: Vec::new(),
        saved: Vec::new(),
        moments_on_device: Scratch::default(),
        saved_on_device: Scratch::default(),
    }))
}

/// `MVN`.
pub static DEF: LayerDef =
    LayerDef::new("MVN", "every image or channel with mean 0 and deviation 1", build)
        .kernels(&[&KERNELS])
        .in_place();

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{gradient, net, set, values};

    fn text(top: &str, param: &str) -> String {
        format!(
            "force_backward: true \
             layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ dim: 1 dim: 2 dim: 2 }} }} }} \
             layer {{ name: 'm' type: 'MVN' bottom: 'x' top: '{top}' mvn_param {{ {param} }} }}"
        )
    }

    #[test]
    fn groups_are_channels_or_images() {
        for (param, wanted) in [
            ("normalize_variance: false", [-1.0, 1.0, -2.0, 2.0]),
            ("", [-1.0, 1.0, -1.0, 1.0]),
            ("eps: 1", [-0.5, 0.5, -2.0 / 3.0, 2.0 / 3.0]),
            ("across_channels: true normalize_variance: false", [-4.0, -2.0, 1.0, 5.0]),
        ] {
            for top in ["y", "x"] {
                let mut net = net(&text(top, param), Phase::Test);
                set(&mut net, "x", &[1.0, 3.0, 6.0, 10.0]);
                net.forward().unwrap();
                assert_eq!(values(&mut net, top), wanted, "{param}");
            }
        }
    }

    #[test]
    fn the_gradient_is_the_same_in_place() {
        let gradient_with = |top: &str| {
            let mut net = net(&text(top, "across_channels: true"), Phase::Train);
            set(&mut net, "x", &[1.0, 3.0, 6.0, 11.0]);
            net.forward().unwrap();
            let top = net.blob(top).unwrap();
            net.diff_mut(top).unwrap().copy_from_slice(&[1.0, -2.0, 0.5, 3.0]);
            net.backward().unwrap();
            gradient(&mut net, "x")
        };
        let (apart, in_place) = (gradient_with("y"), gradient_with("x"));
        assert!(apart.iter().zip(&in_place).all(|(a, b)| (a - b).abs() < 1e-6), "{apart:?}");
        assert!(apart[0].abs() > 1e-3);
    }
}
