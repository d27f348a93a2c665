//! PReLU: y = x for x > 0, else a_c · x with a learned slope a_c for every channel c (axis 1), also
//! in place. With `channel_shared` all channels have one slope.
//!
//! ```text
//! layer { name: "relu1" type: "PReLU" bottom: "conv1" top: "conv1" param { lr_mult: 1 decay_mult: 0 }
//!         prelu_param { filler { value: 0.25 } channel_shared: false } }
//! ```
//! Slopes start with 0.25 unless `filler` says otherwise. In place x is kept for the gradients.

use caffe_proto::{FillerParameter, PReLuParameter};

use super::dims::Around;
use super::elementwise::Kept;
use super::per_channel::{self, Channels, Sums};
use super::{CudaLayer, DeviceIo, Io, Layer, LayerDef, Setup, dims};
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cpu::threads::Threads;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::Address;
use crate::device::cuda::memory::Scratch;
use crate::device::cuda::source::Source;
use crate::params::ParamDef;
use crate::{Result, ensure};

/// The layer.
struct PRelu {
    param: PReLuParameter,
    channels: usize,
    /// One slope for each channel, also where they share one.
    slopes: Vec<f32>,
    kept: Kept,
    sums: Sums<1>,
    kept_on_device: Scratch,
    terms: Scratch,
    slope_sums: Scratch,
}

/// What x and its gradient are multiplied by.
fn factor(x: f32, slope: f32) -> f32 {
    if x > 0.0 { 1.0 } else { slope }
}

fn channel_count(bottom: &Shape) -> Result<usize> {
    ensure!(bottom.axes() >= 2, "needs a bottom with channels (axis 1); its shape is {bottom}");
    Ok(bottom[1])
}

impl PRelu {
    fn is_shared(&self) -> bool {
        self.param.channel_shared()
    }

    /// Whether the forward pass has to keep the bottom.
    fn keeps(io: &Io<'_>) -> bool {
        io.in_place() && (io.propagate_down(0) || io.param_needs_diff(0))
    }

    fn take_slopes(&mut self, a: &[f32]) {
        match self.is_shared() {
            true => self.slopes.fill(a[0]),
            false => self.slopes.copy_from_slice(a),
        }
    }

    /// Adds the slopes' gradient: the sums of dy · x where x is not above 0.
    fn slopes_diff(
        &mut self,
        threads: Threads,
        channels: Channels,
        [dy, x]: [&[f32]; 2],
        da: &mut [f32],
    ) {
        channels.totals(threads, [], [dy, x], &mut self.sums, |[], [dy, x]| {
            [if x > 0.0 { 0.0 } else { dy * x }]
        });
        if self.is_shared() {
            da[0] += self.sums.total.iter().map(|s| s[0]).sum::<f64>() as f32;
        } else {
            da.iter_mut().zip(&self.sums.total).for_each(|(da, s)| *da += s[0] as f32);
        }
    }
}

