//! Shapes as layers see them: an axis with what lies outside and inside of it, and shapes from
//! prototxt.

use std::ops::Range;

use caffe_proto::BlobShape;

use crate::blob::{Layout, Shape};
use crate::device::cuda::Order;
use crate::{Result, bail, ensure};

/// A shape as three extents: everything before an axis, the axis, everything behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Around {
    /// Elements of the axes before.
    pub outer: usize,
    /// Extent of the axis (or of a range of axes).
    pub extent: usize,
    /// Elements of the axes behind.
    pub inner: usize,
}

impl Around {
    /// `shape` around `axis`.
    pub fn of(shape: &Shape, axis: usize) -> Around {
        Around::over(shape, axis..axis + 1)
    }

    /// `shape` around a range of axes.
    pub fn over(shape: &Shape, axes: Range<usize>) -> Around {
        Around {
            outer: shape.count_to(axes.start),
            extent: shape.count_of(axes.clone()),
            inner: shape.count_from(axes.end),
        }
    }

    /// The same on a device where blobs have this order.
    pub fn on(order: Order, shape: &Shape, axes: Range<usize>) -> Around {
        match order {
            Order::ChannelsLast if axes == (1..2) => {
                let extent = shape[1];
                Around { outer: shape.count_to(1) * shape.count_from(2), extent, inner: 1 }
            }
            _ => Around::over(shape, axes),
        }
    }

    /// Whether a device does better with a thread than with a block for the elements of the axis at
    /// each place: neighbours' lie side by side, or are few.
    pub fn suits_threads(self) -> bool {
        self.inner > 1 || self.extent < 32
    }
}

/// The `num_axes` axes from `axis` on (all of them for −1), over which Scale and Bias have values
/// of their own.
///
/// # Errors
/// When they go beyond `shape`.
pub fn span(shape: &Shape, axis: i32, num_axes: i32) -> Result<Range<usize>> {
    ensure!(num_axes >= -1, "num_axes must be at least -1, got {num_axes}");
    let start = shape.axis(axis)?;
    let end = if num_axes == -1 { shape.axes() } else { start + num_axes as usize };
    ensure!(
        end <= shape.axes(),
        "axis {axis} and num_axes {num_axes} go beyond a bottom of shape {shape}"
    );
    Ok(start..end)
}

/// The axes from `axis` on that a bottom of shape `values` is laid over.
///
/// # Errors
/// When the extents differ.
pub fn laid_over(shape: &Shape, axis: i32, values: &Shape) -> Result<Range<usize>> {
    // A single value goes over everything, whatever the axis.
    let start = if values.axes() == 0 { 0 } else { shape.axis(axis)? };
    let axes = start..start + values.axes();
    match shape.dims().get(axes.clone()) {
        Some(dims) if dims == values.dims() => Ok(axes),
        _ => bail!(
            "the second bottom's shape {values} is not that of the first, {shape}, from axis {axis} on"
        ),
    }
}

/// The axis of Concat or Slice: `axis` (by default 1), or what old nets call `name`.
///
/// # Errors
/// When both are given, or the old one is no axis.
pub fn axis_or_old(axis: Option<i32>, (old, name): (Option<u32>, &str)) -> Result<i32> {
    let Some(old) = old else { return Ok(axis.unwrap_or(1)) };
    ensure!(axis.is_none(), "give `axis` or the older `{name}`, not both");
    i32::try_from(old).or_else(|_| bail!("{name} {old} is no axis"))
}

/// The shape in a `shape { dim: … }` block.
///
/// # Errors
/// When an extent is negative, or all of them make too large a blob.
pub fn of_message(message: &BlobShape) -> Result<Shape> {
    if let Some(dim) = message.dim.iter().find(|d| **d < 0) {
        bail!("a blob shape cannot have the negative extent {dim}");
    }
    let shape = Shape::new(message.dim.iter().map(|&d| d as usize).collect::<Vec<_>>());
    shape.check_size()?;
    Ok(shape)
}

/// Says that `got` had to be `expected`.
///
/// # Errors
/// When it is not.
pub fn expect(what: &str, expected: &Shape, got: &Shape) -> Result<()> {
    if expected == got {
        return Ok(());
    }
    Err(crate::Error::ShapeMismatch {
        what: what.to_owned(),
        expected: Box::new(expected.clone()),
        got: Box::new(got.clone()),
    })
}

/// The number at `position` of a blob of indices, below `end`. Fractions are cut off, as Caffe does.
///
/// # Errors
/// When it is outside; the message names value, place and range.
pub fn index(indices: &[f32], position: usize, end: usize) -> Result<usize> {
    let value = indices[position];
    let index = value as i64;
    if value.is_nan() || index < 0 || index as u64 >= end as u64 {
        bail!("index {value} at position {position} is outside the range 0 to {}", end as i64 - 1);
    }
    Ok(index as usize)
}

/// The first private layout among `layouts`, or plain: what a layer that takes any layout works in.
pub fn first_blocked(layouts: impl IntoIterator<Item = Layout>) -> Layout {
    layouts.into_iter().find(|l| *l != Layout::Plain).unwrap_or_default()
}
