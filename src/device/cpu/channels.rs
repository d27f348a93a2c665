//! Concatenation, slicing and sums of activations, as parallel copies.
//!
//! Along the channel axis a part that starts on a block is contiguous within an image in every
//! layout, so it is a plain copy; all of GoogLeNet's are. Other parts are copied pixel by pixel.
//! Copies cost about 2 % of a GoogLeNet step; letting convolutions read and write channel slices in
//! place would cost far more (oneDNN has no compiled kernels for those).
//!
//! ```
//! use caffe::blob::layout::Layout;
//! use caffe::device::cpu::{channels::{Images, place}, threads::Threads};
//! let images = Images { n: 1, pixels: 2, layout: Layout::Plain };
//! let mut joined = [0.0; 6];
//! place(Threads::one(), images, (&[1.0, 2.0], 1), (&mut joined, 3), 0);
//! place(Threads::one(), images, (&[3.0, 4.0, 5.0, 6.0], 2), (&mut joined, 3), 1);
//! assert_eq!(joined, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
//! ```

use super::threads::Threads;
use crate::blob::layout::Layout;

/// Elements that make it worth waking a thread.
const GRAIN: usize = 1 << 14;

/// What all parts of a concatenation have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Images {
    /// Images.
    pub n: usize,
    /// Height × width.
    pub pixels: usize,
    /// Order in memory, of every part and of the whole.
    pub layout: Layout,
}

impl Images {
    fn image_len(self, channels: usize) -> usize {
        self.layout.padded_channels(channels) * self.pixels
    }
}

/// The `channels` channels of `dst`, which has `total`, from channel `first` on ← part. Parts come in
/// order: the last block of one may reach into the next. Padding channels of `dst` become zero with
/// its last part. Lengths are those of the layout.
pub fn place(
    threads: Threads,
    images: Images,
    (part, channels): (&[f32], usize),
    (dst, total): (&mut [f32], usize),
    first: usize,
) {
    let (len, part_len) = (images.image_len(total), images.image_len(channels));
    threads.limited(part.len(), GRAIN).par_chunks_mut(dst, len, |b, dst| {
        let src = &part[b * part_len..][..part_len];
        copy_channels(images, (src, 0), (&mut *dst, first), channels);
        if first + channels == total {
            zero_padding(images, dst, total);
        }
    });
}

/// part ← `channels` channels of `src`, which has `total`, from channel `first` on: the inverse of
/// [`place`]. Padding channels of `part` become zero.
pub fn slice(
    threads: Threads,
    images: Images,
    (src, total): (&[f32], usize),
    (part, channels): (&mut [f32], usize),
    first: usize,
) {
    let (len, part_len) = (images.image_len(total), images.image_len(channels));
    threads.limited(part.len(), GRAIN).par_chunks_mut(part, part_len, |b, part| {
        copy_channels(images, (&src[b * len..][..len], first), (&mut *part, 0), channels);
        zero_padding(images, part, channels);
    });
}

/// dst ← the sum of the parts (with `add`, and of what it holds), element by element. All are in one
/// layout, so zero padding stays zero.
pub fn sum(threads: Threads, parts: &[&[f32]], dst: &mut [f32], add: bool) {
    let threads = threads.limited(dst.len(), GRAIN);
    let chunk = dst.len().div_ceil(threads.count()).next_multiple_of(16);
    threads.par_chunks_mut(dst, chunk, |i, dst| {
        // In pieces that stay in the first-level cache while all parts are added.
        for (j, dst) in dst.chunks_mut(2048).enumerate() {
            add_up(parts, i * chunk + j * 2048, dst, add);
        }
    });
}

/// One piece of [`sum`], which starts at `at` in every part.
fn add_up(parts: &[&[f32]], at: usize, dst: &mut [f32], add: bool) {
    let len = dst.len();
    let mut rest: &[&[f32]] = match (parts, add) {
        (_, true) => parts,
        ([], false) => {
            dst.fill(0.0);
            parts
        }
        ([one], false) => {
            dst.copy_from_slice(&one[at..][..len]);
            &[]
        }
        ([one, two, rest @ ..], false) => {
            let pairs = one[at..][..len].iter().zip(&two[at..][..len]);
            dst.iter_mut().zip(pairs).for_each(|(d, (a, b))| *d = a + b);
            rest
        }
    };
    while let [one, two, more @ ..] = rest {
        let pairs = one[at..][..len].iter().zip(&two[at..][..len]);
        dst.iter_mut().zip(pairs).for_each(|(d, (a, b))| *d = (*d + a) + b);
        rest = more;
    }
    if let [one] = rest {
        dst.iter_mut().zip(&one[at..][..len]).for_each(|(d, s)| *d += s);
    }
}

