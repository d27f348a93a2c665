//! Pooling: the largest (MAX), the mean (AVE) or a random element (STOCHASTIC) of every window.
//!
//! ```text
//! layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
//!         pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
//! ```
//! Window positions are rounded up (`round_mode: CEIL`), so that the last window may hang over the
//! edge; with padding, windows that would start in the padding behind the image are dropped. AVE
//! divides by the part of the window inside the padded image. The second top of MAX is the place
//! of each largest element in its plane. STOCHASTIC draws with a probability proportional to the
//! value in training and takes the mean weighted with the values in TEST. `engine` makes no
//! difference.

mod blocked;
mod cuda;
mod plain;
mod window;

use caffe_proto::Phase;
use caffe_proto::pooling_parameter::PoolMethod;

use super::{Count, CudaLayer, Io, Layer, LayerDef, Setup};
use crate::blob::{Layout, Shape};
use crate::device::Run;
use crate::device::cpu::onednn::{PoolConfig, PoolMethod as Compiled};
use crate::device::cuda::memory::Scratch;
use crate::rng::{Philox, unit_f32};
use crate::{Result, bail, ensure};
use blocked::Blocked;
pub(super) use plain::Planes;
pub(crate) use window::Kernel;
pub(super) use window::Windows;

/// What is taken from a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Max,
    Ave,
    /// STOCHASTIC in training.
    Draw,
    /// STOCHASTIC in TEST.
    Expect,
}

/// The layer.
struct Pooling {
    method: Method,
    /// Per axis; none where the window is the whole image.
    kernel: Option<[Kernel; 2]>,
    planes: Planes,
    tops: usize,
    /// Place in its plane of the element each output was taken from (MAX, STOCHASTIC in training).
    places: Vec<u32>,
    places_on_device: Scratch,
    random: Philox,
    /// The fast path and the layout it was made for.
    blocked: Option<(Layout, Blocked)>,
    /// Whether the last forward pass took it.
    was_blocked: bool,
}

