//! Convolution on a CUDA device: the device's own correlations, and the bias.

use super::geometry::Axis;
use super::{Convolution, Setting};
use crate::blob::Shape;
use crate::device::cuda::backend::{Address, Axis as DeviceAxis, Correlation};
use crate::device::cuda::{CudaRun, Order};
use crate::layers::dims::Around;
use crate::layers::per_channel::Channels;
use crate::layers::{CudaLayer, DeviceIo, Orders, Reals};
use crate::{Result, ensure};

/// Most spatial axes that devices have code for.
const MOST_AXES: usize = 3;
/// Channels of a group have to be a multiple of this to be last: numbers of 16 bits that tensor cores' code
/// reads at once. With fewer, as where each channel is a group, cuDNN is not sure to have any.
const GROUP: usize = 8;

/// A convolution on a device, or its transpose: the same correlation with top and bottom exchanged.
pub(super) struct OnDevice {
    shape: Correlation,
    transposed: bool,
    /// The weights' shape where they have to have their channels last, and that is another array.
    turned: Option<Shape>,
}

impl OnDevice {
    /// For `images` images, in this order where it can be; of a transposed convolution `axes` are those of
    /// its top.
    ///
    /// # Errors
    /// More axes than a device has code for.
    pub(super) fn new(
        setting: &Setting,
        images: usize,
        axes: &[Axis],
        order: Order,
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
        let order = setting.order(order);
        let shape = Correlation { images, channels, outputs, groups, axes, order };
        let turned = shape.turns_weights().then(|| shape.weights_shape());
        Ok(OnDevice { shape, transposed, turned })
    }

    pub(super) fn orders(on: Option<&OnDevice>) -> Orders {
        Orders::Only(on.map_or(Order::Plain, |on| on.shape.order))
    }

    pub(super) fn turns_weights(on: Option<&OnDevice>) -> bool {
        on.is_some_and(|on| on.turned.is_some())
    }

    fn weights(&self, io: &DeviceIo<'_>) -> Result<Address> {
        match &self.turned {
            Some(shape) => io.turned_weights(0, shape),
            None => io.weights(0),
        }
    }

    pub(super) fn forward(
        &self,
        setting: &Setting,
        relu: bool,
        cuda: &CudaRun,
        io: &DeviceIo<'_>,
    ) -> Result<()> {
        for i in 0..io.tops() {
            let (x, w, y) = (io.bottom(i)?, self.weights(io)?, io.top_mut(i)?);
            match self.transposed {
                false => cuda.device.correlate(&self.shape, cuda.real, x, w, y)?,
                true => cuda.device.correlate_back(&self.shape, cuda.real, w, x, y)?,
            }
            if setting.param.bias_term() {
                let bias = io.param(1)?;
                setting.channels_of(io, i).add_then_on(cuda, y, bias, y, relu)?;
            }
        }
        Ok(())
    }

    /// With `relu`, backward through a ReLU behind it, too.
    pub(super) fn backward(
        &self,
        setting: &Setting,
        relu: bool,
        cuda: &CudaRun,
        io: &DeviceIo<'_>,
    ) -> Result<()> {
        for i in (0..io.tops()).filter(|&i| io.top_has_diff(i)) {
            let channels = setting.channels_of(io, i);
            let dy = if relu { io.top_diff_update(i)? } else { io.top_diff(i)? };
            let db = io.param_needs_diff(1).then(|| io.param_diff_mut(1)).transpose()?;
            match db {
                db if relu => channels.relu_back_on(cuda, io.top(i)?, dy, db)?,
                Some(db) => channels.sums_on(cuda, dy, None, (db, true))?,
                None => {}
            }
            if io.param_needs_diff(0) {
                let x = io.bottom(i)?;
                let (image, result) = if self.transposed { (dy, x) } else { (x, dy) };
                let dw = io.param_diff_mut(0)?;
                cuda.device.correlate_weights(&self.shape, cuda.real, image, result, dw)?;
            }
            if io.propagate_down(i) {
                let (w, dx) = (self.weights(io)?, io.bottom_diff_mut(i)?);
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
    /// The channels of top `i`.
    fn channels_of(&self, io: &DeviceIo<'_>, i: usize) -> Channels {
        let axes = self.axis..self.axis + 1;
        Channels::plain(Around::on(io.order(), io.top_shape(i), axes))
    }

    /// The order to work in where the device prefers this one: of images, whose groups of channels fill what
    /// tensor cores take at a time.
    fn order(&self, preferred: Order) -> Order {
        let images = self.axis == 1 && (1..=2).contains(&self.spatial.len());
        let fills = |channels: usize| (channels / self.groups).is_multiple_of(GROUP);
        let groups = self.groups == 1 || (fills(self.channels) && fills(self.outputs));
        if images && groups { preferred } else { Order::Plain }
    }
}

impl CudaLayer for Convolution {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        self.on_device.iter().try_for_each(|on| on.forward(&self.setting, self.relu, cuda, &io))
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let relu = self.takes_relu_back();
        self.on_device.iter().try_for_each(|on| on.backward(&self.setting, relu, cuda, &io))
    }

    fn take_relu(&mut self) -> bool {
        // With the bias it costs nothing.
        self.relu = self.tops == 1 && self.setting.param.bias_term();
        self.relu
    }

    /// Where channels are last: there the kernel that sums the bias's gradient up can do it.
    fn takes_relu_back(&self) -> bool {
        let last = |on: &OnDevice| on.shape.order == Order::ChannelsLast;
        self.relu && self.on_device.as_ref().is_some_and(last)
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
