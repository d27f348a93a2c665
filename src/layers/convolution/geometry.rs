//! Where kernels stand on a blob: extents, strides, paddings and dilations along any number of
//! axes, and the patches of an image as a matrix ("im2col"), for Convolution, Deconvolution and
//! Im2col.

use caffe_proto::ConvolutionParameter;

use crate::device::cpu::threads::Threads;
use crate::{Result, bail, ensure};

/// One spatial axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    /// Extent of the image.
    pub image: usize,
    /// Kernel elements.
    pub kernel: usize,
    /// Distance of two kernel positions.
    pub stride: usize,
    /// Zeros before and behind the image.
    pub pad: usize,
    /// Distance of two kernel elements.
    pub dilation: usize,
    /// Kernel positions.
    pub positions: usize,
}

impl Axis {
    /// An axis with as many kernel positions as fit.
    ///
    /// # Errors
    /// When not even one does.
    pub fn new(image: usize, [kernel, stride, pad, dilation]: [usize; 4]) -> Result<Axis> {
        let reach = dilation * (kernel - 1) + 1;
        let Some(room) = (image + 2 * pad).checked_sub(reach) else {
            bail!(
                "a kernel of {kernel} (reaching over {reach}) does not fit an image of {image} \
                 with padding {pad}"
            );
        };
        Ok(Axis { image, kernel, stride, pad, dilation, positions: room / stride + 1 })
    }

    /// Extent of an image that has so many kernel positions: Deconvolution's top.
    ///
    /// # Errors
    /// When the padding eats all of it.
    pub fn image_of(
        positions: usize,
        [kernel, stride, pad, dilation]: [usize; 4],
    ) -> Result<usize> {
        ensure!(positions > 0, "an image without elements cannot be enlarged");
        let whole = stride * (positions - 1) + dilation * (kernel - 1) + 1;
        ensure!(whole > 2 * pad, "padding {pad} leaves nothing of an extent of {whole}");
        Ok(whole - 2 * pad)
    }

    /// The image element under kernel element `k` at position `at`.
    fn under(&self, k: usize, at: usize) -> Option<usize> {
        (at * self.stride + k * self.dilation).checked_sub(self.pad).filter(|i| *i < self.image)
    }

    /// The positions at which kernel element `k` lies on the image.
    fn inside(&self, k: usize) -> std::ops::Range<usize> {
        let offset = k * self.dilation;
        let start = self.pad.saturating_sub(offset).div_ceil(self.stride).min(self.positions);
        let end = (self.image + self.pad).saturating_sub(offset).div_ceil(self.stride);
        start..end.clamp(start, self.positions)
    }
}

/// Kernel, stride, padding and dilation of each axis, as a `convolution_param` gives them.
///
/// # Errors
/// When the counts do not fit `axes`, or a value is 0 that must not be.
pub fn settings(param: &ConvolutionParameter, axes: usize) -> Result<Vec<[usize; 4]>> {
    let kernel =
        setting(axes, "kernel", &param.kernel_size, [param.kernel_h, param.kernel_w], None)?;
    let stride = setting(axes, "stride", &param.stride, [param.stride_h, param.stride_w], Some(1))?;
    let pad = setting(axes, "pad", &param.pad, [param.pad_h, param.pad_w], Some(0))?;
    let dilation = setting(axes, "dilation", &param.dilation, [None, None], Some(1))?;
    let all: Vec<[usize; 4]> =
        (0..axes).map(|i| [kernel[i], stride[i], pad[i], dilation[i]]).collect();
    for [kernel, stride, _, dilation] in &all {
        ensure!(
            *kernel > 0 && *stride > 0 && *dilation > 0,
            "kernel, stride and dilation must be at least 1, got {kernel}, {stride}, {dilation}"
        );
    }
    Ok(all)
}

