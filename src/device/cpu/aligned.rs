//! Buffers of `f32` that start on a cache line.
//!
//! oneDNN's kernels load whole 64-byte vectors; a buffer that starts in the middle of a line makes
//! each of them touch two. Not an arena: one buffer, zeroed, that only grows when told.
//!
//! ```
//! use caffe::device::cpu::aligned::AlignedBuf;
//! let mut buf = AlignedBuf::zeroed(100);
//! buf[7] = 1.0;
//! assert_eq!(buf.as_ptr() as usize % 64, 0);
//! ```

use std::ops::{Deref, DerefMut};

const LANES: usize = 16;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LANES]);

/// A zero-initialised `f32` buffer aligned to 64 bytes. Derefs to a slice of its length.
#[derive(Clone, Default)]
pub struct AlignedBuf {
    lines: Vec<Line>,
    len: usize,
}

impl AlignedBuf {
    /// A buffer of `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        Self { lines: vec![Line([0.0; LANES]); len.div_ceil(LANES)], len }
    }

    /// A buffer with the elements of `values`.
    pub fn from_slice(values: &[f32]) -> Self {
        let mut buf = Self::zeroed(values.len());
        buf.copy_from_slice(values);
        buf
    }

    /// The first element, without making a slice: for arenas that lend disjoint parts.
    pub fn base(&mut self) -> *mut f32 {
        self.lines.as_mut_ptr().cast()
    }

    /// Makes the buffer at least `len` elements long. What it held is lost when it grows.
    pub fn reserve(&mut self, len: usize) {
        if len > self.len {
            *self = Self::zeroed(len);
        }
    }
}

impl Deref for AlignedBuf {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `lines` holds at least `len` initialised f32 (Line is repr(C), 16 f32, no gaps),
        // borrowed for as long as `self`.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_zeroed_and_writable() {
        let mut buf = AlignedBuf::zeroed(33);
        assert_eq!(buf.as_ptr() as usize % 64, 0);
        assert!(buf.iter().all(|&v| v == 0.0));
        buf[32] = 2.0;
        assert_eq!(AlignedBuf::from_slice(&buf)[32], 2.0);
        assert!(AlignedBuf::zeroed(0).is_empty());
        buf.reserve(10);
        assert_eq!((buf.len(), buf[32]), (33, 2.0));
        buf.reserve(100);
        assert_eq!((buf.len(), buf[32]), (100, 0.0));
    }
}
