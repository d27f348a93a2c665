//! `transform_param`: mean, scale, crop and mirror on the way from image to blob.
//!
//! out = (pixel − mean) · scale, with the mean taken at the pixel's place in the uncropped image.
//! In TRAIN the crop is random, in TEST in the centre; `mirror` flips half the images, in either
//! phase, as in Caffe. What is random is a function of (seed, layer, record position), so a record
//! meets the same crop and flip whatever the number of replicas.
//!
//! ```text
//! transform_param { mirror: true crop_size: 227 mean_file: "mean.binaryproto" scale: 0.00390625 }
//! ```

mod levels;

use std::sync::Arc;

use caffe_proto::{Phase, TransformationParameter};

use super::datum::{Image, Pixels};
use super::{DataError, RecordProblem};
use crate::rng::{Philox, below, stream_id};
use levels::Whole;

pub use levels::{Levels, Mean};

/// A layer's `transform_param`, ready to use.
#[derive(Debug)]
pub struct Transformer {
    levels: Arc<Levels>,
    mirror: bool,
    crop: Option<usize>,
    phase: Phase,
    random: Philox,
}

/// Which part of its image a record gives, and whether it is flipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cut {
    /// First row of the part.
    pub top: u32,
    /// First column of the part.
    pub left: u32,
    /// Whether columns come in reverse order.
    pub mirror: bool,
}

impl Transformer {
    /// Takes the settings of the layer named `layer` and reads its mean file, if any.
    ///
    /// # Errors
    /// Those of its mean: both mean_file and mean_value given, or a file that holds none.
    pub fn new(
        layer: &str,
        param: &TransformationParameter,
        phase: Phase,
        seed: u64,
    ) -> Result<Self, DataError> {
        Ok(Self {
            levels: Arc::new(Levels { mean: Mean::new(layer, param)?, scale: param.scale() }),
            mirror: param.mirror(),
            crop: Some(param.crop_size() as usize).filter(|&crop| crop > 0),
            phase,
            random: Philox::new(seed, stream_id(layer)),
        })
    }

    /// Mean and scale.
    pub fn levels(&self) -> &Arc<Levels> {
        &self.levels
    }

    /// The shape (channels, height, width) that an image of `shape` has in the blob.
    ///
    /// # Errors
    /// When crop or mean do not fit the image.
    pub fn output_shape(&self, shape: [usize; 3]) -> Result<[usize; 3], RecordProblem> {
        let [channels, height, width] = shape;
        match &self.levels.mean {
            Mean::Image(mean) if mean.shape != shape => {
                return Err(RecordProblem::MeanShape { mean: mean.shape, image: shape });
            }
            Mean::Values(values) if values.len() != 1 && values.len() != channels => {
                return Err(RecordProblem::MeanValues { values: values.len(), channels });
            }
            _ => {}
        }
        match self.crop {
            None => Ok(shape),
            Some(crop) if crop <= height && crop <= width => Ok([channels, crop, crop]),
            Some(crop) => Err(RecordProblem::CropTooLarge { crop, image: shape }),
        }
    }

    /// Writes the image at record position `position` into `out`, whose length is the product of
    /// [`output_shape`](Self::output_shape).
    ///
    /// # Errors
    /// As `output_shape`.
    pub fn apply(
        &self,
        image: &Image,
        position: u64,
        out: &mut [f32],
    ) -> Result<(), RecordProblem> {
        let [_, height, width] = self.output_shape(image.shape)?;
        let cut = self.cut(image.shape, [height, width], position);
        let sides = [image.shape[1], image.shape[2]];
        let corner = [cut.top, cut.left].map(|side| side as usize);
        match &image.pixels {
            Pixels::Bytes(bytes) => {
                let image = Whole { pixels: bytes, sides, corner };
                self.levels.copy(image, [height, width], cut, out);
            }
            Pixels::Floats(floats) => {
                let image = Whole { pixels: floats, sides, corner };
                self.levels.copy(image, [height, width], cut, out);
            }
        }
        Ok(())
    }

