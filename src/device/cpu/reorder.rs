//! Activations from one [`Layout`] to another, as parallel loops.
//!
//! Between plain and blocked this is a transposition of small tiles: each task turns one block of
//! channels of one image. Needs no oneDNN, so that whoever holds a blocked blob can always read it.
//!
//! ```
//! use caffe::blob::layout::Layout;
//! use caffe::device::cpu::{reorder::{Shape, reorder}, threads::Threads};
//! let shape = Shape { n: 1, channels: 2, pixels: 3 };
//! let (plain, mut blocked) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [9.0; 24]);
//! reorder(Threads::one(), shape, (&plain, Layout::Plain), (&mut blocked, Layout::Blocked8));
//! assert_eq!(blocked[8..11], [2.0, 5.0, 0.0]); // the second pixel
//! ```

use super::threads::Threads;
use crate::blob::layout::Layout;

/// Elements that make it worth waking a thread.
const GRAIN: usize = 1 << 14;

/// Sizes of an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Images.
    pub n: usize,
    /// Channels, without padding.
    pub channels: usize,
    /// Height × width.
    pub pixels: usize,
}

impl Shape {
    /// Elements in a layout, padding included.
    pub fn len(self, layout: Layout) -> usize {
        self.n * layout.padded_channels(self.channels) * self.pixels
    }
}

/// Copies `src` to `dst`, each in its layout. Padding channels of `dst` become zero. Both buffers have the length of their layout ([`Shape::len`]); what is missing
/// from a shorter one is left alone.
pub fn reorder(
    threads: Threads,
    shape: Shape,
    (src, from): (&[f32], Layout),
    (dst, to): (&mut [f32], Layout),
) {
    let Shape { channels, pixels, .. } = shape;
    let threads = threads.limited(dst.len(), GRAIN);
    if pixels == 0 || channels == 0 {
        return;
    }
    if from == to {
        // Padding included: the source's is zero.
        let chunk = dst.len().div_ceil(threads.count()).next_multiple_of(16);
        threads.par_chunks_mut(dst, chunk, |i, to| {
            let from = &src[i * chunk..];
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        });
        return;
    }
    let blocks = to.padded_channels(channels) / to.block();
    let image = from.padded_channels(channels) * pixels;
    // One task writes one block of `to`: `to.block()` channels, contiguous in every layout.
    threads.par_chunks_mut(dst, to.block() * pixels, |task, dst| {
        let (b, first) = (task / blocks, task % blocks * to.block());
        let src = &src[b * image..][..image];
        match (from, to) {
            (Layout::Plain, Layout::Blocked16) => block::<16>(&src[first * pixels..], pixels, dst),
            (Layout::Plain, Layout::Blocked8) => block::<8>(&src[first * pixels..], pixels, dst),
            (Layout::Blocked16, Layout::Plain) => unblock::<16>(src, first, dst),
            (Layout::Blocked8, Layout::Plain) => unblock::<8>(src, first, dst),
            _ => {
                for (i, to_value) in dst.iter_mut().enumerate() {
                    let (p, c) = (i / to.block(), first + i % to.block());
                    let inside = c < channels;
                    *to_value = if inside { src[from.offset(c, p, pixels)] } else { 0.0 };
                }
            }
        }
    });
}

/// Plain rows of up to `B` channels → one block.
fn block<const B: usize>(src: &[f32], pixels: usize, dst: &mut [f32]) {
    let channels = (src.len() / pixels).min(B);
    let (dst, _) = dst.as_chunks_mut::<B>();
    if channels < B {
        dst.fill([0.0; B]);
        for (c, row) in src.chunks_exact(pixels).take(B).enumerate() {
            dst.iter_mut().zip(row).for_each(|(to, from)| to[c] = *from);
        }
        return;
    }
    let rows: [&[f32]; B] = std::array::from_fn(|c| &src[c * pixels..][..pixels]);
    for (p, to) in dst.iter_mut().enumerate() {
        *to = std::array::from_fn(|c| rows[c][p]);
    }
}

/// One channel of a blocked image → a plain row.
fn unblock<const B: usize>(src: &[f32], channel: usize, dst: &mut [f32]) {
    let block = &src[channel / B * dst.len() * B..];
    let (block, _) = block.as_chunks::<B>();
    dst.iter_mut().zip(block).for_each(|(to, from)| *to = from[channel % B]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Layout; 3] = [Layout::Plain, Layout::Blocked8, Layout::Blocked16];

    #[test]
    fn every_pair_of_layouts_puts_every_element_in_its_place() {
        for (n, channels, pixels) in [(1, 1, 1), (2, 20, 35), (3, 16, 4), (2, 24, 7), (5, 3, 1024)]
        {
            let shape = Shape { n, channels, pixels };
            for from in ALL {
                for to in ALL {
                    check(shape, from, to);
                }
            }
        }
    }

    fn check(shape: Shape, from: Layout, to: Layout) {
        let Shape { n, channels, pixels } = shape;
        let value = |b: usize, c: usize, p: usize| ((b * channels + c) * pixels + p + 1) as f32;
        let mut src = vec![0.0; shape.len(from)];
        let image = from.padded_channels(channels) * pixels;
        for (b, c, p) in indices(n, channels, pixels) {
            src[b * image + from.offset(c, p, pixels)] = value(b, c, p);
        }
        let mut dst = vec![f32::NAN; shape.len(to)];
        reorder(Threads::new(2), shape, (&src, from), (&mut dst, to));
        let image = to.padded_channels(channels) * pixels;
        for (b, c, p) in indices(n, to.padded_channels(channels), pixels) {
            let wanted = if c < channels { value(b, c, p) } else { 0.0 };
            let found = dst[b * image + to.offset(c, p, pixels)];
            assert!(found == wanted, "{shape:?} {from}->{to} {b},{c},{p}: {found} {wanted}");
        }
    }

    fn indices(
        n: usize,
        channels: usize,
        pixels: usize,
    ) -> impl Iterator<Item = (usize, usize, usize)> {
        let count = channels * pixels;
        (0..n * count).map(move |i| (i / count, i / pixels % channels, i % pixels))
    }
}
