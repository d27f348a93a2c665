//! Convolution: y_o = b_o + Σ_c w_oc ∗ x_c over the channels of o's group, with kernel, stride, pad
//! and dilation along any number of spatial axes (with none it is an InnerProduct of the channels).
//!
//! ```text
//! layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
//!         param { lr_mult: 1 } param { lr_mult: 2 }
//!         convolution_param { num_output: 96 kernel_size: 11 stride: 4 group: 2 pad: 2
//!                             weight_filler { type: "msra" } bias_term: true } }
//! ```
//! Parameters: weights (num_output, channels / group, kernel…) and the bias (num_output). `engine`
//! and `force_nd_im2col` are accepted and make no difference: results do not depend on them.

mod cuda;
pub(crate) mod geometry;
mod onednn;
mod plain;
pub(super) mod transposed;

use caffe_proto::{ConvolutionParameter, LayerParameter};

use super::dims::Around;
use super::per_channel::Channels;
use super::{Count, CudaLayer, Io, Layer, LayerDef, Setup, dims};
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cpu::threads::Threads;
use crate::params::ParamDef;
use crate::{Result, ensure};
use cuda::OnDevice;
use geometry::{Axis, Patches};
use onednn::Fast;
use plain::Plain;

/// What Convolution and Deconvolution know from their prototxt and their first bottoms.
struct Setting {
    param: ConvolutionParameter,
    /// The channel axis; spatial axes lie behind it.
    axis: usize,
    channels: usize,
    outputs: usize,
    groups: usize,
    /// Kernel, stride, pad and dilation per spatial axis.
    spatial: Vec<[usize; 4]>,
}

impl Setting {
    fn new(layer: &LayerParameter, bottoms: &[Shape]) -> Result<Setting> {
        let param = layer.convolution_param.as_deref().cloned().unwrap_or_default();
        let axis = bottoms[0].axis(param.axis())?;
        let (channels, outputs) = (bottoms[0][axis], param.num_output() as usize);
        let groups = param.group() as usize;
        ensure!(outputs > 0, "needs num_output");
        ensure!(channels > 0, "has no channels in axis {axis} of {}", bottoms[0]);
        ensure!(
            groups > 0 && channels.is_multiple_of(groups) && outputs.is_multiple_of(groups),
            "group {groups} does not divide {channels} channels and num_output {outputs}"
        );
        let spatial = geometry::settings(&param, bottoms[0].axes() - axis - 1)?;
        Ok(Setting { axis, channels, outputs, groups, spatial, param })
    }

    fn kernel(&self) -> impl Iterator<Item = usize> + '_ {
        self.spatial.iter().map(|s| s[0])
    }

    /// Weights of this shape's first two axes, then the bias.
    fn params(&self, first: usize, second: usize) -> Vec<ParamDef> {
        let shape: Vec<usize> = [first, second].into_iter().chain(self.kernel()).collect();
        let weights = self.param.weight_filler.clone().unwrap_or_default();
        let mut params = vec![ParamDef::learned(Shape::new(shape), weights)];
        if self.param.bias_term() {
            let filler = self.param.bias_filler.clone().unwrap_or_default();
            params.push(ParamDef::learned(Shape::from([self.outputs]), filler));
        }
        params
    }

    /// Checks bottoms against the first ones and each other.
    fn check(&self, bottoms: &[Shape]) -> Result<()> {
        for (i, bottom) in bottoms.iter().enumerate() {
            dims::expect(&format!("bottom {i} against bottom 0"), &bottoms[0], bottom)?;
        }
        let axes = self.axis + 1 + self.spatial.len();
        ensure!(
            bottoms[0].axes() == axes && bottoms[0][self.axis] == self.channels,
            "was set up for {axes} axes and {} channels (axis {}), the bottom is now {}",
            self.channels,
            self.axis,
            bottoms[0]
        );
        Ok(())
    }

    /// A blob like `bottom` with another number of channels and other spatial extents.
    fn shape(
        &self,
        bottom: &Shape,
        channels: usize,
        spatial: impl Iterator<Item = usize>,
    ) -> Shape {
        let before = bottom.dims()[..self.axis].iter().copied();
        Shape::new(before.chain([channels]).chain(spatial).collect::<Vec<_>>())
    }

    /// Adds the bias to every channel of a blob.
    fn add_bias(&self, threads: Threads, io: &Io<'_>, shape: &Shape, y: &mut [f32]) -> Result<()> {
        if self.param.bias_term() {
            let b = io.param(1)?;
            let channels = Channels::plain(Around::of(shape, self.axis));
            channels.update(threads, y, |c, _, y| y + b[c]);
        }
        Ok(())
    }

    /// Adds the bias's gradient.
    fn bias_diff(&self, threads: Threads, shape: &Shape, dy: &[f32], db: &mut [f32]) {
        let channels = Channels::plain(Around::of(shape, self.axis));
        let sums = channels.sums(threads, &mut Vec::new(), |_, i| [dy[i]]);
        db.iter_mut().zip(sums).for_each(|(db, [s])| *db += s as f32);
    }
}