    /// Which `size` (height, width) of an image of `shape` the record at `position` gives.
    pub fn cut(&self, shape: [usize; 3], size: [usize; 2], position: u64) -> Cut {
        let (rows, columns) = (shape[1] - size[0], shape[2] - size[1]);
        let random_crop = self.crop.is_some() && self.phase == Phase::Train;
        let [flip, top, left, _] = match self.mirror || random_crop {
            true => self.random.at(position),
            false => [0; 4],
        };
        let pick = |word, free: usize| match random_crop {
            true => below(word, free as u32 + 1),
            false => free as u32 / 2,
        };
        let mirror = self.mirror && flip >> 31 == 1;
        Cut { top: pick(top, rows), left: pick(left, columns), mirror }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::mean::MeanImage;

    fn image(shape: [usize; 3]) -> Image {
        let bytes: Vec<u8> = (0..shape.iter().product::<usize>()).map(|i| i as u8).collect();
        Image { shape, pixels: Pixels::Bytes(bytes.into()) }
    }

    fn transformer(param: TransformationParameter, phase: Phase) -> Transformer {
        Transformer::new("data", &param, phase, 5).unwrap()
    }

    fn apply(transformer: &Transformer, image: &Image, position: u64) -> Vec<f32> {
        let shape = transformer.output_shape(image.shape).unwrap();
        let mut out = vec![f32::NAN; shape.iter().product()];
        transformer.apply(image, position, &mut out).unwrap();
        out
    }

    #[test]
    fn mean_comes_before_scale_and_stays_at_uncropped_places() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mean.binaryproto");
        let data: Vec<f32> = (0..32).map(|i| (i * i) as f32).collect();
        MeanImage { shape: [2, 4, 4], data }.write(&file).unwrap();
        let param = TransformationParameter {
            scale: Some(0.5),
            crop_size: Some(2),
            mean_file: Some(file.to_str().unwrap().to_owned()),
            ..TransformationParameter::default()
        };
        let got = apply(&transformer(param.clone(), Phase::Test), &image([2, 4, 4]), 0);
        let places = [5, 6, 9, 10, 21, 22, 25, 26];
        let wanted: Vec<f32> = places.iter().map(|&i| (i - i * i) as f32 * 0.5).collect();
        assert_eq!(got, wanted);

        let problem = transformer(param, Phase::Test).output_shape([2, 5, 4]).unwrap_err();
        assert_eq!(problem, RecordProblem::MeanShape { mean: [2, 4, 4], image: [2, 5, 4] });
    }

    #[test]
    fn mean_values_are_one_or_one_a_channel() {
        let with = |values: &[f32]| TransformationParameter {
            mean_value: values.to_vec(),
            ..TransformationParameter::default()
        };
        let image = image([2, 1, 2]);
        assert_eq!(apply(&transformer(with(&[1.0]), Phase::Train), &image, 0), [-1., 0., 1., 2.]);
        assert_eq!(
            apply(&transformer(with(&[1., 2.]), Phase::Train), &image, 0),
            [-1., 0., 0., 1.]
        );
        let problem = transformer(with(&[1.; 3]), Phase::Train).output_shape([2, 1, 2]);
        assert_eq!(problem, Err(RecordProblem::MeanValues { values: 3, channels: 2 }));
        let both = TransformationParameter { mean_file: Some("mean".to_owned()), ..with(&[1.0]) };
        let error = Transformer::new("data", &both, Phase::Train, 5).unwrap_err();
        assert!(error.to_string().contains("both mean_file and mean_value"));
    }

    #[test]
    fn random_crop_and_mirror_depend_on_the_position_alone_and_cover_all() {
        let param = TransformationParameter {
            crop_size: Some(2),
            mirror: Some(true),
            ..TransformationParameter::default()
        };
        let train = transformer(param.clone(), Phase::Train);
        let image = image([1, 3, 4]);
        let all: Vec<_> = (0..2_000).map(|position| apply(&train, &image, position)).collect();
        assert_eq!(apply(&transformer(param.clone(), Phase::Train), &image, 77), all[77]);
        let mut seen = std::collections::BTreeMap::<(u8, bool), usize>::new();
        for out in &all {
            let mirror = out[0] > out[1];
            let corner = if mirror { out[1] } else { out[0] };
            *seen.entry((corner as u8, mirror)).or_default() += 1;
        }
        assert_eq!(seen.len(), 2 * 3 * 2, "{seen:?}");
        assert!(seen.values().all(|&n| (120..220).contains(&n)), "{seen:?}");
        // In TEST the crop is in the centre, and mirror still flips.
        let test = transformer(param, Phase::Test);
        let corners: std::collections::BTreeSet<_> =
            (0..50).map(|position| apply(&test, &image, position)[0] as u8).collect();
        assert_eq!(corners.into_iter().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn a_crop_larger_than_the_image_is_refused() {
        let param =
            TransformationParameter { crop_size: Some(5), ..TransformationParameter::default() };
        let problem = transformer(param, Phase::Train).output_shape([3, 9, 4]).unwrap_err();
        assert_eq!(problem, RecordProblem::CropTooLarge { crop: 5, image: [3, 9, 4] });
        assert!(problem.to_string().contains("3 x 9 x 4"), "{problem}");
    }
}
