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

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Bytes to which buffers are aligned.
const LINE: usize = 64;
/// Bytes of a page, to which large buffers are aligned and filled up.
pub const PAGE: usize = 4096;
/// Bytes from which on a buffer is large: it has its pages to itself, so that they can be locked for the
/// copies of a GPU.
pub const LARGE: usize = 16 * PAGE;

/// A zero-initialised `f32` buffer aligned to 64 bytes. Derefs to a slice of its length.
pub struct AlignedBuf {
    at: NonNull<f32>,
    len: usize,
}

// SAFETY: it owns its memory, which belongs to no thread, and is changed through `&mut self` only.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above.
unsafe impl Sync for AlignedBuf {}

/// How the memory of so many floats is taken; `None` for none.
fn layout(len: usize) -> Option<Layout> {
    let bytes = len.checked_mul(size_of::<f32>())?;
    let align = if bytes >= LARGE { PAGE } else { LINE };
    let whole = bytes.checked_next_multiple_of(align)?;
    if whole == 0 { None } else { Layout::from_size_align(whole, align).ok() }
}

impl AlignedBuf {
    /// A buffer of `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let Some(layout) = layout(len) else {
            // As a vector would say it.
            assert!(len == 0, "{len} floats are more than any memory holds");
            return AlignedBuf { at: NonNull::dangling(), len };
        };
        // SAFETY: the size is not zero.
        match NonNull::new(unsafe { alloc_zeroed(layout) }) {
            Some(at) => AlignedBuf { at: at.cast(), len },
            None => handle_alloc_error(layout),
        }
    }

    /// A buffer with the elements of `values`.
    pub fn from_slice(values: &[f32]) -> Self {
        let mut buf = Self::zeroed(values.len());
        buf.copy_from_slice(values);
        buf
    }

    /// The first element, without making a slice: for arenas that lend disjoint parts.
    pub fn base(&mut self) -> *mut f32 {
        self.at.as_ptr()
    }

    /// Its bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let bytes = self.len * size_of::<f32>();
        // SAFETY: the buffer's own memory, borrowed exclusively; any bytes are floats.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr().cast(), bytes) }
    }

    /// Makes the buffer at least `len` elements long. What it held is lost when it grows.
    pub fn reserve(&mut self, len: usize) {
        if len > self.len {
            *self = Self::zeroed(len);
        }
    }
}

impl Default for AlignedBuf {
    fn default() -> Self {
        Self::zeroed(0)
    }
}

impl Clone for AlignedBuf {
    fn clone(&self) -> Self {
        Self::from_slice(self)
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if let Some(layout) = layout(self.len) {
            // SAFETY: taken with this layout in `zeroed`.
            unsafe { dealloc(self.at.as_ptr().cast(), layout) }
        }
    }
}

impl Deref for AlignedBuf {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `at` is the start of `len` initialised f32 (dangling and aligned where there are none),
        // borrowed for as long as `self`.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
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
        assert_eq!(buf.clone()[..], buf[..]);
    }

    #[test]
    fn a_large_one_begins_a_page() {
        let mut buf = AlignedBuf::zeroed(LARGE / size_of::<f32>());
        assert_eq!(buf.base() as usize % PAGE, 0);
        buf[LARGE / size_of::<f32>() - 1] = 1.0;
        assert_eq!(buf.iter().sum::<f32>(), 1.0);
    }
}
