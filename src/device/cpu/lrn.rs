//! Local response normalization across channels as plain loops, for any layout.
//!
//! dst = src · s^−β with s = k + α/n · Σ src² over the n channels around this one;
//! diff_src = diff_dst · s^−β − 2αβ/n · src · Σ diff_dst · dst / s over the same channels.
//! Backward computes s anew from src, so that nothing has to be kept from forward.
//!
//! Used where oneDNN has no compiled kernel (see [`super::onednn::LrnAcross`]) or is missing. Not
//! the within-channel variant.

use super::threads::Threads;
use crate::blob::layout::Layout;

/// Pixels that are worked on together: rows of this length fit the vector registers, and a tile of
/// a few hundred channels fits the second-level cache.
const TILE: usize = 32;

/// The formula's constants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Across {
    /// Channels in the sum (n), odd.
    pub size: usize,
    /// α, divided by n as in Caffe.
    pub alpha: f32,
    /// β, the exponent.
    pub beta: f32,
    /// The constant term.
    pub k: f32,
}

/// Sizes of an activation whose spatial axes do not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Images.
    pub n: usize,
    /// Channels, without padding.
    pub channels: usize,
    /// Height × width.
    pub pixels: usize,
    /// Order in memory.
    pub layout: Layout,
}

impl Shape {
    /// Elements of a buffer of this shape.
    pub fn len(self) -> usize {
        self.n * self.image_len()
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Elements of one image.
    pub fn image_len(self) -> usize {
        self.layout.padded_channels(self.channels) * self.pixels
    }

    /// Elements of the scratch buffer that [`Across`] needs with these threads.
    pub fn scratch_len(self, threads: Threads) -> usize {
        threads.count() * self.tiles_len()
    }

    /// Four tiles: src, s^−β, and two for backward.
    fn tiles_len(self) -> usize {
        4 * self.channels * TILE
    }

    /// Images per task, such that there is at most one task per thread.
    fn images_per_task(self, threads: Threads) -> usize {
        self.n.div_ceil(threads.count()).max(1)
    }
}

impl Across {
    /// dst ← normalized src. Lengths are the caller's to check; `scratch` has
    /// [`Shape::scratch_len`] elements.
    pub fn forward(
        self,
        threads: Threads,
        shape: Shape,
        src: &[f32],
        dst: &mut [f32],
        scratch: &mut [f32],
    ) {
        let (image, per_task) = (shape.image_len(), shape.images_per_task(threads));
        let (dst, scratch) = ((dst, image * per_task), (scratch, shape.tiles_len()));
        threads.par_zip2_mut(dst, scratch, |task, dst, scratch| {
            let src = &src[task * per_task * image..];
            for (src, dst) in src.chunks_exact(image).zip(dst.chunks_exact_mut(image)) {
                self.forward_image(shape, src, dst, scratch);
            }
        });
    }

    /// diff_src ← the gradient with respect to `src`. Lengths as for [`Across::forward`].
    pub fn backward(
        self,
        threads: Threads,
        shape: Shape,
        src: &[f32],
        diff_dst: &[f32],
        diff_src: &mut [f32],
        scratch: &mut [f32],
    ) {
        let (image, per_task) = (shape.image_len(), shape.images_per_task(threads));
        let (diff_src, scratch) = ((diff_src, image * per_task), (scratch, shape.tiles_len()));
        threads.par_zip2_mut(diff_src, scratch, |task, diff_src, scratch| {
            let src = src[task * per_task * image..].chunks_exact(image);
            let diff_dst = diff_dst[task * per_task * image..].chunks_exact(image);
            for ((src, diff_dst), diff_src) in
                src.zip(diff_dst).zip(diff_src.chunks_exact_mut(image))
            {
                self.backward_image(shape, src, diff_dst, diff_src, scratch);
            }
        });
    }

    fn forward_image(self, shape: Shape, src: &[f32], dst: &mut [f32], scratch: &mut [f32]) {
        let [x, power, ..] = tiles(shape, scratch);
        for at in (0..shape.pixels).step_by(TILE) {
            gather(shape, at, src, x);
            self.powers(shape.channels, x, power, None);
            for (p, x) in power.iter_mut().zip(x.iter()) {
                *p *= x;
            }
            scatter(shape, at, power, dst);
        }
    }

    fn backward_image(
        self,
        shape: Shape,
        src: &[f32],
        diff_dst: &[f32],
        diff_src: &mut [f32],
        scratch: &mut [f32],
    ) {
        let [x, power, g, ratio] = tiles(shape, scratch);
        let factor = 2.0 * self.alpha * self.beta / self.size as f32;
        for at in (0..shape.pixels).step_by(TILE) {
            gather(shape, at, src, x);
            gather(shape, at, diff_dst, g);
            self.powers(shape.channels, x, power, Some(&mut *ratio));
            // ratio: 1/s → diff_dst · dst / s; g: diff_dst → its own term.
            for (((r, g), p), x) in ratio.iter_mut().zip(g.iter_mut()).zip(&*power).zip(&*x) {
                *g *= p;
                *r *= *g * x;
            }
            for c in 0..shape.channels {
                let mut sum = [0.0f32; TILE];
                for j in self.window(c, shape.channels) {
                    for (s, r) in sum.iter_mut().zip(&ratio[j * TILE..][..TILE]) {
                        *s += r;
                    }
                }
                let rows = c * TILE..(c + 1) * TILE;
                for ((g, x), s) in g[rows.clone()].iter_mut().zip(&x[rows]).zip(&sum) {
                    *g -= factor * x * s;
                }
            }
            scatter(shape, at, g, diff_src);
        }
    }

