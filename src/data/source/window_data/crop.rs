//! Where a window lies in its image and in the blob.
//!
//! The rule is that of R-CNN (Girshick et al., 2014, appendix A): the window, widened so that
//! `context_pad` pixels around it remain after scaling, is stretched to crop × crop; `square` takes
//! the smallest square around it instead. What of it lies outside of the image stays 0 in the blob.

/// A layer's cropping.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cropping {
    /// Side of the blob.
    pub(super) side: usize,
    /// Pixels of context at each edge of the blob.
    pub(super) context: usize,
    /// Keep the aspect ratio.
    pub(super) square: bool,
}

/// Which part of the image goes where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    /// Row and column of the part's corner in the image.
    pub(super) corner: [usize; 2],
    /// Its height and width there.
    pub(super) part: [usize; 2],
    /// Its height and width in the blob.
    pub(super) size: [usize; 2],
    /// Row and column of its corner in the blob.
    pub(super) at: [usize; 2],
}

impl Cropping {
    /// Places the window with these corners (x1, y1, x2, y2) of an image of `height` × `width`;
    /// `None` when nothing of it lies in the image.
    pub(super) fn place(
        self,
        [x1, y1, x2, y2]: [i32; 4],
        [height, width]: [usize; 2],
        mirror: bool,
    ) -> Option<Placed> {
        let extents = [i64::from(y2) - i64::from(y1) + 1, i64::from(x2) - i64::from(x1) + 1];
        let longest = extents[0].max(extents[1]);
        let rows = self.axis([y1, y2], height, longest, false)?;
        let columns = self.axis([x1, x2], width, longest, mirror)?;
        Some(Placed {
            corner: [rows.corner, columns.corner],
            part: [rows.part, columns.part],
            size: [rows.size, columns.size],
            at: [rows.at, columns.at],
        })
    }

    /// The same in one direction, for an image of `len` pixels.
    fn axis(self, [from, to]: [i32; 2], len: usize, longest: i64, mirror: bool) -> Option<Axis> {
        let (mut from, mut to, len) = (i64::from(from), i64::from(to), len as i64);
        if self.context > 0 || self.square {
            let side = self.side as f32;
            let scale = side / (side - 2.0 * self.context as f32);
            let half = (to - from + 1) as f32 / 2.0;
            let centre = from as f32 + half;
            let reach = if self.square { longest as f32 / 2.0 } else { half } * scale;
            from = (centre - reach).round() as i64;
            to = (centre + reach).round() as i64;
        }
        let (before, after) = ((-from).max(0), (to - len + 1).max(0));
        let scale = self.side as f32 / (to - from + 1) as f32;
        let part = (to - after) - (from + before) + 1;
        if part <= 0 {
            return None;
        }
        let scaled = |pixels: i64| (pixels as f32 * scale).round() as usize;
        let at = scaled(if mirror { after } else { before }).min(self.side);
        Some(Axis {
            corner: (from + before) as usize,
            part: part as usize,
            size: scaled(part).min(self.side - at),
            at,
        })
    }
}

struct Axis {
    corner: usize,
    part: usize,
    size: usize,
    at: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_without_context_is_stretched_as_it_is() {
        let warp = Cropping { side: 8, context: 0, square: false };
        let placed = warp.place([2, 3, 5, 12], [20, 30], false).unwrap();
        let wanted = Placed { corner: [3, 2], part: [10, 4], size: [8, 8], at: [0, 0] };
        assert_eq!(placed, wanted);
    }

    #[test]
    fn what_lies_outside_leaves_room_on_the_side_where_it_was() {
        // 10 x 10 at the left edge with context: the scale is 16 / (16 - 8) = 2, so the window grows
        // to columns -5 … 15, of which 5 are missing.
        let warp = Cropping { side: 16, context: 4, square: false };
        let placed = warp.place([0, 20, 9, 29], [60, 60], false).unwrap();
        assert_eq!((placed.corner, placed.part), ([15, 0], [21, 16]));
        assert_eq!((placed.at, placed.size), ([0, 4], [16, 12]));
        let mirrored = warp.place([0, 20, 9, 29], [60, 60], true).unwrap();
        assert_eq!((mirrored.at, mirrored.size), ([0, 0], [16, 12]));
        assert_eq!(warp.place([100, 20, 109, 29], [60, 60], false), None);
    }

    #[test]
    fn a_square_keeps_the_aspect_ratio() {
        let square = Cropping { side: 10, context: 0, square: true };
        let placed = square.place([20, 10, 23, 29], [100, 100], false).unwrap();
        assert_eq!((placed.corner, placed.part), ([10, 12], [21, 21]));
    }
}
