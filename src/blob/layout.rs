//! Memory layouts of a blob: plain (Caffe's own order) and the channel-blocked forms that vector
//! units like. A blocked blob stores channels in groups of 8 or 16 innermost:
//! `[N, ceil(C/b), H, W, b]`, with zeros in the channels past C.

use crate::blob::Shape;

/// Order of a blob's elements in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Layout {
    /// Row-major, outermost axis first: NCHW for images.
    #[default]
    Plain,
    /// `[N, C/8, H, W, 8]`: one AVX2 register of channels innermost.
    Blocked8,
    /// `[N, C/16, H, W, 16]`: one AVX-512 register of channels innermost.
    Blocked16,
}

impl Layout {
    /// Channels stored next to each other: 1, 8 or 16.
    pub const fn block(self) -> usize {
        match self {
            Layout::Plain => 1,
            Layout::Blocked8 => 8,
            Layout::Blocked16 => 16,
        }
    }

    /// Floats this layout needs for a blob of `shape`, padding channels included.
    pub fn padded_len(self, shape: &Shape) -> usize {
        match self {
            Layout::Plain => shape.count(),
            _ => {
                let block = self.block();
                shape[0] * shape[1].div_ceil(block) * block * shape.count_from(2)
            }
        }
    }

    /// Whether a blob of `shape` can be stored this way: blocked layouts need four axes.
    pub fn fits(self, shape: &Shape) -> bool {
        self == Layout::Plain || shape.axes() == 4
    }

    /// Whether a blob of `shape` has padding channels in this layout.
    pub fn has_padding(self, shape: &Shape) -> bool {
        self != Layout::Plain && !shape[1].is_multiple_of(self.block())
    }

    /// The blocked layout that fits this CPU's vector registers, or `Plain` where none helps.
    pub fn preferred_blocked() -> Layout {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                return Layout::Blocked16;
            }
            if is_x86_feature_detected!("avx2") {
                return Layout::Blocked8;
            }
        }
        Layout::Plain
    }
}
