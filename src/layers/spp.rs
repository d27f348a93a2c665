//! SPP (spatial pyramid pooling): images of any size as vectors of one length. Level l pools every
//! channel into 2^l × 2^l bins; the levels stand one behind the other.
//!
//! ```text
//! layer { name: "spp" type: "SPP" bottom: "conv5" top: "spp" spp_param { pyramid_height: 3 pool: MAX } }
//! ```
//! The top is N × (C · (1 + 4 + … )), level by level, within a level as Pooling's top; a pyramid of
//! one level keeps Pooling's shape N × C × 1 × 1. A level's windows are as large as they are far
//! apart, ⌈extent / bins⌉, with half of what is then too much as padding on either side. `engine`
//! makes no difference.

use caffe_proto::spp_parameter::PoolMethod;

use super::parts::{self, Parts};
use super::pooling::{self, Kernel, Planes};
use super::split;
use super::{CudaLayer, DeviceIo, Io, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::{Address, Arg};
use crate::device::cuda::memory::Scratch;
use crate::{Result, bail, ensure};

/// What is taken from a bin.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Max,
    Ave,
}

/// One level of the pyramid.
struct Level {
    kernels: [Kernel; 2],
    planes: Planes,
    /// The level's pooled images, and where their elements come from (MAX).
    pooled: Vec<f32>,
    places: Vec<u32>,
    /// Elements of one image, and their place in its vector.
    len: usize,
    first: usize,
    places_on_device: Scratch,
}

/// The layer.
struct Spp {
    height: u32,
    method: Method,
    levels: Vec<Level>,
    /// Elements of an image's vector.
    len: usize,
    /// A level's share of the bottom's gradient.
    share: Vec<f32>,
    /// The levels in the vector; a level's pooled images, and the share, on a device.
    parts: Parts,
    pooled_on_device: Scratch,
    share_on_device: Scratch,
}

/// The windows along one axis of a level with so many bins.
fn kernel(image: usize, bins: usize) -> Result<Kernel> {
    let size = image.div_ceil(bins);
    let pad = (size * bins - image).div_ceil(2);
    ensure!(
        pad < size,
        "pyramid_height is too large: an extent of {image} cannot be cut into {bins} bins"
    );
    Ok(Kernel { size, stride: size, pad, ceil: true, clip: false })
}

/// The windows of a level on images of this size.
fn planes(images: [usize; 2], bins: usize) -> Result<([Kernel; 2], Planes)> {
    let mut kernels = [kernel(images[0], bins)?, kernel(images[1], bins)?];
    let clip = kernels.iter().any(|k| k.pad > 0);
    kernels.iter_mut().for_each(|k| k.clip = clip);
    let planes = Planes::new(kernels[0].windows(images[0])?, kernels[1].windows(images[1])?);
    Ok((kernels, planes))
}

