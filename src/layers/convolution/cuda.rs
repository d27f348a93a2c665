//! Convolution on a CUDA device: the device's own correlations, and the bias.

use super::geometry::Axis;
use super::{Convolution, Setting};
use crate::blob::Shape;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::{Address, Axis as DeviceAxis, Correlation};
use crate::layers::dims::Around;
use crate::layers::per_channel::Channels;
use crate::layers::{CudaLayer, DeviceIo};
use crate::{Result, ensure};

/// Most spatial axes that devices have code for.
const MOST_AXES: usize = 3;

/// A correlation from `channels` to `outputs` channels, as a device wants it.
///
/// # Errors
/// More axes than a device has code for.
pub(super) fn correlation(
    images: usize,
    [channels, outputs]: [usize; 2],
    groups: usize,
    axes: &[Axis],
) -> Result<Correlation> {
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
    let point = DeviceAxis { image: 1, kernel: 1, stride: 1, pad: 0, dilation: 1, positions: 1 };
    let axes = if axes.is_empty() { vec![point] } else { axes.iter().map(of).collect() };
    Ok(Correlation { images, channels, outputs, groups, axes })
}

impl Setting {
    fn channels_of(&self, shape: &Shape) -> Channels {
        Channels::plain(Around::of(shape, self.axis))
    }

    /// Adds the bias to every channel of a blob.
    pub(super) fn add_bias_on(
        &self,
        cuda: &CudaRun,
        io: &DeviceIo<'_>,
        shape: &Shape,
        y: Address,
    ) -> Result<()> {
        if !self.param.bias_term() {
            return Ok(());
        }
        self.channels_of(shape).add_on(cuda, y, io.param(1)?, y)
    }

    /// Adds the bias's gradient.
    pub(super) fn bias_diff_on(
        &self,
        cuda: &CudaRun,
        shape: &Shape,
        dy: Address,
        db: Address,
    ) -> Result<()> {
        self.channels_of(shape).sums_on(cuda, dy, None, (db, true))
    }
}

impl Convolution {
    fn on_device(&self) -> Result<Correlation> {
        let Setting { channels, outputs, groups, .. } = self.setting;
        correlation(self.images, [channels, outputs], groups, &self.axes)
    }
}

impl CudaLayer for Convolution {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let shape = self.on_device()?;
        for i in 0..io.tops() {
            let y = io.top_mut(i)?;
            cuda.device.correlate(&shape, io.bottom(i)?, io.param(0)?, y)?;
            self.setting.add_bias_on(cuda, &io, io.top_shape(i), y)?;
        }
        Ok(())
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let shape = self.on_device()?;
        for i in (0..io.tops()).filter(|&i| io.top_has_diff(i)) {
            let dy = io.top_diff(i)?;
            if io.param_needs_diff(1) {
                self.setting.bias_diff_on(cuda, io.top_shape(i), dy, io.param_diff_mut(1)?)?;
            }
            if io.param_needs_diff(0) {
                let dw = io.param_diff_mut(0)?;
                cuda.device.correlate_weights(&shape, io.bottom(i)?, dy, dw)?;
            }
            if io.propagate_down(i) {
                let dx = io.bottom_diff_mut(i)?;
                cuda.device.correlate_back(&shape, io.param(0)?, dy, dx)?;
            }
        }
        Ok(())
    }
}
