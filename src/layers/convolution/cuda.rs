//! Convolution on a CUDA device: the device's own correlations, and the bias.

use super::geometry::Axis;
use super::{Convolution, Setting};
use crate::blob::Shape;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::{Axis as DeviceAxis, Correlation};
use crate::layers::dims::Around;
use crate::layers::per_channel::Channels;
use crate::layers::{CudaLayer, DeviceIo, Reals};
use crate::{Result, ensure};

/// Most spatial axes that devices have code for.
const MOST_AXES: usize = 3;

/// A convolution on a device, or its transpose: the same correlation with top and bottom exchanged.
pub(super) struct OnDevice {
    shape: Correlation,
    transposed: bool,
}

impl OnDevice {
    /// For `images` images; of a transposed convolution `axes` are those of its top.
    ///
    /// # Errors
    /// More axes than a device has code for.
    pub(super) fn new(
        setting: &Setting,
        images: usize,
        axes: &[Axis],
        transposed: bool,
    ) -> Result<OnDevice> {
        ensure!(
            axes.len() <= MOST_AXES,
            "has {} spatial axes; a CUDA device takes at most {MOST_AXES}",
            axes.len()
        );
        let of = |a: &Axis| DeviceAxis {
            image: a.image,
            kernel: a.kernel,
            stride: a.stride,
            pad: a.pad,
            dilation: a.dilation,
            positions: a.positions,
        };
        let point =
            DeviceAxis { image: 1, kernel: 1, stride: 1, pad: 0, dilation: 1, positions: 1 };
        let axes = if axes.is_empty() { vec![point] } else { axes.iter().map(of).collect() };
        let Setting { channels, outputs, groups, .. } = *setting;
        let [channels, outputs] =
            if transposed { [outputs, channels] } else { [channels, outputs] };
        let shape = Correlation { images, channels, outputs, groups, axes };
        Ok(OnDevice { shape, transposed })
    }

    pub(super) fn forward(
        &self,
        setting: &Setting,
        relu: bool,
        cuda: &CudaRun,
        io: &DeviceIo<'_>,
    ) -> Result<()> {
        for i in 0..io.tops() {
            let (x, w, y) = (io.bottom(i)?, io.weights(0)?, io.top_mut(i)?);
            match self.transposed {
                false => cuda.device.correlate(&self.shape, cuda.real, x, w, y)?,
                true => cuda.device.correlate_back(&self.shape, cuda.real, w, x, y)?,
            }
            if setting.param.bias_term() {
                let bias = io.param(1)?;
                setting.channels_of(io.top_shape(i)).add_then_on(cuda, y, bias, y, relu)?;
            }
        }
        Ok(())
    }

    pub(super) fn backward(
        &self,
        setting: &Setting,
        cuda: &CudaRun,
        io: &DeviceIo<'_>,
    ) -> Result<()> {
        for i in (0..io.tops()).filter(|&i| io.top_has_diff(i)) {
            let dy = io.top_diff(i)?;
            if io.param_needs_diff(1) {
                let db = io.param_diff_mut(1)?;
                setting.channels_of(io.top_shape(i)).sums_on(cuda, dy, None, (db, true))?;
            }
            if io.param_needs_diff(0) {
                let x = io.bottom(i)?;
                let (image, result) = if self.transposed { (dy, x) } else { (x, dy) };
                let dw = io.param_diff_mut(0)?;
                cuda.device.correlate_weights(&self.shape, cuda.real, image, result, dw)?;
            }
            if io.propagate_down(i) {
                let (w, dx) = (io.weights(0)?, io.bottom_diff_mut(i)?);
                match self.transposed {
                    false => cuda.device.correlate_back(&self.shape, cuda.real, w, dy, dx)?,
                    true => cuda.device.correlate(&self.shape, cuda.real, dy, w, dx)?,
                }
            }
        }
        Ok(())
    }
}

impl Setting {
    fn channels_of(&self, shape: &Shape) -> Channels {
        Channels::plain(Around::of(shape, self.axis))
    }
}

impl CudaLayer for Convolution {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        self.on_device.iter().try_for_each(|on| on.forward(&self.setting, self.relu, cuda, &io))
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        self.on_device.iter().try_for_each(|on| on.backward(&self.setting, cuda, &io))
    }

    fn take_relu(&mut self) -> bool {
        // With the bias it costs nothing.
        self.relu = self.tops == 1 && self.setting.param.bias_term();
        self.relu
    }

    fn reals(&self) -> Reals {
        Reals::ALL
    }
}