impl Layer for Spp {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let [n, channels, h, w] = match *bottoms[0].dims() {
            [n, c, h, w] if h > 0 && w > 0 => [n, c, h, w],
            _ => bail!("needs a bottom with axes N, C, H, W; its shape is {}", bottoms[0]),
        };
        self.levels.clear();
        self.len = 0;
        for level in 0..self.height {
            let (kernels, planes) = planes([h, w], 1 << level)?;
            let (rows, columns) = planes.positions();
            let len = channels * rows * columns;
            let places = if self.method == Method::Max { n * len } else { 0 };
            let (pooled, places) = (vec![0.0; n * len], vec![0; places]);
            self.levels.push(Level {
                kernels,
                planes,
                pooled,
                places,
                len,
                first: self.len,
                places_on_device: Scratch::default(),
            });
            self.len += len;
        }
        let shapes: Vec<_> = self.levels.iter().map(|level| Shape::from([n, level.len])).collect();
        self.parts = Parts::new(1, &shapes);
        if self.height == 1 {
            return Ok(vec![Shape::from([n, channels, 1, 1])]);
        }
        self.share.resize(bottoms[0].count(), 0.0);
        Ok(vec![Shape::from([n, self.len])])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let (threads, x, y) = (run.threads(), io.bottom(0)?, io.top_mut(0)?);
        for Level { planes, pooled, places, len, first, .. } in &mut self.levels {
            match self.method {
                Method::Max => planes.max(threads, x, pooled, places),
                Method::Ave => planes.mean(threads, x, pooled),
            }
            for (y, pooled) in y.chunks_mut(self.len.max(1)).zip(pooled.chunks((*len).max(1))) {
                y[*first..*first + *len].copy_from_slice(pooled);
            }
        }
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let (threads, dy, dx) = (run.threads(), io.top_diff(0)?, io.bottom_diff_mut(0)?);
        for (i, level) in self.levels.iter_mut().enumerate() {
            let Level { planes, pooled, places, len, first, .. } = level;
            for (dy, pooled) in dy.chunks(self.len.max(1)).zip(pooled.chunks_mut((*len).max(1))) {
                pooled.copy_from_slice(&dy[*first..*first + *len]);
            }
            let share = if i == 0 { &mut *dx } else { &mut self.share[..] };
            match self.method {
                Method::Max => planes.to_places(threads, pooled, places, share),
                Method::Ave => planes.spread(threads, pooled, share),
            }
            if i > 0 {
                dx.iter_mut().zip(&self.share).for_each(|(dx, share)| *dx += share);
            }
        }
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

impl Level {
    /// Launches one of Pooling's kernels over `n` elements.
    fn launch(
        &self,
        cuda: &CudaRun,
        (function, n): (&'static str, usize),
        args: &[Arg],
        image: [usize; 2],
    ) -> Result<()> {
        let axes = self.kernels.map(|k| [k.size, k.stride, k.pad]);
        let windows = pooling::cuda::windows(image, self.planes.positions(), axes, 1);
        let args: smallvec::SmallVec<[Arg; 16]> = args.iter().chain(&windows).copied().collect();
        cuda.each(&pooling::cuda::KERNELS, function, n, &args)
    }
}

impl Spp {
    /// Room for the largest level's pooled images.
    fn pooled_on(&mut self, cuda: &CudaRun, images: usize) -> Result<Address> {
        let longest = self.levels.iter().map(|level| level.len).max().unwrap_or(0);
        self.pooled_on_device.room(&cuda.device, images * longest)
    }
}

impl CudaLayer for Spp {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let [images, _, height, width] = io.bottom_shape(0).nchw()?;
        let (x, y, pooled) = (io.bottom(0)?, io.top_mut(0)?, self.pooled_on(cuda, images)?);
        for (i, level) in self.levels.iter_mut().enumerate() {
            let (n, [x, to]) = (images * level.len, [x, pooled].map(Arg::from));
            match self.method {
                Method::Max => {
                    let places = level.places_on_device.room(&cuda.device, n)?.into();
                    level.launch(cuda, ("pool_max", n), &[x, to, places], [height, width])?;
                }
                Method::Ave => level.launch(cuda, ("pool_mean", n), &[x, to], [height, width])?,
            }
            self.parts.place_on((cuda, io.order()), i, pooled, y)?;
        }
        Ok(())
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let [images, _, height, width] = io.bottom_shape(0).nchw()?;
        let (n, dy, dx) = (io.bottom_shape(0).count(), io.top_diff(0)?, io.bottom_diff_mut(0)?);
        let pooled = self.pooled_on(cuda, images)?;
        let share = self.share_on_device.room(&cuda.device, n)?;
        for (i, level) in self.levels.iter_mut().enumerate() {
            self.parts.cut_on((cuda, io.order()), i, dy, pooled)?;
            let to = if i == 0 { dx } else { share };
            match self.method {
                Method::Max => {
                    let places = level.places_on_device.room(&cuda.device, images * level.len)?;
                    let args = [pooled.into(), places.into(), to.into()];
                    level.launch(cuda, ("pool_to_places", n), &args, [height, width])?;
                }
                Method::Ave => {
                    let args = [pooled.into(), to.into()];
                    level.launch(cuda, ("pool_spread", n), &args, [height, width])?;
                }
            }
            if i > 0 {
                let args = [dx.into(), share.into(), dx.into()];
                cuda.packs(&split::KERNELS, "split_add", n, &args)?;
            }
        }
        Ok(())
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.spp_param.as_deref().cloned().unwrap_or_default();
    let method = match param.pool() {
        PoolMethod::Max => Method::Max,
        PoolMethod::Ave => Method::Ave,
        PoolMethod::Stochastic => bail!("takes pool: MAX or AVE, not STOCHASTIC"),
    };
    ensure!(param.pyramid_height() > 0, "needs pyramid_height, the number of its levels");
    let height = param.pyramid_height();
    Ok(Box::new(Spp {
        height,
        method,
        levels: Vec::new(),
        len: 0,
        share: Vec::new(),
        parts: Parts::default(),
        pooled_on_device: Scratch::default(),
        share_on_device: Scratch::default(),
    }))
}

/// `SPP`.
pub static DEF: LayerDef =
    LayerDef::new("SPP", "images of any size pooled into a pyramid of 1, 4, 16, … bins", build)
        .kernels(&[&pooling::cuda::KERNELS, &parts::KERNELS, &split::KERNELS]);

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{gradient, net, set, try_net, values};