impl Layer for PRelu {
    fn params(&self) -> Vec<ParamDef> {
        let quarter = FillerParameter { value: Some(0.25), ..Default::default() };
        let shape = if self.is_shared() { Shape::default() } else { Shape::from([self.channels]) };
        vec![ParamDef::learned(shape, self.param.filler.clone().unwrap_or(quarter))]
    }

    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let channels = channel_count(&bottoms[0])?;
        if self.is_shared() {
            self.slopes.resize(channels, 0.0);
        } else {
            let [had, has] = [self.channels, channels].map(|n| Shape::from([n]));
            dims::expect("the number of channels", &had, &has)?;
        }
        Ok(vec![bottoms[0].clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        self.take_slopes(io.param(0)?);
        let (threads, a) = (run.threads(), &self.slopes[..]);
        let (channels, layout) = Channels::over(io.bottom_shape(0), 1..2, io.bottom_layout(0));
        if !io.in_place() {
            let (x, y) = (io.bottom_in(0, layout)?, io.top_mut_in(0, layout)?);
            channels.map(threads, [a], [x], y, |[a], [x], _| x * factor(x, a));
            return Ok(());
        }
        let y = io.top_update_in(0, layout)?;
        if Self::keeps(&io) {
            let kept = self.kept.room(y.len(), layout);
            channels.map_two(threads, [a], [], [y, kept], |[a], [], x| [x * factor(x, a), x]);
        } else {
            channels.map(threads, [a], [], y, |[a], [], x| x * factor(x, a));
        }
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let threads = run.threads();
        let there = if io.in_place() { self.kept.layout } else { io.top_diff_layout(0) };
        let (channels, layout) = Channels::over(io.bottom_shape(0), 1..2, there);
        let da = io.param_needs_diff(0).then(|| io.param_diff_mut(0)).transpose()?;
        if io.in_place() {
            // Lent for the length of the call, since the sums need all of `self`.
            let kept = std::mem::take(&mut self.kept);
            let (x, dx) = (&kept.values[..], io.bottom_diff_update_in(0, layout)?);
            if let Some(da) = da {
                self.slopes_diff(threads, channels, [dx, x], da);
            }
            channels.map(threads, [&self.slopes], [x], dx, |[a], [x], dy| dy * factor(x, a));
            self.kept = kept;
            return Ok(());
        }
        let (x, dy) = (io.bottom_in(0, layout)?, io.top_diff_in(0, layout)?);
        if let Some(da) = da {
            self.slopes_diff(threads, channels, [dy, x], da);
        }
        if io.propagate_down(0) {
            let dx = io.bottom_diff_mut_in(0, layout)?;
            channels.map(threads, [&self.slopes], [x, dy], dx, |[a], [x, dy], _| dy * factor(x, a));
        }
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source = Source {
    name: "prelu",
    text: r#"
#define SLOPE(x, i) ((x) > 0.0f ? 1.0f : a[shared ? 0 : (i) / inner % channels])

// Also in place; kept = the bottom, where it is asked for.
extern "C" __global__ void prelu_forward(int64 n, const float* from, const float* a, float* y,
                                         float* kept, int64 channels, int64 inner, int shared,
                                         int keep) {
  KERNEL_LOOP(i, n) {
    float x = from[i];
    if (keep) kept[i] = x;
    y[i] = x * SLOPE(x, i);
  }
}

extern "C" __global__ void prelu_backward(int64 n, const float* x, const float* a, const float* dy,
                                          float* dx, int64 channels, int64 inner, int shared) {
  KERNEL_LOOP(i, n) { dx[i] = dy[i] * SLOPE(x[i], i); }
}

// What each element adds to the gradient of its slope.
extern "C" __global__ void prelu_terms(int64 n, const float* x, const float* dy, float* terms) {
  KERNEL_LOOP(i, n) { terms[i] = x[i] > 0.0f ? 0.0f : dy[i] * x[i]; }
}
"#,
    functions: &["prelu_forward", "prelu_backward", "prelu_terms"],
};

impl PRelu {
    /// [`slopes_diff`](PRelu::slopes_diff) on a device.
    fn slopes_diff_on(
        &mut self,
        cuda: &CudaRun,
        around: Around,
        [dy, x]: [Address; 2],
        da: Address,
    ) -> Result<()> {
        let n = around.outer * around.extent * around.inner;
        let terms = self.terms.room(&cuda.device, n)?;
        cuda.each(&KERNELS, "prelu_terms", n, &[x.into(), dy.into(), terms.into()])?;
        let channels = Channels::plain(around);
        if !self.is_shared() {
            return channels.sums_on(cuda, terms, None, (da, true));
        }
        let sums = self.slope_sums.room(&cuda.device, around.extent)?;
        channels.sums_on(cuda, terms, None, (sums, false))?;
        let all = Channels::plain(Around { outer: 1, extent: 1, inner: around.extent });
        all.sums_on(cuda, sums, None, (da, true))
    }
}

impl CudaLayer for PRelu {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let ((x, y), around) = (io.through()?, Around::of(io.bottom_shape(0), 1));
        let n = io.bottom_shape(0).count();
        let keep = Self::keeps(&io);
        let kept = if keep { self.kept_on_device.room(&cuda.device, n)? } else { y };
        let [shared, keep] = [self.is_shared(), keep].map(|flag| i32::from(flag).into());
        let (channels, inner) = (around.extent.into(), around.inner.into());
        let args =
            [x.into(), io.param(0)?.into(), y.into(), kept.into(), channels, inner, shared, keep];
        cuda.each(&KERNELS, "prelu_forward", n, &args)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let (n, around) = (io.bottom_shape(0).count(), Around::of(io.bottom_shape(0), 1));
        let (x, dy) = match io.in_place() {
            true => (self.kept_on_device.room(&cuda.device, n)?, io.bottom_diff_update(0)?),
            false => (io.bottom(0)?, io.top_diff(0)?),
        };
        if io.param_needs_diff(0) {
            self.slopes_diff_on(cuda, around, [dy, x], io.param_diff_mut(0)?)?;
        }
        if !io.propagate_down(0) {
            return Ok(());
        }
        let dx = if io.in_place() { dy } else { io.bottom_diff_mut(0)? };
        let (channels, inner) = (around.extent.into(), around.inner.into());
        let shared = i32::from(self.is_shared()).into();
        let args = [x.into(), io.param(0)?.into(), dy.into(), dx.into(), channels, inner, shared];
        cuda.each(&KERNELS, "prelu_backward", n, &args)
    }
}

fn build(setup: &Setup<'_>, bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.prelu_param.as_deref().cloned().unwrap_or_default();
    let channels = channel_count(&bottoms[0])?;
    Ok(Box::new(PRelu {
        param,
        channels,
        slopes: vec![0.0; channels],
        kept: Kept::default(),
        sums: Sums::default(),
        kept_on_device: Scratch::default(),
        terms: Scratch::default(),
        slope_sums: Scratch::default(),
    }))
}

/// `PReLU`.
pub static DEF: LayerDef =
    LayerDef::new("PReLU", "y = x above 0, a learned slope per channel below", build)
        .kernels(&[&KERNELS, &per_channel::cuda::KERNELS])
        .in_place();

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{gradient, input, message, net, set, values};
    use crate::net::Net;

    fn text(dims: &[usize], top: &str, param: &str) -> String {
        let x = input("x", dims);
        format!(
            "force_backward: true {x} layer {{ name: 'p' type: 'PReLU' bottom: 'x' top: '{top}' \
             prelu_param {{ {param} }} }}"
        )
    }

    /// Top, gradient of the bottom, gradient of the slopes.
    fn passes(net: &mut Net, top: &str) -> [Vec<f32>; 3] {
        set(net, "x", &[1.0, -2.0, 3.0, -4.0]);
        net.forward().unwrap();
        let y = values(net, top);
        let id = net.blob(top).unwrap();
        net.diff_mut(id).unwrap().copy_from_slice(&[1.0, 2.0, 3.0, 4.0]);
        net.clear_param_diffs();
        net.backward().unwrap();
        [y, gradient(net, "x"), net.params().gradient(0).unwrap().to_vec()]
    }

    #[test]
    fn in_place_or_not_the_gradients_are_the_same() {
        for (dims, param, slopes) in [
            (&[2, 2][..], "", &[0.0, -20.0][..]),
            (&[1, 2, 2], "", &[-4.0, -16.0]),
            (&[1, 2, 2], "channel_shared: true", &[-20.0]),
        ] {
            let apart = passes(&mut net(&text(dims, "y", param), Phase::Train), "y");
            assert_eq!(apart[0], [1.0, -0.5, 3.0, -1.0]);
            assert_eq!(apart[1], [1.0, 0.5, 3.0, 1.0]);
            assert_eq!(apart[2], slopes, "{param}");
            let together = passes(&mut net(&text(dims, "x", param), Phase::Train), "x");
            assert_eq!(together, apart);
        }
    }

    #[test]
    fn needs_channels() {
        let message = message(&text(&[3], "y", ""));
        assert!(message.contains("axis 1") && message.contains("3 (3)"), "{message}");
    }
}
