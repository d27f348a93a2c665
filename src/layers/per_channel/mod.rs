//! Loops for layers that treat every channel alike: y = a_c · x + b_c, and sums per channel. In
//! plain order a channel may be any range of axes (Scale's `axis` and `num_axes`); in channel
//! blocks it is axis 1 of an image.
//!
//! Sums are made in one task per image and channel (or block of them), in double precision, and
//! added up in image order: their bits do not depend on the number of threads. Padding channels are
//! neither summed nor written with anything but zeros.

pub mod cuda;

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

    /// Enough that small ones (inner extent 1) are worth a task.
    fn tiles_per_task(self) -> usize {
        (4096 / self.tile().max(1)).max(1)
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
        let tiles = self.tiles_per_task();
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
        for sums in partial.chunks(row.max(1)) {
            for (total, sum) in total.iter_mut().zip(sums) {
                total.iter_mut().zip(sum).for_each(|(t, s)| *t += s);
            }
        }
        total
    }
}

/// Sums per channel and the memory they are made in; both keep their size from call to call.
#[derive(Default)]
pub struct Sums<const N: usize> {
    /// Of every channel.
    pub total: Vec<[f64; N]>,
    partial: Vec<[f64; N]>,
}

/// The hot loops: what [`Channels::update`] and [`Channels::sums`] do, over slices that are passed
/// in, so that a block of channels is one vector operation. `coefficients` hold a value per channel;
/// for the padding channels they are 0, and `f` must make 0 of them.
impl Channels {
    /// y = f(the channel's coefficients, the inputs' elements, y).
    pub fn map<const K: usize, const M: usize>(
        self,
        threads: Threads,
        coefficients: [&[f32]; K],
        inputs: [&[f32]; M],
        y: &mut [f32],
        f: impl Fn([f32; K], [f32; M], f32) -> f32 + Sync,
    ) {
        let f = |c, x, y| [f(c, x, y), 0.0];
        self.for_each(threads, y, |tile, _, _, y| match self.block {
            16 => self.map_tile::<16, K, M>(tile, coefficients, inputs, y, &mut [], &f),
            8 => self.map_tile::<8, K, M>(tile, coefficients, inputs, y, &mut [], &f),
            _ => self.map_tile::<1, K, M>(tile, coefficients, inputs, y, &mut [], &f),
        });
    }

    /// y and z = f(the channel's coefficients, the inputs' elements, y).
    pub fn map_two<const K: usize, const M: usize>(
        self,
        threads: Threads,
        coefficients: [&[f32]; K],
        inputs: [&[f32]; M],
        [y, z]: [&mut [f32]; 2],
        f: impl Fn([f32; K], [f32; M], f32) -> [f32; 2] + Sync,
    ) {
        let (tile, tiles) = (self.tile().max(1), self.tiles_per_task());
        threads.par_zip2_mut((y, tiles * tile), (z, tiles * tile), |i, y, z| {
            let pairs = y.chunks_mut(tile).zip(z.chunks_mut(tile));
            for (j, (y, z)) in pairs.enumerate() {
                let tile = i * tiles + j;
                match self.block {
                    16 => self.map_tile::<16, K, M>(tile, coefficients, inputs, y, z, &f),
                    8 => self.map_tile::<8, K, M>(tile, coefficients, inputs, y, z, &f),
                    _ => self.map_tile::<1, K, M>(tile, coefficients, inputs, y, z, &f),
                }
            }
        });
    }

    /// One tile of `map` (`z` is empty) or `map_two`.
    fn map_tile<const B: usize, const K: usize, const M: usize>(
        self,
        tile: usize,
        coefficients: [&[f32]; K],
        inputs: [&[f32]; M],
        y: &mut [f32],
        z: &mut [f32],
        f: &impl Fn([f32; K], [f32; M], f32) -> [f32; 2],
    ) {
        let lanes = self.lanes::<B, K>(tile, coefficients);
        let inputs = inputs.map(|x| x[tile * self.tile()..][..y.len()].as_chunks::<B>().0);
        let ((y, _), (z, _)) = (y.as_chunks_mut::<B>(), z.as_chunks_mut::<B>());
        let mut z = z.iter_mut();
        for (p, y) in y.iter_mut().enumerate() {
            let x = inputs.map(|x| x[p]);
            let mut second = [0.0; B];
            for j in 0..B {
                let c = std::array::from_fn(|k| lanes[k][j]);
                [y[j], second[j]] = f(c, x.map(|x| x[j]), y[j]);
            }
            if let Some(z) = z.next() {
                *z = second;
            }
        }
    }

