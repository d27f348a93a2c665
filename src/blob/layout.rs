//! How the elements of an activation lie in memory.
//!
//! A blob is plain (N, C, H, W, the last axis fastest) for everybody who does not know better. The
//! blocked layouts are private to the CPU engine: channels are cut into blocks of 8 or 16, the
//! block index takes the place of the channel axis and the channel within its block is the fastest
//! axis (N, C/16, H, W, 16). One vector register then holds one pixel's block of channels, which is
//! what oneDNN's compiled kernels want (it calls them `nChw8c` and `nChw16c`).
//!
//! Channels that do not fill the last block are padding. Its values are **always zero**: whoever
//! writes a blocked blob writes the zeros too, and reductions over logical elements skip it.
//!
//! This is not a shape: a [`Layout`] says nothing about sizes.
//!
//! ```
//! use caffe::blob::layout::Layout;
//! assert_eq!(Layout::Plain.padded_len(&[2, 20, 5, 5]), 1000);
//! assert_eq!(Layout::Blocked16.padded_len(&[2, 20, 5, 5]), 2 * 32 * 25);
//! ```

use std::fmt;

/// Order of the elements of a blob in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Row-major, last axis fastest: Caffe's own order.
    #[default]
    Plain,
    /// N, ⌈C/8⌉, H, W, 8: the order of AVX2 kernels.
    Blocked8,
    /// N, ⌈C/16⌉, H, W, 16: the order of AVX-512 kernels.
    Blocked16,
}

impl Layout {
    /// Channels in one block; 1 for the plain order.
    pub const fn block(self) -> usize {
        match self {
            Self::Plain => 1,
            Self::Blocked8 => 8,
            Self::Blocked16 => 16,
        }
    }

    /// Whether channels are blocked.
    pub const fn is_blocked(self) -> bool {
        !matches!(self, Self::Plain)
    }

    /// Channels including the padding of the last block.
    pub const fn padded_channels(self, channels: usize) -> usize {
        channels.next_multiple_of(self.block())
    }

    /// Elements a buffer must have for a blob of this `shape` (axis 1 is the channel axis; a shape
    /// without axis 1 has no channels and is the same in every layout).
    pub fn padded_len(self, shape: &[usize]) -> usize {
        shape
            .iter()
            .enumerate()
            .map(|(axis, &dim)| if axis == 1 { self.padded_channels(dim) } else { dim })
            .product()
    }

    /// Position of channel `c`, pixel `p` within one image of `pixels` = H·W pixels.
    #[inline]
    pub const fn offset(self, c: usize, p: usize, pixels: usize) -> usize {
        let block = self.block();
        (c / block * pixels + p) * block + c % block
    }

    /// The layout this CPU's kernels are fastest in: 16 with AVX-512, 8 with AVX2, plain without
    /// either (and on other architectures).
    pub fn preferred_blocked() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
                return Self::Blocked16;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Blocked8;
            }
        }
        Self::Plain
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "nchw",
            Self::Blocked8 => "nChw8c",
            Self::Blocked16 => "nChw16c",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_counts_whole_blocks_of_channels() {
        assert_eq!(Layout::Blocked8.padded_channels(20), 24);
        assert_eq!(Layout::Blocked16.padded_channels(16), 16);
        assert_eq!(Layout::Blocked16.padded_len(&[3, 1, 2, 2]), 3 * 16 * 4);
        assert_eq!(Layout::Blocked16.padded_len(&[7]), 7);
        assert_eq!(Layout::Plain.padded_len(&[]), 1);
    }

    #[test]
    fn offsets_of_one_image_are_a_permutation() {
        let (channels, pixels) = (20, 6);
        for layout in [Layout::Plain, Layout::Blocked8, Layout::Blocked16] {
            let mut seen = vec![false; layout.padded_len(&[1, channels, 2, 3])];
            for c in 0..channels {
                for p in 0..pixels {
                    let at = layout.offset(c, p, pixels);
                    assert!(!std::mem::replace(&mut seen[at], true), "{layout} hits {at} twice");
                }
            }
        }
        assert_eq!(Layout::Blocked16.offset(17, 2, pixels), 16 * pixels + 2 * 16 + 1);
    }
}