/// The layer.
struct Convolution {
    setting: Setting,
    /// Where oneDNN does the work; then the plain path has no memory.
    fast: Option<Fast>,
    plain: Plain,
    /// Spatial axes and images of the present bottoms.
    axes: Vec<Axis>,
    images: usize,
    /// Does the work of the in-place ReLU behind it.
    relu: bool,
    tops: usize,
    /// Where the net runs on a device; then the others have no work.
    on_device: Option<OnDevice>,
}

impl Convolution {
    fn prepare_plain(&mut self) -> Result<()> {
        let Setting { channels, outputs, groups, .. } = self.setting;
        let patches = Patches { channels, axes: self.axes.clone() };
        self.plain.reshape(self.images, patches, outputs, groups)
    }
}

impl Layer for Convolution {
    fn params(&self) -> Vec<ParamDef> {
        self.setting.params(self.setting.outputs, self.setting.channels / self.setting.groups)
    }

    fn reshape(&mut self, run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let setting = &self.setting;
        setting.check(bottoms)?;
        let images = &bottoms[0].dims()[setting.axis + 1..];
        let axes = images
            .iter()
            .zip(&setting.spatial)
            .map(|(&image, &setting)| Axis::new(image, setting))
            .collect::<Result<Vec<_>>>()?;
        let top = setting.shape(&bottoms[0], setting.outputs, axes.iter().map(|a| a.positions));
        top.check_size()?;
        let images = bottoms[0].count_to(setting.axis);
        if let Some(cuda) = run.cuda() {
            let order = cuda.device.order();
            self.on_device = Some(OnDevice::new(setting, images, &axes, order, false)?);
            return Ok(vec![top; bottoms.len()]);
        }
        self.fast = match run.cpu()?.onednn {
            Some(_) => Fast::new(setting, &bottoms[0], &axes),
            None => None,
        };
        (self.images, self.axes) = (images, axes);
        if self.fast.is_none() {
            self.prepare_plain()?;
        }
        Ok(vec![top; bottoms.len()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if let Some(fast) = &mut self.fast
            && let Some(cx) = &run.cpu()?.onednn
        {
            if fast.prepare(cx, &io, self.relu)? {
                return fast.forward(&io);
            }
            self.fast = None;
            self.prepare_plain()?;
        }
        let threads = run.threads();
        for i in 0..io.tops() {
            let y = io.top_mut(i)?;
            self.plain.correlate(threads, io.bottom(i)?, io.param(0)?, y)?;
            self.setting.add_bias(threads, &io, io.top_shape(i), y)?;
            if self.relu {
                threads.par_chunks_mut(y, 8192, |_, y| {
                    y.iter_mut().for_each(|y| {
                        if *y < 0.0 {
                            *y = 0.0
                        }
                    })
                });
            }
        }
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if let Some(fast) = &mut self.fast
            && let Some(cx) = &run.cpu()?.onednn
        {
            return fast.backward(cx, &io);
        }
        let threads = run.threads();
        let wanted = |i: usize| io.param_needs_diff(i).then(|| io.param_diff_mut(i)).transpose();
        let (mut dw, mut db) = (wanted(0)?, wanted(1)?);
        for i in (0..io.tops()).filter(|&i| io.top_has_diff(i)) {
            let dy = io.top_diff(i)?;
            if let Some(db) = &mut db {
                self.setting.bias_diff(threads, io.top_shape(i), dy, db);
            }
            if let Some(dw) = &mut dw {
                self.plain.weights(threads, io.bottom(i)?, dy, dw)?;
            }
            if io.propagate_down(i) {
                self.plain.spread(threads, dy, io.param(0)?, io.bottom_diff_mut(i)?)?;
            }
        }
        Ok(())
    }

    fn kernels(&self) -> Vec<(&'static str, String)> {
        self.fast.as_ref().map_or_else(Vec::new, Fast::kernels)
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }

    fn fuse_relu(&mut self) -> bool {
        self.relu = self.tops == 1;
        self.relu
    }
}

fn build(setup: &Setup<'_>, bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    Ok(Box::new(Convolution {
        setting: Setting::new(setup.param, bottoms)?,
        fast: None,
        plain: Plain::default(),
        axes: Vec::new(),
        images: 0,
        relu: false,
        tops: setup.tops,
        on_device: None,
    }))
}

/// `Convolution`.
pub static DEF: LayerDef =
    LayerDef::new("Convolution", "learned kernels over images of any number of axes", build)
        .counts(Count::AtLeast(1), Count::SameAsBottoms)
        .kernels(&[&super::per_channel::cuda::KERNELS]);