/// One number per axis out of a repeated field or its `_h`, `_w` forms.
fn setting(
    axes: usize,
    what: &str,
    repeated: &[u32],
    [h, w]: [Option<u32>; 2],
    default: Option<usize>,
) -> Result<Vec<usize>> {
    if h.is_some() || w.is_some() {
        ensure!(axes == 2, "{what}_h and {what}_w are for two spatial axes, here are {axes}");
        ensure!(repeated.is_empty(), "give {what} (or {what}_size), or {what}_h and {what}_w");
        let one = |v: Option<u32>| v.map(|v| v as usize).or(default);
        return match (one(h), one(w)) {
            (Some(h), Some(w)) => Ok(vec![h, w]),
            _ => bail!("give both {what}_h and {what}_w"),
        };
    }
    match (repeated.len(), default) {
        // Nothing behind the channels: every kernel is a single element.
        (0 | 1, _) if axes == 0 => Ok(Vec::new()),
        (0, Some(default)) => Ok(vec![default; axes]),
        (0, None) => bail!("needs a {what}_size"),
        (1, _) => Ok(vec![repeated[0] as usize; axes]),
        (n, _) if n == axes => Ok(repeated.iter().map(|&v| v as usize).collect()),
        (n, _) => {
            bail!("{what} is given {n} times; give it once, or once per spatial axis ({axes})")
        }
    }
}

/// The product, or the largest number there is: sizes that nobody can have are refused later.
fn product(sizes: impl IntoIterator<Item = usize>) -> usize {
    sizes.into_iter().fold(1, usize::saturating_mul)
}

/// The patches of an image with some channels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patches {
    /// Channels of the image.
    pub channels: usize,
    /// Its spatial axes.
    pub axes: Vec<Axis>,
}

impl Patches {
    /// Elements of one channel of the image.
    pub fn area(&self) -> usize {
        product(self.axes.iter().map(|a| a.image))
    }

    /// Kernel positions.
    pub fn positions(&self) -> usize {
        product(self.axes.iter().map(|a| a.positions))
    }

    /// Kernel elements.
    pub fn kernel(&self) -> usize {
        product(self.axes.iter().map(|a| a.kernel))
    }

    /// Elements of the image.
    pub fn image_len(&self) -> usize {
        self.channels * self.area()
    }

    /// Elements of the matrix: a row per channel and kernel element, a column per position.
    pub fn matrix_len(&self) -> usize {
        product([self.channels, self.kernel(), self.positions()])
    }

    /// Whether the matrix is the image itself: a kernel of 1 at every element.
    pub fn is_image(&self) -> bool {
        self.axes.iter().all(|a| a.kernel == 1 && a.stride == 1 && a.pad == 0)
    }

    /// matrix ← patches of the image; zeros where a patch hangs over the edge.
    pub fn gather(&self, threads: Threads, image: &[f32], matrix: &mut [f32]) {
        let (area, rows) = (self.area(), self.kernel());
        threads.par_chunks_mut(matrix, rows * self.positions(), |c, matrix| {
            let plane = &image[c * area..][..area];
            for (k, row) in matrix.chunks_mut(self.positions()).enumerate() {
                self.lines(k, |positions, line| {
                    let row = &mut row[positions];
                    let Some(line) = line else { return row.fill(0.0) };
                    let (last, k) = self.last(k);
                    let inside = last.inside(k);
                    row[..inside.start].fill(0.0);
                    row[inside.end..].fill(0.0);
                    let Some(first) = last.under(k, inside.start) else { return };
                    let from = plane[line + first..].iter().step_by(last.stride);
                    row[inside].iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                });
            }
        });
    }

    /// image ← the sum of all patches in the matrix, each element where `gather` took it.
    pub fn scatter(&self, threads: Threads, matrix: &[f32], image: &mut [f32]) {
        let len = self.kernel() * self.positions();
        threads.par_chunks_mut(image, self.area(), |c, plane| {
            plane.fill(0.0);
            let matrix = &matrix[c * len..][..len];
            for (k, row) in matrix.chunks(self.positions()).enumerate() {
                self.lines(k, |positions, line| {
                    let Some(line) = line else { return };
                    let (last, k) = self.last(k);
                    let inside = last.inside(k);
                    let Some(first) = last.under(k, inside.start) else { return };
                    let to = plane[line + first..].iter_mut().step_by(last.stride);
                    to.zip(&row[positions][inside]).for_each(|(to, from)| *to += from);
                });
            }
        });
    }

    /// The innermost axis and its part of kernel element `k`.
    fn last(&self, k: usize) -> (&Axis, usize) {
        let last = &self.axes[self.axes.len() - 1];
        (last, k % last.kernel)
    }

