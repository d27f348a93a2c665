//! (pixel − mean) · scale: the arithmetic of a transform, without its crop and mirror.
//!
//! The one definition on the host. A reader's batches of floats pass through it, and batches of
//! [raw](crate::data::source::Raw) records that reach a net on the CPU; its counterpart on a device
//! is the kernel of the data layers, which gives the same bits.

use std::path::Path;

use caffe_proto::TransformationParameter;

use super::Cut;
use crate::data::DataError;
use crate::data::mean::MeanImage;

/// What is subtracted.
#[derive(Debug)]
pub enum Mean {
    /// Nothing.
    None,
    /// A value for each place: `mean_file`.
    Image(MeanImage),
    /// One value, or one a channel: `mean_value`.
    Values(Vec<f32>),
}

impl Mean {
    /// That of the settings of the layer named `layer`.
    ///
    /// # Errors
    /// [`DataError::Layer`] when mean_file and mean_value are both given; the errors of
    /// [`MeanImage::read`].
    pub(in crate::data) fn new(
        layer: &str,
        param: &TransformationParameter,
    ) -> Result<Self, DataError> {
        match (&param.mean_file, param.mean_value.as_slice()) {
            (Some(_), [_, ..]) => Err(DataError::Layer {
                layer: layer.to_owned(),
                reason: "transform_param has both mean_file and mean_value; keep one".to_owned(),
            }),
            (Some(file), []) => Ok(Self::Image(MeanImage::read(Path::new(file))?)),
            (None, []) => Ok(Self::None),
            (None, values) => Ok(Self::Values(values.to_vec())),
        }
    }
}

/// What becomes of a pixel's value, the same for all records of a layer.
#[derive(Debug)]
pub struct Levels {
    /// What is subtracted first.
    pub mean: Mean,
    /// What the difference is multiplied with.
    pub scale: f32,
}

/// Where an image's pixels lie: channel by channel, row by row.
#[derive(Clone, Copy)]
pub(super) struct Whole<'a, T> {
    pub(super) pixels: &'a [T],
    /// Rows, and pixels of a row.
    pub(super) sides: [usize; 2],
    /// Row and column where the part begins that is wanted.
    pub(super) corner: [usize; 2],
}

impl Levels {
    /// Writes an image that has been cropped, but neither mirrored nor changed otherwise, to `out`.
    /// `pixels` and `out` are of this shape (channels, height, width); where it lay in its record is
    /// in `cut`.
    pub fn apply(&self, pixels: &[u8], shape: [usize; 3], cut: Cut, out: &mut [f32]) {
        let [_, height, width] = shape;
        let image = Whole { pixels, sides: [height, width], corner: [0; 2] };
        self.copy(image, [height, width], cut, out);
    }

    /// Writes the part of an image that is `height` × `width` pixels large.
    pub(super) fn copy<T: Pixel>(
        &self,
        image: Whole<'_, T>,
        [height, width]: [usize; 2],
        cut: Cut,
        out: &mut [f32],
    ) {
        let Whole { pixels, sides: [rows, columns], corner: [top, left] } = image;
        for (channel, out) in out.chunks_exact_mut(height * width).enumerate() {
            for (row, out) in out.chunks_exact_mut(width).enumerate() {
                let from = (channel * rows + top + row) * columns + left;
                let pixels = &pixels[from..from + width];
                match &self.mean {
                    Mean::None => self.write_row(pixels, 0.0, cut.mirror, out),
                    Mean::Values(values) => {
                        let mean = if values.len() == 1 { values[0] } else { values[channel] };
                        self.write_row(pixels, mean, cut.mirror, out);
                    }
                    Mean::Image(mean) => {
                        let [_, rows, columns] = mean.shape;
                        let [top, left] = [cut.top, cut.left].map(|side| side as usize);
                        let from = (channel * rows + top + row) * columns + left;
                        let means = &mean.data[from..from + width];
                        let row = pixels.iter().zip(means);
                        let values = row.map(|(&pixel, mean)| (pixel.value() - mean) * self.scale);
                        assign(out, values, cut.mirror);
                    }
                }
            }
        }
    }

    fn write_row<T: Pixel>(&self, pixels: &[T], mean: f32, mirror: bool, out: &mut [f32]) {
        assign(out, pixels.iter().map(|&pixel| (pixel.value() - mean) * self.scale), mirror);
    }
}

fn assign(out: &mut [f32], values: impl Iterator<Item = f32>, mirror: bool) {
    match mirror {
        true => out.iter_mut().rev().zip(values).for_each(|(out, value)| *out = value),
        false => out.iter_mut().zip(values).for_each(|(out, value)| *out = value),
    }
}

/// A pixel's value, as records hold it.
pub(super) trait Pixel: Copy {
    fn value(self) -> f32;
}

impl Pixel for u8 {
    fn value(self) -> f32 {
        f32::from(self)
    }
}

impl Pixel for f32 {
    fn value(self) -> f32 {
        self
    }
}