    /// power ← s^−β and, if asked for, inverse ← 1/s.
    fn powers(
        self,
        channels: usize,
        x: &[f32],
        power: &mut [f32],
        mut inverse: Option<&mut [f32]>,
    ) {
        let factor = self.alpha / self.size as f32;
        for c in 0..channels {
            let mut sum = [0.0f32; TILE];
            for j in self.window(c, channels) {
                for (s, x) in sum.iter_mut().zip(&x[j * TILE..][..TILE]) {
                    *s += x * x;
                }
            }
            for s in &mut sum {
                *s = self.k + factor * *s;
            }
            if let Some(inverse) = inverse.as_deref_mut() {
                for (i, s) in inverse[c * TILE..][..TILE].iter_mut().zip(&sum) {
                    *i = 1.0 / s;
                }
            }
            self.negative_power(&sum, &mut power[c * TILE..][..TILE]);
        }
    }

    /// s^−β; the usual exponents by square roots, which the compiler can vectorize.
    fn negative_power(self, s: &[f32; TILE], power: &mut [f32]) {
        if self.beta.to_bits() == 0.75f32.to_bits() {
            power.iter_mut().zip(s).for_each(|(p, s)| *p = 1.0 / (s.sqrt() * s.sqrt().sqrt()));
        } else if self.beta.to_bits() == 0.5f32.to_bits() {
            power.iter_mut().zip(s).for_each(|(p, s)| *p = 1.0 / s.sqrt());
        } else {
            power.iter_mut().zip(s).for_each(|(p, s)| *p = s.powf(-self.beta));
        }
    }

    /// The channels in the sum of channel `c`.
    fn window(self, c: usize, channels: usize) -> std::ops::Range<usize> {
        let half = self.size.saturating_sub(1) / 2;
        c.saturating_sub(half)..(c + half + 1).min(channels)
    }
}

fn tiles(shape: Shape, scratch: &mut [f32]) -> [&mut [f32]; 4] {
    let len = shape.channels * TILE;
    let (a, rest) = scratch.split_at_mut(len);
    let (b, rest) = rest.split_at_mut(len);
    let (c, d) = rest.split_at_mut(len);
    [a, b, c, &mut d[..len]]
}

/// Pixels `at..at + TILE` of an image as rows of channels; what lies past the end is zero.
fn gather(shape: Shape, at: usize, image: &[f32], tile: &mut [f32]) {
    let count = TILE.min(shape.pixels - at);
    let block = shape.layout.block();
    for (c, row) in tile.chunks_exact_mut(TILE).enumerate() {
        let from = &image[shape.layout.offset(c, at, shape.pixels)..];
        let (row, rest) = row.split_at_mut(count);
        for (to, from) in row.iter_mut().zip(from.iter().step_by(block)) {
            *to = *from;
        }
        rest.fill(0.0);
    }
}

/// The inverse of [`gather`]; padding channels become zero.
fn scatter(shape: Shape, at: usize, tile: &[f32], image: &mut [f32]) {
    let count = TILE.min(shape.pixels - at);
    let block = shape.layout.block();
    for (c, row) in tile.chunks_exact(TILE).enumerate() {
        let to = &mut image[shape.layout.offset(c, at, shape.pixels)..];
        for (from, to) in row[..count].iter().zip(to.iter_mut().step_by(block)) {
            *to = *from;
        }
    }
    for c in shape.channels..shape.layout.padded_channels(shape.channels) {
        let to = &mut image[shape.layout.offset(c, at, shape.pixels)..];
        to.iter_mut().step_by(block).take(count).for_each(|to| *to = 0.0);
    }
}

/// The formulas in double precision over plain buffers: (dst, diff_src).
#[cfg(test)]
pub(super) fn naive(
    shape: Shape,
    across: Across,
    src: &[f32],
    diff: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let Shape { n, channels, pixels, .. } = shape;
    let (n_inv, beta) = (f64::from(across.alpha) / across.size as f64, f64::from(across.beta));
    let at = |b: usize, c: usize, p: usize| (b * channels + c) * pixels + p;
    let x = |b, c, p| f64::from(src[at(b, c, p)]);
    let half = across.size / 2;
    let around = |c: usize| c.saturating_sub(half)..(c + half + 1).min(channels);
    let s =
        |b, c, p| f64::from(across.k) + n_inv * around(c).map(|j| x(b, j, p).powi(2)).sum::<f64>();
    let (mut dst, mut back) = (vec![0.0; src.len()], vec![0.0; src.len()]);
    for b in 0..n {
        for c in 0..channels {
            for p in 0..pixels {
                let own = s(b, c, p).powf(-beta);
                dst[at(b, c, p)] = (x(b, c, p) * own) as f32;
                let others: f64 = around(c)
                    .map(|j| {
                        let g = f64::from(diff[at(b, j, p)]);
                        g * x(b, j, p) * s(b, j, p).powf(-beta - 1.0)
                    })
                    .sum();
                let g = f64::from(diff[at(b, c, p)]);
                back[at(b, c, p)] = (g * own - 2.0 * n_inv * beta * x(b, c, p) * others) as f32;
            }
        }
    }
    (dst, back)
}