    fn text(shape: &str, param: &str) -> String {
        format!(
            "layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ {shape} }} }} }} \
             layer {{ name: 's' type: 'SPP' bottom: 'x' top: 'y' spp_param {{ {param} }} }}"
        )
    }

    #[test]
    fn levels_follow_each_other() {
        let images = "dim: 1 dim: 2 dim: 2 dim: 2";
        for (param, wanted) in [
            ("pyramid_height: 1", &[4.0, 8.0][..]),
            ("pyramid_height: 2", &[4., 8., 1., 2., 3., 4., 5., 6., 7., 8.]),
            ("pyramid_height: 2 pool: AVE", &[2.5, 6.5, 1., 2., 3., 4., 5., 6., 7., 8.]),
        ] {
            let mut net = net(&text(images, param), Phase::Test);
            set(&mut net, "x", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
            net.forward().unwrap();
            assert_eq!(values(&mut net, "y"), wanted, "{param}");
            let y = net.blob("y").unwrap();
            let axes = if param == "pyramid_height: 1" { 4 } else { 2 };
            assert_eq!(net.store().blobs[y].shape.axes(), axes);
        }
    }

    /// Output and gradient of a net that ends in blob `y`, for a fixed input and output gradient.
    fn run(text: &str) -> (Vec<f32>, Vec<f32>) {
        let mut net = net(&format!("force_backward: true {text}"), Phase::Train);
        let x = net.blob("x").unwrap();
        let count = net.store().blobs[x].shape.count();
        set(&mut net, "x", &(0..count).map(|i| (i as f32 * 1.7).sin()).collect::<Vec<_>>());
        net.forward().unwrap();
        let y = net.blob("y").unwrap();
        net.diff_mut(y).unwrap().iter_mut().zip(1..).for_each(|(d, i)| *d = i as f32);
        net.backward().unwrap();
        (values(&mut net, "y"), gradient(&mut net, "x"))
    }

    #[test]
    fn is_what_pooling_layers_side_by_side_are() {
        // Kernel (and stride) and pad of each level for a height of 9 and a width of 8.
        let levels = [([9, 8], [0, 0]), ([5, 4], [1, 0]), ([3, 2], [2, 0])];
        let shape = "dim: 2 dim: 3 dim: 9 dim: 8";
        for pool in ["MAX", "AVE"] {
            let mut apart = text(shape, "").split("layer { name: 's'").next().unwrap().to_owned();
            for (l, ([kh, kw], [ph, pw])) in levels.into_iter().enumerate() {
                apart += &format!(
                    "layer {{ name: 'p{l}' type: 'Pooling' bottom: 'x' top: 'p{l}' pooling_param {{ \
                     pool: {pool} kernel_h: {kh} kernel_w: {kw} stride_h: {kh} stride_w: {kw} \
                     pad_h: {ph} pad_w: {pw} }} }} \
                     layer {{ name: 'f{l}' type: 'Flatten' bottom: 'p{l}' top: 'f{l}' }} "
                );
            }
            apart += "layer { name: 'c' type: 'Concat' bottom: 'f0' bottom: 'f1' bottom: 'f2' top: 'y' }";
            let (wanted, wanted_gradient) = run(&apart);
            let (y, dx) = run(&text(shape, &format!("pyramid_height: 3 pool: {pool}")));
            assert_eq!(y, wanted, "{pool}");
            let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-3 * b.abs().max(1.0);
            assert!(dx.iter().zip(&wanted_gradient).all(close), "{pool}");
        }
    }

    #[test]
    fn says_what_does_not_fit() {
        for (shape, param, said) in [
            ("dim: 1 dim: 1 dim: 5 dim: 8", "pyramid_height: 3", "an extent of 5 cannot be cut"),
            ("dim: 1 dim: 1 dim: 5", "pyramid_height: 1", "its shape is 1 1 5 (5)"),
            ("dim: 1 dim: 1 dim: 8 dim: 8", "", "needs pyramid_height"),
            ("dim: 1 dim: 1 dim: 8 dim: 8", "pyramid_height: 1 pool: STOCHASTIC", "STOCHASTIC"),
            ("dim: 1 dim: 1 dim: 8 dim: 8", "pyramid_height: 4000000000", "too large"),
        ] {
            let message = try_net(&text(shape, param), Phase::Test).err().unwrap().to_string();
            assert!(message.contains(said), "{message}");
        }
    }
}
