//! Deconvolution: the transpose of Convolution, whose forward pass is a convolution's backward pass
//! to its bottom. Every element of the bottom spreads over the top under its kernel.
//!
//! ```text
//! layer { name: "up" type: "Deconvolution" bottom: "score" top: "up" param { lr_mult: 0 }
//!         convolution_param { num_output: 21 group: 21 kernel_size: 4 stride: 2 pad: 1
//!                             bias_term: false weight_filler { type: "bilinear" } } }
//! ```
//! Parameters: weights (channels, num_output / group, kernel…) and the bias (num_output).

use super::Setting;
use super::cuda::OnDevice;
use super::geometry::{Axis, Patches};
use super::plain::Plain;
use crate::Result;
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::layers::per_channel::cuda::KERNELS;
use crate::layers::{Count, CudaLayer, DeviceIo, Io, Layer, LayerDef, Orders, Reals, Setup};
use crate::params::ParamDef;

/// The layer.
struct Deconvolution {
    setting: Setting,
    /// The convolution from top to bottom.
    plain: Plain,
    /// Where the net runs on a device.
    on_device: Option<OnDevice>,
}

impl Layer for Deconvolution {
    fn params(&self) -> Vec<ParamDef> {
        self.setting.params(self.setting.channels, self.setting.outputs / self.setting.groups)
    }

    fn reshape(&mut self, run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let setting = &self.setting;
        setting.check(bottoms)?;
        let positions = &bottoms[0].dims()[setting.axis + 1..];
        let axes = positions
            .iter()
            .zip(&setting.spatial)
            .map(|(&positions, &setting)| Axis::new(Axis::image_of(positions, setting)?, setting))
            .collect::<Result<Vec<_>>>()?;
        let top = setting.shape(&bottoms[0], setting.outputs, axes.iter().map(|a| a.image));
        top.check_size()?;
        let images = bottoms[0].count_to(setting.axis);
        if let Some(cuda) = run.cuda() {
            let order = cuda.device.order();
            self.on_device = Some(OnDevice::new(setting, images, &axes, order, true)?);
        } else {
            let patches = Patches { channels: setting.outputs, axes };
            self.plain.reshape(images, patches, setting.channels, setting.groups)?;
        }
        Ok(vec![top; bottoms.len()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        for i in 0..io.tops() {
            let y = io.top_mut(i)?;
            self.plain.spread(run.threads(), io.bottom(i)?, io.param(0)?, y)?;
            self.setting.add_bias(run.threads(), &io, io.top_shape(i), y)?;
        }
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let threads = run.threads();
        let wanted = |i: usize| io.param_needs_diff(i).then(|| io.param_diff_mut(i)).transpose();
        let (mut dw, mut db) = (wanted(0)?, wanted(1)?);
        for i in (0..io.tops()).filter(|&i| io.top_has_diff(i)) {
            let dy = io.top_diff(i)?;
            if let Some(db) = &mut db {
                self.setting.bias_diff(threads, io.top_shape(i), dy, db);
            }
            if let Some(dw) = &mut dw {
                self.plain.weights(threads, dy, io.bottom(i)?, dw)?;
            }
            if io.propagate_down(i) {
                self.plain.correlate(threads, dy, io.param(0)?, io.bottom_diff_mut(i)?)?;
            }
        }
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

impl CudaLayer for Deconvolution {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        self.on_device.iter().try_for_each(|on| on.forward(&self.setting, false, cuda, &io))
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        self.on_device.iter().try_for_each(|on| on.backward(&self.setting, false, cuda, &io))
    }

    fn reals(&self) -> Reals {
        Reals::ALL
    }

    fn orders(&self) -> Orders {
        OnDevice::orders(self.on_device.as_ref())
    }

    fn turns_weights(&self) -> bool {
        OnDevice::turns_weights(self.on_device.as_ref())
    }
}

fn build(setup: &Setup<'_>, bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let setting = Setting::new(setup.param, bottoms)?;
    Ok(Box::new(Deconvolution { setting, plain: Plain::default(), on_device: None }))
}

/// `Deconvolution`.
pub static DEF: LayerDef =
    LayerDef::new("Deconvolution", "the transpose of Convolution: enlarges images", build)
        .counts(Count::AtLeast(1), Count::SameAsBottoms)
        .kernels(&[&KERNELS]);
