//! Shapes: the extents of a blob along its axes, outermost first.

use std::fmt;
use std::ops::{Index, Range};

use caffe_proto::{BlobProto, BlobShape};
use smallvec::SmallVec;

use super::Layout;
use crate::{Result, bail};

/// Extents of a blob, such as `[N, C, H, W]`. A scalar has no axes and one element.
/// Up to six axes lie in the value itself: shapes are copied in the hot loop, where nothing is
/// allocated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape(SmallVec<[usize; 6]>);

impl Shape {
    /// A shape with these extents.
    pub fn new(dims: impl Into<Vec<usize>>) -> Self {
        Shape(SmallVec::from_slice(&dims.into()))
    }

    /// The extents.
    pub fn dims(&self) -> &[usize] {
        &self.0
    }

    /// Number of axes.
    pub fn axes(&self) -> usize {
        self.0.len()
    }

    /// Number of elements; of shapes that no memory could hold, the largest number there is.
    pub fn count(&self) -> usize {
        self.count_of(0..self.axes())
    }

    /// Number of elements spanned by a range of axes (an empty range spans one).
    pub fn count_of(&self, axes: Range<usize>) -> usize {
        self.0[axes].iter().fold(1, |count, &d| count.saturating_mul(d))
    }

    /// Holds this shape against Caffe's limit of 2³¹ − 1 elements in a blob.
    ///
    /// # Errors
    /// When there are more.
    pub fn check_size(&self) -> Result<()> {
        if self.count() > i32::MAX as usize {
            bail!("a blob may have 2147483647 elements at most, not the shape {self}");
        }
        Ok(())
    }

    /// Elements in all axes from `axis` on.
    pub fn count_from(&self, axis: usize) -> usize {
        self.count_of(axis..self.axes())
    }

    /// Elements in all axes before `axis`.
    pub fn count_to(&self, axis: usize) -> usize {
        self.count_of(0..axis)
    }

    /// Resolves Caffe's axis index: negative values count from the end.
    ///
    /// # Errors
    /// When the axis is outside `-axes .. axes`.
    pub fn axis(&self, index: i32) -> Result<usize> {
        let n = self.axes() as i64;
        let at = if index < 0 { i64::from(index) + n } else { i64::from(index) };
        if at < 0 || at >= n {
            bail!("axis {index} is outside a blob of {n} axes with shape {self}");
        }
        Ok(at as usize)
    }

    /// Whether a blob of this shape has padding channels in `layout`.
    pub fn is_padded_in(&self, layout: Layout) -> bool {
        layout.is_blocked() && !self.0[1].is_multiple_of(layout.block())
    }

    /// The layout whose order in memory `layout` is for this shape: images of one pixel whose
    /// channels fill whole blocks lie in plain order in every layout.
    pub fn memory_layout(&self, layout: Layout) -> Layout {
        let pixels = self.0.get(2..).unwrap_or_default().iter().product::<usize>();
        if self.axes() < 2 || (pixels == 1 && !self.is_padded_in(layout)) {
            Layout::Plain
        } else {
            layout
        }
    }

    /// The four extents of an image batch; missing trailing axes count as 1.
    ///
    /// # Errors
    /// When the shape has more than four axes.
    pub fn nchw(&self) -> Result<[usize; 4]> {
        if self.axes() > 4 {
            bail!("expected at most 4 axes (N, C, H, W), got shape {self}");
        }
        let at = |i: usize| self.0.get(i).copied().unwrap_or(1);
        Ok([at(0), at(1), at(2), at(3)])
    }

    /// This shape with another extent at one axis.
    pub fn with(&self, axis: usize, extent: usize) -> Shape {
        let mut dims = self.0.clone();
        dims[axis] = extent;
        Shape(dims)
    }

    /// The shape stored in a proto, in today's form or in the old `num, channels, height, width`.
    pub fn of_proto(proto: &BlobProto) -> Shape {
        match &proto.shape {
            Some(shape) => Shape(shape.dim.iter().map(|&d| d.max(0) as usize).collect()),
            None => [proto.num(), proto.channels(), proto.height(), proto.width()]
                .map(|d| d.max(0) as usize)
                .into(),
        }
    }

    /// This shape as a message.
    pub fn to_proto(&self) -> BlobShape {
        BlobShape { dim: self.0.iter().map(|&d| d as i64).collect() }
    }

    /// Whether a stored blob fits: equal shapes, or an old four-axis shape whose leading ones are
    /// not in this shape (old files stored every blob with four axes).
    pub fn accepts(&self, proto: &BlobProto) -> bool {
        let stored = Shape::of_proto(proto);
        if stored == *self {
            return true;
        }
        proto.shape.is_none() && self.axes() <= 4 && {
            let lead = 4 - self.axes();
            stored.0[..lead].iter().all(|&d| d == 1) && stored.0[lead..] == self.0[..]
        }
    }
}

impl Index<usize> for Shape {
    type Output = usize;
    fn index(&self, axis: usize) -> &usize {
        &self.0[axis]
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Shape(SmallVec::from_slice(&dims))
    }
}

/// Caffe's own form: `64 3 32 32 (196608)`.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for d in &self.0 {
            write!(f, "{d} ")?;
        }
        write!(f, "({})", self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_count_from_both_ends() {
        let s = Shape::from([2, 3, 4]);
        assert_eq!(s.axis(-1).unwrap(), 2);
        assert_eq!(s.axis(0).unwrap(), 0);
        assert!(s.axis(3).is_err());
        assert!(s.axis(-4).is_err());
        assert_eq!((s.count(), s.count_from(1), s.count_to(1)), (24, 12, 2));
    }

    #[test]
    fn a_scalar_has_one_element() {
        assert_eq!(Shape::default().count(), 1);
    }

    #[test]
    fn old_files_pad_shapes_with_leading_ones() {
        let old = BlobProto {
            num: Some(1),
            channels: Some(1),
            height: Some(10),
            width: Some(64),
            ..Default::default()
        };
        assert!(Shape::from([10, 64]).accepts(&old));
        assert!(!Shape::from([64, 10]).accepts(&old));
    }
}
