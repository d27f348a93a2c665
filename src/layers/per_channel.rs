//! Loops for layers that treat every channel alike: y = a_c · x + b_c, and sums per channel. In
//! plain order a channel may be any range of axes (Scale's `axis` and `num_axes`); in channel
//! blocks it is axis 1 of an image.
//!
//! Sums are made in one task per image and channel (or block of them), in double precision, and
//! added up in image order: their bits do not depend on the number of threads. Padding channels are
//! neither summed nor written with anything but zeros.

use std::ops::Range;

use super::dims::Around;
use crate::blob::{Layout, Shape};
use crate::device::cpu::threads::Threads;

/// Channels of a blob and where their elements lie.
#[derive(Clone, Copy, Debug)]
pub struct Channels {
    outer: usize,
    channels: usize,
    inner: usize,
    block: usize,
}

impl Channels {
    /// Channels in plain order.
    pub fn plain(around: Around) -> Self {
        let Around { outer, extent, inner } = around;
        Channels { outer, channels: extent, inner, block: 1 }
    }

    /// Channels of images (axis 1 of `shape`) in `layout`.
    pub fn of_images(shape: &Shape, layout: Layout) -> Self {
        Channels { block: layout.block(), ..Self::plain(Around::of(shape, 1)) }
    }

    /// Values along `axes` of `shape` as channels; in channel blocks where `there` is a blocked
    /// layout and the axes are the channels of images. Says the layout, too.
    pub fn over(shape: &Shape, axes: Range<usize>, there: Layout) -> (Self, Layout) {
        if axes == (1..2) && shape.axes() == 4 {
            (Self::of_images(shape, there), there)
        } else {
            (Self::plain(Around::over(shape, axes)), Layout::Plain)
        }
    }

    /// Elements per channel.
    pub fn per_channel(self) -> usize {
        self.outer * self.inner
    }

    /// Blocks of channels per outer index.
    fn groups(self) -> usize {
        self.channels.div_ceil(self.block)
    }

    /// Elements of one tile: the inner extent of one block of channels.
    fn tile(self) -> usize {
        self.inner * self.block
    }

    /// First channel of a tile's block and how many of its channels are real.
    fn at(self, tile: usize) -> (usize, usize) {
        let first = tile % self.groups() * self.block;
        (first, self.block.min(self.channels - first))
    }

    /// Calls `f(tile, first channel, real channels, elements)` for every tile of `y`.
    fn for_each(
        self,
        threads: Threads,
        y: &mut [f32],
        f: impl Fn(usize, usize, usize, &mut [f32]) + Sync,
    ) {
        // Enough tiles per task that small ones (inner extent 1) are worth a task.
        let tiles = (4096 / self.tile().max(1)).max(1);
        threads.par_chunks_mut(y, tiles * self.tile(), |i, y| {
            for (j, y) in y.chunks_mut(self.tile().max(1)).enumerate() {
                let tile = i * tiles + j;
                let (first, real) = self.at(tile);
                f(tile, first, real, y);
            }
        });
    }

    /// y = f(channel, index, y), element by element; index is the element's place in memory.
    pub fn update(
        self,
        threads: Threads,
        y: &mut [f32],
        f: impl Fn(usize, usize, f32) -> f32 + Sync,
    ) {
        self.for_each(threads, y, |tile, first, real, y| {
            let base = tile * self.tile();
            if self.block == 1 {
                for (i, y) in y.iter_mut().enumerate() {
                    *y = f(first, base + i, *y);
                }
                return;
            }
            for (p, pixel) in y.chunks_exact_mut(self.block).enumerate() {
                let (values, padding) = pixel.split_at_mut(real);
                for (j, y) in values.iter_mut().enumerate() {
                    *y = f(first + j, base + p * self.block + j, *y);
                }
                padding.fill(0.0);
            }
        });
    }

    /// For every channel the sums of f(channel, index)'s `N` values over its elements; `partial` is
    /// scratch memory that keeps its size from call to call.
    pub fn sums<const N: usize>(
        self,
        threads: Threads,
        partial: &mut Vec<[f64; N]>,
        f: impl Fn(usize, usize) -> [f32; N] + Sync,
    ) -> Vec<[f64; N]> {
        let row = self.groups() * self.block;
        partial.clear();
        partial.resize(self.outer * row, [0.0; N]);
        threads.par_chunks_mut(partial, self.block, |tile, sums| {
            let (first, real) = self.at(tile);
            let base = tile * self.tile();
            for p in 0..self.inner {
                for (j, sum) in sums[..real].iter_mut().enumerate() {
                    let values = f(first + j, base + p * self.block + j);
                    sum.iter_mut().zip(values).for_each(|(s, v)| *s += f64::from(v));
                }
            }
        });
        let mut total = vec![[0.0; N]; self.channels];
        for sums in partial.chunks(row) {
            for (total, sum) in total.iter_mut().zip(sums) {
                total.iter_mut().zip(sum).for_each(|(t, s)| *t += s);
            }
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_planes_agree_and_padding_stays_out() {
        let shape = Shape::from([2, 3, 1, 2]);
        let plain = Channels::of_images(&shape, Layout::Plain);
        let blocked = Channels::of_images(&shape, Layout::Blocked8);
        let x: Vec<f32> = (0..12).map(|v| v as f32).collect();
        let mut tiles = vec![9.0; 32];
        for (i, v) in x.iter().enumerate() {
            let (n, c, p) = (i / 6, i / 2 % 3, i % 2);
            tiles[n * 16 + p * 8 + c] = *v;
        }
        let one = plain.sums(Threads::one(), &mut Vec::new(), |c, i| [x[i], c as f32]);
        let two = blocked.sums(Threads::new(2), &mut Vec::new(), |c, i| [tiles[i], c as f32]);
        assert_eq!(one, two);
        assert_eq!(one[1], [2.0 + 3.0 + 8.0 + 9.0, 4.0]);
        blocked.update(Threads::new(2), &mut tiles, |c, _, y| y + c as f32);
        assert_eq!(tiles[..8], [0.0, 3.0, 6.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }
}