/// Copies channels within one image each.
fn copy_channels(
    images: Images,
    (src, from): (&[f32], usize),
    (dst, to): (&mut [f32], usize),
    channels: usize,
) {
    let Images { pixels, layout, .. } = images;
    let block = layout.block();
    if from.is_multiple_of(block) && to.is_multiple_of(block) {
        // Up to the end of the last block; what is too much there is overwritten by the next part,
        // or by the zeros of the padding.
        let len = layout.padded_channels(channels) * pixels;
        dst[to * pixels..][..len].copy_from_slice(&src[from * pixels..][..len]);
        return;
    }
    for c in 0..channels {
        let src = src[layout.offset(from + c, 0, pixels)..].iter().step_by(block);
        let dst = dst[layout.offset(to + c, 0, pixels)..].iter_mut().step_by(block);
        dst.zip(src).take(pixels).for_each(|(to, from)| *to = *from);
    }
}

/// Zeroes the channels that fill up the last block.
fn zero_padding(images: Images, image: &mut [f32], channels: usize) {
    let Images { pixels, layout, .. } = images;
    for c in channels..layout.padded_channels(channels) {
        let to = image[layout.offset(c, 0, pixels)..].iter_mut().step_by(layout.block());
        to.take(pixels).for_each(|to| *to = 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A blob whose values tell image, channel and pixel; channels count from `first`.
    fn numbered(images: Images, channels: usize, first: usize, padding: f32) -> Vec<f32> {
        let Images { n, pixels, layout } = images;
        let image = images.image_len(channels);
        let mut out = vec![padding; n * image];
        for b in 0..n {
            for c in 0..channels {
                for p in 0..pixels {
                    let value = b * 10_000 + (c + first) * 100 + p + 1;
                    out[b * image + layout.offset(c, p, pixels)] = value as f32;
                }
            }
        }
        out
    }

    #[test]
    fn slices_of_a_concatenation_are_its_parts() {
        for layout in [Layout::Plain, Layout::Blocked8, Layout::Blocked16] {
            for parts in [vec![16, 32], vec![20, 3, 16], vec![1, 1], vec![48, 24], vec![5]] {
                let images = Images { n: 3, pixels: 6, layout };
                let total: usize = parts.iter().sum();
                let firsts: Vec<usize> =
                    (0..parts.len()).map(|i| parts[..i].iter().sum()).collect();
                let data: Vec<_> =
                    parts.iter().zip(&firsts).map(|(&c, &f)| numbered(images, c, f, 0.0)).collect();
                let mut whole = vec![f32::NAN; 3 * images.image_len(total)];
                for ((d, &c), &first) in data.iter().zip(&parts).zip(&firsts) {
                    place(Threads::new(2), images, (d, c), (&mut whole, total), first);
                }
                assert_eq!(whole, numbered(images, total, 0, 0.0), "{layout} {parts:?}");
                for ((&c, &first), wanted) in parts.iter().zip(&firsts).zip(&data) {
                    let mut part = vec![f32::NAN; wanted.len()];
                    let whole = (whole.as_slice(), total);
                    slice(Threads::new(2), images, whole, (&mut part, c), first);
                    assert_eq!(&part, wanted, "{layout} {parts:?} from {first}");
                }
            }
        }
    }

    #[test]
    fn sums_add_every_element_of_every_part() {
        let parts: Vec<Vec<f32>> =
            (1..6).map(|k| (0..40_000).map(|i| (i * k) as f32).collect()).collect();
        let refs: Vec<_> = parts.iter().map(Vec::as_slice).collect();
        for count in 0..=refs.len() {
            for add in [false, true] {
                let mut out = vec![if add { 1.0 } else { f32::NAN }; 40_000];
                sum(Threads::new(2), &refs[..count], &mut out, add);
                let factor = (1..=count).sum::<usize>();
                let wanted = |i: usize| (i * factor + usize::from(add)) as f32;
                assert!(out.iter().enumerate().all(|(i, &v)| v == wanted(i)), "{count} {add}");
            }
        }
    }
}
