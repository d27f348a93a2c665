//! [`Correlation`]: what a convolution asks of a device, and what its algorithms are chosen by.

use serde::{Deserialize, Serialize};

use super::order::Order;
use crate::blob::Shape;

/// One spatial axis of a [`Correlation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Axis {
    /// Extent of the image.
    pub image: usize,
    /// Kernel elements.
    pub kernel: usize,
    /// Distance of two kernel positions.
    pub stride: usize,
    /// Zeros before and behind the image.
    pub pad: usize,
    /// Distance of two kernel elements.
    pub dilation: usize,
    /// Kernel positions.
    pub positions: usize,
}

/// y_o = Σ_c w_oc ∗ x_c over the channels of o's group: x is (images, channels, image…), w is (outputs,
/// channels / groups, kernel…), y is (images, outputs, positions…), all in one order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Correlation {
    /// Number of images.
    pub images: usize,
    /// Channels of x.
    pub channels: usize,
    /// Channels of y.
    pub outputs: usize,
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// The spatial axes, one to three.
    pub axes: Vec<Axis>,
    /// Order of x, w and y, and of their gradients; the gradient of w is added to a plain one.
    pub order: Order,
}

impl Correlation {
    /// Elements of w.
    pub fn weights(&self) -> usize {
        let kernel: usize = self.axes.iter().map(|axis| axis.kernel).product();
        self.outputs * (self.channels / self.groups) * kernel
    }

    /// Whether w's gradient in the order of w is another array than in plain order.
    pub fn turns_weights(&self) -> bool {
        self.order.of(&self.weights_shape()) != Order::Plain
    }

    /// (outputs, channels / groups, kernel…).
    pub fn weights_shape(&self) -> Shape {
        let first = [self.outputs, self.channels / self.groups];
        Shape::new(first.into_iter().chain(self.axes.iter().map(|a| a.kernel)).collect::<Vec<_>>())
    }
}
