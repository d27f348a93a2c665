//! Parts of a blob along an axis: the copies of Concat and Slice.
//!
//! A part is contiguous within one index of the axes before. That holds in plain order, and along
//! the channels of blocked blobs when every part fills whole blocks; so one loop does both.

use super::dims::first_blocked;
use crate::blob::{Layout, Shape};
use crate::device::cpu::threads::Threads;

/// How a blob is cut.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// Floats of each part at one index of the outer axes.
    lens: Vec<usize>,
    /// Floats of the whole at one index of the outer axes.
    whole: usize,
    /// Extents along the channel axis of images; empty where blocks are of no use.
    channels: Vec<usize>,
}

impl Parts {
    /// Blobs of these shapes, one behind the other along `axis`.
    pub fn new(axis: usize, shapes: &[Shape]) -> Parts {
        let lens: Vec<usize> = shapes.iter().map(|s| s.count_from(axis)).collect();
        let images = axis == 1 && shapes[0].axes() == 4;
        Parts {
            whole: lens.iter().sum(),
            lens,
            channels: if images { shapes.iter().map(|s| s[1]).collect() } else { Vec::new() },
        }
    }

    /// The layout to work in when the blobs to be read are in these: a blocked one, if one of them
    /// is and all parts fill its blocks.
    pub fn layout(&self, there: impl IntoIterator<Item = Layout>) -> Layout {
        let layout = first_blocked(there);
        let fits = !self.channels.is_empty()
            && self.channels.iter().all(|c| c.is_multiple_of(layout.block()));
        if fits { layout } else { Layout::Plain }
    }

    /// Where part `i` starts in the whole.
    fn start(&self, i: usize) -> usize {
        self.lens[..i].iter().sum()
    }
}

/// whole ← the parts; an empty part counts as zeros.
pub fn join(threads: Threads, parts: &Parts, sources: &[&[f32]], whole: &mut [f32]) {
    threads.limited(whole.len(), GRAIN).par_chunks_mut(whole, parts.whole, |n, whole| {
        let mut rest = whole;
        for (&len, source) in parts.lens.iter().zip(sources) {
            let (to, behind) = rest.split_at_mut(len);
            match source.get(n * len..(n + 1) * len) {
                Some(from) => to.copy_from_slice(from),
                None => to.fill(0.0),
            }
            rest = behind;
        }
    });
}

/// part ← its piece of the whole.
pub fn cut(threads: Threads, parts: &Parts, i: usize, whole: &[f32], part: &mut [f32]) {
    let start = parts.start(i);
    threads.limited(part.len(), GRAIN).par_chunks_mut(part, parts.lens[i], |n, part| {
        part.copy_from_slice(&whole[n * parts.whole + start..][..part.len()]);
    });
}

/// Floats that make it worth waking a thread.
const GRAIN: usize = 1 << 14;