    /// sums.total = for every channel the sums of f(its coefficients, the inputs' elements).
    pub fn totals<const N: usize, const K: usize, const M: usize>(
        self,
        threads: Threads,
        coefficients: [&[f32]; K],
        inputs: [&[f32]; M],
        sums: &mut Sums<N>,
        f: impl Fn([f32; K], [f32; M]) -> [f32; N] + Sync,
    ) {
        let row = self.groups() * self.block;
        sums.partial.clear();
        sums.partial.resize(self.outer * row, [0.0; N]);
        threads.par_chunks_mut(&mut sums.partial, self.block, |tile, sums| match self.block {
            16 => self.sum_tile::<16, N, K, M>(tile, coefficients, inputs, sums, &f),
            8 => self.sum_tile::<8, N, K, M>(tile, coefficients, inputs, sums, &f),
            _ => self.sum_tile::<1, N, K, M>(tile, coefficients, inputs, sums, &f),
        });
        sums.total.clear();
        sums.total.resize(self.channels, [0.0; N]);
        for partial in sums.partial.chunks(row.max(1)) {
            for (total, sum) in sums.total.iter_mut().zip(partial) {
                total.iter_mut().zip(sum).for_each(|(t, s)| *t += s);
            }
        }
    }

    fn sum_tile<const B: usize, const N: usize, const K: usize, const M: usize>(
        self,
        tile: usize,
        coefficients: [&[f32]; K],
        inputs: [&[f32]; M],
        sums: &mut [[f64; N]],
        f: &impl Fn([f32; K], [f32; M]) -> [f32; N],
    ) {
        let lanes = self.lanes::<B, K>(tile, coefficients);
        let inputs = inputs.map(|x| x[tile * self.tile()..][..self.tile()].as_chunks::<B>().0);
        let mut total = [[0.0f64; B]; N];
        for p in 0..self.inner {
            let x = inputs.map(|x| x[p]);
            let mut values = [[0.0f32; B]; N];
            for j in 0..B {
                let c = std::array::from_fn(|k| lanes[k][j]);
                let each = f(c, x.map(|x| x[j]));
                (0..N).for_each(|n| values[n][j] = each[n]);
            }
            for (total, values) in total.iter_mut().zip(&values) {
                total.iter_mut().zip(values).for_each(|(t, v)| *t += f64::from(*v));
            }
        }
        for (j, sums) in sums.iter_mut().enumerate() {
            *sums = total.map(|total| total[j]);
        }
    }

    /// The coefficients of a tile's channels.
    fn lanes<const B: usize, const K: usize>(
        self,
        tile: usize,
        coefficients: [&[f32]; K],
    ) -> [[f32; B]; K] {
        let (first, real) = self.at(tile);
        coefficients.map(|c| {
            let mut lanes = [0.0; B];
            lanes[..real].copy_from_slice(&c[first..][..real]);
            lanes
        })
    }

    /// Every channel's first element.
    pub fn firsts(self, x: &[f32], firsts: &mut [f32]) {
        for (c, first) in firsts.iter_mut().enumerate() {
            let at = c / self.block * self.tile() + c % self.block;
            *first = x.get(at).copied().unwrap_or(0.0);
        }
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
        let (mut one, mut two) = (Sums::default(), Sums::default());
        let k = [1.0, 2.0, 3.0];
        plain.totals(Threads::one(), [&k], [&x], &mut one, |[k], [x]| [x, k * x]);
        blocked.totals(Threads::new(2), [&k], [&tiles], &mut two, |[k], [x]| [x, k * x]);
        assert_eq!(one.total, two.total);
        assert_eq!(one.total[1], [22.0, 44.0]);
        let (mut y, mut z) = (tiles.clone(), vec![7.0; 32]);
        let outputs = [&mut y[..], &mut z[..]];
        blocked.map_two(Threads::new(2), [&k], [&tiles], outputs, |[k], [x], y| [k * x, y]);
        assert_eq!(y[..8], [0.0, 4.0, 12.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(z[..4], [0.0, 2.0, 4.0, tiles[3]]);
        let mut first = [9.0; 3];
        blocked.firsts(&tiles, &mut first);
        assert_eq!(first, [0.0, 2.0, 4.0]);
        blocked.update(Threads::new(2), &mut tiles, |c, _, y| y + c as f32);
        assert_eq!(tiles[..8], [0.0, 3.0, 6.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }
}
