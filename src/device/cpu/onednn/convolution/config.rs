//! What a convolution is: sizes, layouts, and which directions it must run in.

use std::fmt;

use super::super::error::{Error, Result};
use crate::blob::layout::Layout;

/// A 2-D convolution over activations N×IC×IH×IW → N×OC×OH×OW.
#[derive(Clone, Debug, PartialEq)]
pub struct ConvConfig {
    /// Images.
    pub n: usize,
    /// Input channels, all groups together, without padding.
    pub ic: usize,
    /// Input height and width.
    pub input: [usize; 2],
    /// Output channels, all groups together, without padding.
    pub oc: usize,
    /// Output height and width.
    pub output: [usize; 2],
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// Step height and width.
    pub stride: [usize; 2],
    /// Padding at the top and at the left; bottom and right follow from the output size.
    pub pad: [usize; 2],
    /// Distance of two kernel taps, Caffe's count: 1 is dense.
    pub dilation: [usize; 2],
    /// Groups; weights are OC × IC/groups × KH × KW.
    pub groups: usize,
    /// Whether a bias is added.
    pub bias: bool,
    /// Whether the output is max(0, y). Backward still expects the gradient of the convolution
    /// itself: the caller masks it where the output is 0.
    pub fuse_relu: bool,
    /// Whether Winograd may be used (3×3, stride 1): faster, and less exact by some 10⁻⁶ of the
    /// largest term.
    pub winograd: bool,
    /// Layout of the input and its gradient.
    pub src_layout: Layout,
    /// Layout of the output and its gradient.
    pub dst_layout: Layout,
    /// Whether the input's gradient will be asked for.
    pub backward_data: bool,
    /// Whether the gradient of weights and bias will be asked for.
    pub backward_weights: bool,
}

impl ConvConfig {
    /// The layout the input of a convolution should have: blocked, except where so few channels
    /// come in (images) that the padding would be most of the work; oneDNN has kernels of its own
    /// for those.
    pub fn preferred_src_layout(ic: usize, groups: usize) -> Layout {
        let blocked = Layout::preferred_blocked();
        if groups == 1 && ic < blocked.block() / 2 { Layout::Plain } else { blocked }
    }

    /// Elements of the weights: OC × IC/groups × KH × KW.
    pub fn weights_len(&self) -> usize {
        self.oc * self.row_len()
    }

    /// Multiplications and additions of one direction, counted for the direct algorithm.
    pub fn flops(&self) -> f64 {
        let outputs = (self.n * self.oc * self.output[0] * self.output[1]) as f64;
        2.0 * outputs * self.row_len() as f64
    }

    /// Weights of one output channel.
    pub(super) fn row_len(&self) -> usize {
        self.ic / self.groups * self.kernel[0] * self.kernel[1]
    }

    /// The same convolution with channels rounded up to whole blocks.
    pub(super) fn padded(&self) -> Result<Self> {
        let unsupported = |reason| Err(Error::Unsupported { what: self.to_string(), reason });
        let g = self.groups;
        let sizes = [self.input, self.output, self.kernel, self.stride, self.dilation];
        if self.n * self.ic * self.oc * g == 0 || sizes.as_flattened().contains(&0) {
            return unsupported("a size is zero");
        }
        if !self.ic.is_multiple_of(g) || !self.oc.is_multiple_of(g) {
            return unsupported("channels are not a multiple of the groups");
        }
        let ic = self.src_layout.padded_channels(self.ic);
        let oc = self.dst_layout.padded_channels(self.oc);
        if g == 1 {
            return Ok(Self { ic, oc, ..self.clone() });
        }
        if g == self.ic && g == self.oc && self.src_layout == self.dst_layout {
            return Ok(Self { ic, oc, groups: ic, ..self.clone() });
        }
        let whole = |channels: usize, layout: Layout| (channels / g).is_multiple_of(layout.block());
        if !whole(self.ic, self.src_layout) || !whole(self.oc, self.dst_layout) {
            return unsupported(
                "a group's channels do not fill whole blocks; use the plain layout",
            );
        }
        Ok(self.clone())
    }

    /// Padding at the bottom and right, such that the windows give the output size.
    pub(super) fn pad_end(&self) -> [usize; 2] {
        [0, 1].map(|i| {
            let extent = (self.kernel[i] - 1) * self.dilation[i] + 1;
            let reached = (self.output[i] - 1) * self.stride[i] + extent;
            reached.saturating_sub(self.input[i] + self.pad[i])
        })
    }

    /// Whether Winograd is allowed and pays: it saves up to 4/9 of the multiplications of a dense
    /// 3×3, but oneDNN's kernels want whole blocks of channels on both sides, and images with a
    /// handful of channels lose more in the transforms than they save.
    pub(super) fn wants_winograd(&self) -> bool {
        self.winograd
            && self.kernel == [3, 3]
            && self.stride == [1, 1]
            && self.dilation == [1, 1]
            && self.groups == 1
            && self.src_layout == Layout::Blocked16
            && self.dst_layout == Layout::Blocked16
            && self.ic >= 16
            && self.oc >= 16
    }
}

impl fmt::Display for ConvConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kh, kw] = self.kernel;
        let ([ih, iw], [oh, ow]) = (self.input, self.output);
        write!(f, "a {kh}x{kw} convolution {}x{}x{ih}x{iw} {}", self.n, self.ic, self.src_layout)?;
        write!(f, " -> {}x{oh}x{ow} {}", self.oc, self.dst_layout)?;
        write!(f, " (stride {:?}, pad {:?}", self.stride, self.pad)?;
        write!(f, ", dilation {:?}, groups {})", self.dilation, self.groups)
    }
}
