//! Where windows stand along one axis.

use caffe_proto::PoolingParameter;
use caffe_proto::pooling_parameter::RoundMode;

use crate::{Result, bail, ensure};

/// Windows along one axis: far beyond any image, and little memory.
const MOST: usize = 1 << 24;

/// Window, stride and padding along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Extent of the window.
    pub size: usize,
    /// Distance of two windows.
    pub stride: usize,
    /// Padding before and behind the image.
    pub pad: usize,
    /// Whether the last window may hang over the edge.
    pub ceil: bool,
    /// Whether any axis is padded: windows that start behind the image are dropped then.
    pub clip: bool,
}

impl Kernel {
    /// Of height and width; none for global pooling.
    ///
    /// # Errors
    /// When sizes are missing, double or do not make sense.
    pub fn of(param: &PoolingParameter) -> Result<Option<[Kernel; 2]>> {
        let both = |what, one: Option<u32>, two: [Option<u32>; 2], default: Option<u32>| match (
            one, two, default,
        ) {
            (None, [Some(h), Some(w)], _) => Ok([h as usize, w as usize]),
            (one, [None, None], default) => match one.or(default) {
                Some(n) => Ok([n as usize; 2]),
                None => bail!("needs {what}_size, or global_pooling"),
            },
            _ => bail!("give {what}, or both {what}_h and {what}_w"),
        };
        let pad = both("pad", param.pad, [param.pad_h, param.pad_w], Some(0))?;
        let stride = both("stride", param.stride, [param.stride_h, param.stride_w], Some(1))?;
        let sides = [param.kernel_h, param.kernel_w];
        if param.global_pooling() {
            ensure!(
                param.kernel_size.is_none() && sides == [None, None],
                "global_pooling takes the whole image: give no kernel"
            );
            ensure!(
                pad == [0, 0] && stride == [1, 1],
                "global_pooling takes neither pad nor stride"
            );
            return Ok(None);
        }
        let size = both("kernel", param.kernel_size, sides, None)?;
        let kernel = |i: usize| {
            let [size, stride, pad] = [size[i], stride[i], pad[i]];
            ensure!(size > 0 && stride > 0, "kernel and stride must be at least 1");
            ensure!(pad < size, "pad {pad} must be smaller than the kernel {size}");
            let ceil = param.round_mode() == RoundMode::Ceil;
            Ok(Kernel { size, stride, pad, ceil, clip: false })
        };
        let mut kernels = [kernel(0)?, kernel(1)?];
        let clip = kernels.iter().any(|k| k.pad > 0);
        kernels.iter_mut().for_each(|k| k.clip = clip);
        Ok(Some(kernels))
    }

    /// The windows on an image of this extent.
    ///
    /// # Errors
    /// When the window is larger than the padded image.
    pub fn windows(&self, image: usize) -> Result<Windows> {
        let Kernel { size, stride, pad, ceil, clip } = *self;
        let Some(room) = (image + 2 * pad).checked_sub(size) else {
            bail!("a window of {size} does not fit an image of {image} with padding {pad}");
        };
        let mut count = if ceil { room.div_ceil(stride) } else { room / stride } + 1;
        if clip && (count - 1) * stride >= image + pad {
            count -= 1;
        }
        ensure!(count <= MOST, "{count} windows in a row are more than the {MOST} allowed");
        let window = |i: usize| {
            let end = (i * stride + size).min(image + 2 * pad);
            Window {
                start: (i * stride).saturating_sub(pad).min(image),
                end: end.saturating_sub(pad).min(image),
                padded: end.saturating_sub(i * stride),
            }
        };
        Ok(Windows { image, each: (0..count).map(window).collect() })
    }
}

/// One window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First element of the image in it.
    pub start: usize,
    /// End of the elements of the image in it.
    pub end: usize,
    /// Its extent inside the padded image: the divisor of a mean.
    pub padded: usize,
}

/// The windows along one axis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// Extent of the image.
    pub image: usize,
    /// The windows, in order.
    pub each: Vec<Window>,
}

impl Windows {
    /// One window over everything.
    pub fn whole(image: usize) -> Self {
        Windows { image, each: vec![Window { start: 0, end: image, padded: image }] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(
        image: usize,
        size: usize,
        stride: usize,
        pad: usize,
        ceil: bool,
    ) -> Vec<[usize; 3]> {
        let kernel = Kernel { size, stride, pad, ceil, clip: pad > 0 };
        kernel.windows(image).unwrap().each.iter().map(|w| [w.start, w.end, w.padded]).collect()
    }

    #[test]
    fn ceil_hangs_over_and_padding_drops_what_starts_behind() {
        assert_eq!(windows(6, 3, 2, 0, true), [[0, 3, 3], [2, 5, 3], [4, 6, 2]]);
        assert_eq!(windows(6, 3, 2, 0, false), [[0, 3, 3], [2, 5, 3]]);
        // 2 + 2 = 4 positions by rounding up; the last would start at 6 = image + pad.
        assert_eq!(windows(5, 2, 2, 1, true), [[0, 1, 2], [1, 3, 2], [3, 5, 2]]);
        // Divisors count padding on both sides, but nothing behind it.
        assert_eq!(windows(4, 3, 2, 1, true), [[0, 2, 3], [1, 4, 3], [3, 4, 2]]);
    }
}