impl Layer for Pooling {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let bottom = &bottoms[0];
        ensure!(bottom.axes() == 4, "needs a bottom with axes N, C, H, W; its shape is {bottom}");
        let windows = |axis: usize| match &self.kernel {
            Some(kernel) => kernel[axis].windows(bottom[2 + axis]),
            None => Ok(Windows::whole(bottom[2 + axis])),
        };
        self.planes = Planes::new(windows(0)?, windows(1)?);
        let (h, w) = self.planes.positions();
        let top = Shape::from([bottom[0], bottom[1], h, w]);
        self.blocked = None;
        Ok(vec![top; self.tops])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let threads = run.threads();
        self.was_blocked = self.prepare_blocked(run, &io)?;
        if self.was_blocked
            && let Some((layout, blocked)) = &mut self.blocked
        {
            let x = io.bottom_in(0, *layout)?;
            return blocked.forward(threads, x, io.top_mut_in(0, *layout)?);
        }
        let (x, y) = (io.bottom(0)?, io.top_mut(0)?);
        self.places.resize(if self.keeps_places() { y.len() } else { 0 }, 0);
        match self.method {
            Method::Max => self.planes.max(threads, x, y, &mut self.places),
            Method::Ave => self.planes.mean(threads, x, y),
            Method::Draw => {
                let shape = io.top_shape(0);
                let first = run.step().first_record.wrapping_mul(shape.count_from(1) as u64);
                let random = |i: usize| unit_f32(self.random.at(first.wrapping_add(i as u64))[0]);
                self.planes.draw(threads, x, y, &mut self.places, random);
            }
            Method::Expect => self.planes.expect(threads, x, y),
        }
        if io.tops() == 2 {
            for (top, &place) in io.top_mut(1)?.iter_mut().zip(&self.places) {
                *top = if place == plain::NOWHERE { -1.0 } else { place as f32 };
            }
        }
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        if self.was_blocked
            && let Some((layout, blocked)) = &mut self.blocked
        {
            let (dy, dx) = (io.top_diff_in(0, *layout)?, io.bottom_diff_mut_in(0, *layout)?);
            return blocked.backward(run.threads(), dy, dx);
        }
        let (dy, dx) = (io.top_diff(0)?, io.bottom_diff_mut(0)?);
        match self.method {
            Method::Max | Method::Draw => {
                self.planes.to_places(run.threads(), dy, &self.places, dx);
            }
            Method::Ave => self.planes.spread(run.threads(), dy, dx),
            Method::Expect => bail!("STOCHASTIC pooling has a gradient in phase TRAIN only"),
        }
        Ok(())
    }

    fn kernels(&self) -> Vec<(&'static str, String)> {
        self.blocked.as_ref().map_or_else(Vec::new, |(_, blocked)| blocked.kernels())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

impl Pooling {
    fn keeps_places(&self) -> bool {
        matches!(self.method, Method::Max | Method::Draw)
    }

    /// Makes the fast path ready for these blobs; `false` where there is none: on the plain device,
    /// for a plain bottom, for places as a second top, for windows without elements.
    fn prepare_blocked(&mut self, run: &mut Run, io: &Io<'_>) -> Result<bool> {
        let layout = io.bottom_layout(0);
        let method = match self.method {
            Method::Max => Compiled::Max,
            Method::Ave => Compiled::Average,
            Method::Draw | Method::Expect => return Ok(false),
        };
        let Some(cx) = &run.cpu()?.onednn else { return Ok(false) };
        if !layout.is_blocked() || io.tops() != 1 || self.planes.any_empty() {
            return Ok(false);
        }
        if self.blocked.as_ref().is_none_or(|(made_for, _)| *made_for != layout) {
            let [n, channels, h, w] = io.bottom_shape(0).nchw()?;
            let (rows, columns) = self.planes.positions();
            let of = |f: fn(&Kernel) -> usize| self.kernel.map(|k| [f(&k[0]), f(&k[1])]);
            let config = PoolConfig {
                method,
                n,
                channels,
                input: [h, w],
                output: [rows, columns],
                kernel: of(|k| k.size).unwrap_or([h, w]),
                stride: of(|k| k.stride).unwrap_or([1, 1]),
                pad: of(|k| k.pad).unwrap_or([0, 0]),
                layout,
                backward: io.propagate_down(0),
            };
            self.blocked = Blocked::new(cx, &config, &self.planes)?.map(|b| (layout, b));
        }
        Ok(self.blocked.is_some())
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.pooling_param.as_deref().cloned().unwrap_or_default();
    let method = match (param.pool(), setup.phase) {
        (PoolMethod::Max, _) => Method::Max,
        (PoolMethod::Ave, _) => Method::Ave,
        (PoolMethod::Stochastic, Phase::Train) => Method::Draw,
        (PoolMethod::Stochastic, Phase::Test) => Method::Expect,
    };
    ensure!(
        setup.tops == 1 || method == Method::Max,
        "only MAX pooling has a second top (the places of the largest elements)"
    );
    let kernel = Kernel::of(&param)?;
    let padded = kernel.iter().flatten().any(|k| k.pad > 0);
    ensure!(
        !padded || matches!(method, Method::Max | Method::Ave),
        "STOCHASTIC pooling takes no padding"
    );
    Ok(Box::new(Pooling {
        method,
        kernel,
        planes: Planes::default(),
        tops: setup.tops,
        places: Vec::new(),
        places_on_device: Scratch::default(),
        random: Philox::new(setup.seed, setup.index as u64),
        blocked: None,
        was_blocked: false,
    }))
}

/// `Pooling`.
pub static DEF: LayerDef =
    LayerDef::new("Pooling", "the largest, mean or a random element of every window", build)
        .kernels(&[&cuda::KERNELS])
        .counts(Count::Exactly(1), Count::Between(1, 2));

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{gradient, net, set, try_net, values};

    fn text(shape: &str, param: &str) -> String {
        format!(
            "force_backward: true \
             layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ {shape} }} }} }} \
             layer {{ name: 'p' type: 'Pooling' bottom: 'x' top: 'y' pooling_param {{ {param} }} }}"
        )
    }

    #[test]
    fn a_random_element_is_one_of_its_window_in_proportion() {
        let text = text("dim: 1000 dim: 1 dim: 2 dim: 2", "pool: STOCHASTIC kernel_size: 2");
        let mut train = net(&text, Phase::Train);
        set(&mut train, "x", &[0.0, 1.0, 3.0, 4.0].repeat(1000));
        train.forward().unwrap();
        let y = values(&mut train, "y");
        let share = |v: f32| y.iter().filter(|y| **y == v).count() as f32 / 1000.0;
        for (v, wanted) in [(0.0, 0.0), (1.0, 0.125), (3.0, 0.375), (4.0, 0.5)] {
            assert!((share(v) - wanted).abs() < 0.05, "{v}: {}", share(v));
        }
        let id = train.blob("y").unwrap();
        train.diff_mut(id).unwrap().fill(1.0);
        train.backward().unwrap();
        let dx = gradient(&mut train, "x");
        for (dx, y) in dx.chunks(4).zip(&y) {
            let at = [0.0, 1.0, 3.0, 4.0].iter().position(|v| v == y).unwrap();
            assert_eq!(dx.iter().sum::<f32>(), 1.0);
            assert_eq!(dx[at], 1.0);
        }

        let mut test = net(&text, Phase::Test);
        set(&mut test, "x", &[0.0, 1.0, 3.0, 4.0].repeat(1000));
        test.forward().unwrap();
        assert_eq!(values(&mut test, "y")[0], 26.0 / 8.0);
    }

    #[test]
    fn global_pooling_takes_the_whole_image_and_no_kernel() {
        let shape = "dim: 1 dim: 1 dim: 3 dim: 2";
        let mut net = net(&text(shape, "pool: AVE global_pooling: true"), Phase::Test);
        set(&mut net, "x", &[1.0, 2.0, 3.0, 4.0, 5.0, 9.0]);
        net.forward().unwrap();
        assert_eq!(values(&mut net, "y"), [4.0]);
        for bad in [
            "global_pooling: true kernel_size: 2",
            "global_pooling: true pad: 1",
            "kernel_size: 2 pad: 2",
            "kernel_h: 2",
            "",
            "kernel_size: 2 stride: 0",
        ] {
            assert!(try_net(&text(shape, bad), Phase::Test).is_err(), "{bad}");
        }
    }
}
