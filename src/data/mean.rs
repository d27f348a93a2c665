//! Mean images: the `*.binaryproto` files that `compute_image_mean` writes and `mean_file` reads.

use std::path::Path;

use caffe_proto::{BlobProto, Message, read_binary_file, write_file_atomic};

use super::DataError;

/// A mean image, one value for each place of the uncropped images.
#[derive(Debug, Clone, PartialEq)]
pub struct MeanImage {
    /// (channels, height, width).
    pub shape: [usize; 3],
    /// Channel by channel, row by row, in the units of the images (0 to 255 for bytes).
    pub data: Vec<f32>,
}

impl MeanImage {
    /// Reads a serialized `BlobProto` of 1 × channels × height × width.
    ///
    /// # Errors
    /// [`DataError::File`] for a file that is missing, damaged or of another kind, and
    /// [`DataError::Input`] for a blob that is no image.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let wrong = |reason: String| DataError::Input { path: path.to_owned(), reason };
        let blob: BlobProto = read_binary_file(path)?;
        let sides: Vec<i64> = match &blob.shape {
            Some(shape) => shape.dim.clone(),
            None => {
                [blob.num(), blob.channels(), blob.height(), blob.width()].map(i64::from).into()
            }
        };
        let shape = match *sides.as_slice() {
            [c, h, w] | [1, c, h, w] => [c, h, w].map(|side| usize::try_from(side).unwrap_or(0)),
            _ => [0; 3],
        };
        let need = shape.iter().try_fold(1usize, |all, &side| all.checked_mul(side)).unwrap_or(0);
        if need == 0 {
            return Err(wrong(format!(
                "holds a blob of shape {sides:?}, not one image; make it with `caffe compute_image_mean`"
            )));
        }
        let data = match blob.data.is_empty() {
            true => blob.double_data.iter().map(|&value| value as f32).collect(),
            false => blob.data,
        };
        if data.len() != need {
            let have = data.len();
            return Err(wrong(format!(
                "holds {have} values where {sides:?} needs {need}: cut short?"
            )));
        }
        Ok(Self { shape, data })
    }

    /// Writes the file as Caffe's `compute_image_mean` does; it is there whole or not at all.
    ///
    /// # Errors
    /// [`DataError::File`].
    pub fn write(&self, path: &Path) -> Result<(), DataError> {
        let [channels, height, width] = self.shape.map(|side| Some(side as i32));
        let blob = BlobProto {
            num: Some(1),
            channels,
            height,
            width,
            data: self.data.clone(),
            ..BlobProto::default()
        };
        Ok(write_file_atomic(path, &blob.encode_to_vec())?)
    }

    /// The mean of each channel.
    pub fn channel_means(&self) -> Vec<f32> {
        let plane = self.shape[1] * self.shape[2];
        let mean = |values: &[f32]| {
            values.iter().map(|&value| f64::from(value)).sum::<f64>() / plane as f64
        };
        self.data.chunks(plane).map(|values| mean(values) as f32).collect()
    }
}