    /// For kernel element `k` calls `f(positions, start)` for every line of positions along the
    /// innermost axis; `start` is where that line of the image starts, none outside the image.
    fn lines(&self, k: usize, mut f: impl FnMut(std::ops::Range<usize>, Option<usize>)) {
        let (outer, last) = self.axes.split_at(self.axes.len() - 1);
        let (len, width) = (last[0].positions, last[0].image);
        let count: usize = outer.iter().map(|a| a.positions).product();
        for i in 0..count {
            // Digits of line and kernel element, innermost first.
            let (mut line, mut k, mut start, mut scale) = (i, k / last[0].kernel, Some(0), width);
            for axis in outer.iter().rev() {
                let at = axis.under(k % axis.kernel, line % axis.positions);
                start = start.zip(at).map(|(start, at)| start + at * scale);
                (line, k, scale) = (line / axis.positions, k / axis.kernel, scale * axis.image);
            }
            f(i * len..(i + 1) * len, start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patches(channels: usize, axes: &[(usize, [usize; 4])]) -> Patches {
        let axes = axes.iter().map(|(n, s)| Axis::new(*n, *s).unwrap()).collect();
        Patches { channels, axes }
    }

    /// Element by element, by the definition.
    fn naive(p: &Patches, image: &[f32]) -> Vec<f32> {
        let mut matrix = Vec::new();
        for c in 0..p.channels {
            for k in 0..p.kernel() {
                for at in 0..p.positions() {
                    let (mut k, mut at, mut index, mut scale) = (k, at, Some(0), 1);
                    for a in p.axes.iter().rev() {
                        let under = a.under(k % a.kernel, at % a.positions);
                        index = index.zip(under).map(|(i, u)| i + u * scale);
                        (k, at, scale) = (k / a.kernel, at / a.positions, scale * a.image);
                    }
                    matrix.push(index.map_or(0.0, |i: usize| image[c * p.area() + i]));
                }
            }
        }
        matrix
    }

    #[test]
    fn gathers_what_the_definition_says_and_scatter_is_its_transpose() {
        for p in [
            patches(2, &[(5, [3, 1, 1, 1]), (4, [3, 1, 1, 1])]),
            patches(3, &[(7, [3, 2, 0, 2]), (9, [2, 3, 1, 3])]),
            patches(1, &[(2, [5, 1, 3, 1]), (2, [1, 2, 0, 1])]),
            patches(2, &[(6, [3, 2, 2, 1])]),
            patches(2, &[(3, [2, 1, 1, 1]), (4, [2, 2, 0, 1]), (5, [3, 1, 1, 2])]),
        ] {
            let image: Vec<f32> = (0..p.image_len()).map(|i| (i * 7 % 23) as f32 - 9.0).collect();
            let mut matrix = vec![f32::NAN; p.matrix_len()];
            p.gather(Threads::new(2), &image, &mut matrix);
            assert_eq!(matrix, naive(&p, &image), "{p:?}");
            let other: Vec<f32> = (0..matrix.len()).map(|i| (i * 5 % 17) as f32 - 8.0).collect();
            let mut back = vec![f32::NAN; image.len()];
            p.scatter(Threads::new(2), &other, &mut back);
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            assert_eq!(dot(&matrix, &other), dot(&image, &back), "{p:?}");
        }
    }

    #[test]
    fn a_kernel_that_does_not_fit_is_an_error() {
        assert!(Axis::new(3, [5, 1, 0, 1]).is_err());
        assert_eq!(Axis::new(3, [5, 1, 1, 1]).unwrap().positions, 1);
        assert!(Axis::new(4, [3, 1, 0, 2]).is_err());
        assert_eq!(Axis::image_of(3, [4, 2, 1, 1]).unwrap(), 6);
    }

    #[test]
    fn settings_come_in_two_forms() {
        let parse =
            |text: &str| caffe_proto::text::parse::<ConvolutionParameter>("t", text).unwrap();
        let of = |text: &str| settings(&parse(text), 2);
        assert_eq!(of("kernel_size: 3 pad: 1").unwrap(), [[3, 1, 1, 1]; 2]);
        assert_eq!(
            of("kernel_h: 3 kernel_w: 5 stride_h: 2").unwrap(),
            [[3, 2, 0, 1], [5, 1, 0, 1]]
        );
        assert_eq!(
            of("kernel_size: 3 kernel_size: 1 dilation: 2 dilation: 1").unwrap(),
            [[3, 1, 0, 2], [1, 1, 0, 1]]
        );
        for bad in [
            "",
            "kernel_size: 0",
            "kernel_h: 3",
            "kernel_size: 1 kernel_size: 2 kernel_size: 3",
            "kernel_size: 3 kernel_h: 3 kernel_w: 3",
            "kernel_size: 3 stride: 0",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}
