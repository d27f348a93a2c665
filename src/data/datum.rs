//! A record's value as an image: Caffe's `Datum`, checked.

use std::borrow::Cow;

use bytes::Bytes;
use caffe_proto::{Datum, Message};

use super::RecordProblem;
use super::image::{Colour, Picture, Raster};
use super::transform::Cut;

/// The values of an image, channel by channel, row by row.
#[derive(Debug, Clone, PartialEq)]
pub enum Pixels {
    /// `Datum.data`, one byte a value; shares the record's memory.
    Bytes(Bytes),
    /// `Datum.float_data`.
    Floats(Vec<f32>),
}

/// One image, or feature map.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// (channels, height, width), none of them 0.
    pub shape: [usize; 3],
    /// As many values as `shape` says.
    pub pixels: Pixels,
}

impl From<Raster> for Image {
    fn from(raster: Raster) -> Self {
        Self { shape: raster.shape(), pixels: Pixels::Bytes(raster.planes().into()) }
    }
}

/// An image before the work: its shape is known, its pixels may still be compressed.
#[derive(Debug, Clone)]
pub enum Pending {
    /// As it is.
    Plain(Image),
    /// A JPEG or PNG.
    Encoded {
        /// The file.
        picture: Picture,
        /// What its colours become.
        colour: Colour,
        /// Height and width to bring it to.
        size: Option<[usize; 2]>,
    },
}

impl Pending {
    /// The shape of [`image`](Self::image).
    pub fn shape(&self) -> [usize; 3] {
        match self {
            Self::Plain(image) => image.shape,
            Self::Encoded { picture, colour, size } => {
                let [channels, height, width] = picture.shape(*colour);
                let [height, width] = size.unwrap_or([height, width]);
                [channels, height, width]
            }
        }
    }

    /// Whether [`image`](Self::image) is work worth sharing among threads.
    pub fn is_encoded(&self) -> bool {
        matches!(self, Self::Encoded { .. })
    }

    /// Whether its pixels are bytes: always, if it is compressed.
    pub fn is_bytes(&self) -> bool {
        !matches!(self, Self::Plain(Image { pixels: Pixels::Floats(_), .. }))
    }

    /// Decodes and resizes.
    ///
    /// # Errors
    /// [`RecordProblem::Image`].
    pub fn image(&self) -> Result<Cow<'_, Image>, RecordProblem> {
        match self {
            Self::Plain(image) => Ok(Cow::Borrowed(image)),
            Self::Encoded { picture, colour, size } => {
                Ok(Cow::Owned(decode(picture, *colour, *size)?.into()))
            }
        }
    }

    /// Decodes and resizes, and writes the part of `size` (height, width) that `cut` names to `out`,
    /// channel by channel; it is not mirrored. Of an image of floats nothing is written.
    ///
    /// # Errors
    /// [`RecordProblem::Image`].
    pub(super) fn write_bytes(
        &self,
        cut: Cut,
        size: [usize; 2],
        out: &mut [u8],
    ) -> Result<(), RecordProblem> {
        let corner = [cut.top, cut.left].map(|side| side as usize);
        match self {
            Self::Plain(Image { shape, pixels: Pixels::Bytes(bytes) }) => {
                write_part(bytes, *shape, corner, size, out);
            }
            Self::Plain(_) => {}
            Self::Encoded { picture, colour, size: whole } => {
                decode(picture, *colour, *whole)?.write_planes(corner, size, out);
            }
        }
        Ok(())
    }
}

fn decode(
    picture: &Picture,
    colour: Colour,
    size: Option<[usize; 2]>,
) -> Result<Raster, RecordProblem> {
    let raster = picture.decode(colour)?;
    Ok(match size {
        Some([height, width]) => raster.resize(height, width),
        None => raster,
    })
}

/// Copies the part of an image of `shape` that begins at `corner` and is `size` large.
fn write_part(
    pixels: &[u8],
    shape: [usize; 3],
    [top, left]: [usize; 2],
    [height, width]: [usize; 2],
    out: &mut [u8],
) {
    let [_, rows, columns] = shape;
    if [height, width] == [rows, columns] {
        out.copy_from_slice(pixels);
        return;
    }
    let planes = pixels.chunks_exact(rows * columns);
    let rows = planes.flat_map(|plane| plane.chunks_exact(columns).skip(top).take(height));
    for (out, row) in out.chunks_exact_mut(width).zip(rows) {
        out.copy_from_slice(&row[left..left + width]);
    }
}

/// The image in a record, and its label.
#[derive(Debug, Clone)]
pub struct Labelled {
    /// The image.
    pub image: Pending,
    /// The class, 0 when the record has none.
    pub label: i32,
}

impl Labelled {
    /// Reads the value of a record. Bytes are not copied. `colour` is for encoded images; of others
    /// it only has to be what they are.
    ///
    /// # Errors
    /// What is wrong with the record; the caller knows its database and key.
    pub fn parse(value: Bytes, colour: Colour) -> Result<Self, RecordProblem> {
        let datum =
            Datum::decode(value).map_err(|source| RecordProblem::NotADatum(source.to_string()))?;
        let label = datum.label();
        if datum.encoded() {
            let picture = Picture::inspect(datum.data.unwrap_or_default())?;
            return Ok(Self { image: Pending::Encoded { picture, colour, size: None }, label });
        }
        let image = plain(datum)?;
        match (colour, image.shape[0]) {
            (Colour::Native, _) | (Colour::Bgr, 3) | (Colour::Grey, 1) => {}
            (_, channels) => return Err(RecordProblem::NotEncoded { channels }),
        }
        Ok(Self { image: Pending::Plain(image), label })
    }
}

fn plain(datum: Datum) -> Result<Image, RecordProblem> {
    let sides = [datum.channels(), datum.height(), datum.width()];
    let shape = sides.map(|side| usize::try_from(side).unwrap_or(0));
    let need = shape.iter().try_fold(1usize, |all, &side| all.checked_mul(side)).unwrap_or(0);
    if need == 0 {
        return Err(RecordProblem::NoShape(sides.map(i64::from)));
    }
    // As in Caffe, bytes win over floats.
    let (have, pixels) = match datum.data {
        Some(data) if !data.is_empty() => (data.len(), Pixels::Bytes(data)),
        _ => (datum.float_data.len(), Pixels::Floats(datum.float_data)),
    };
    if have != need {
        return Err(RecordProblem::Length { shape, have, need });
    }
    Ok(Image { shape, pixels })
}

/// The bytes of a `Datum` as Caffe's converters write it: shape, bytes, label.
pub(super) fn encode_bytes(shape: [i32; 3], data: Bytes, label: i32, out: &mut Vec<u8>) {
    let [channels, height, width] = shape;
    let datum = Datum {
        channels: Some(channels),
        height: Some(height),
        width: Some(width),
        data: Some(data),
        label: Some(label),
        ..Datum::default()
    };
    out.clear();
    out.extend_from_slice(&datum.encode_to_vec());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(datum: &Datum) -> Result<(Image, i32), RecordProblem> {
        let parsed = Labelled::parse(datum.encode_to_vec().into(), Colour::Native)?;
        Ok((parsed.image.image()?.into_owned(), parsed.label))
    }

    fn datum(shape: [i32; 3], data: &'static [u8]) -> Datum {
        let mut out = Vec::new();
        encode_bytes(shape, Bytes::from_static(data), 7, &mut out);
        Datum::decode(out.as_slice()).unwrap()
    }

    #[test]
    fn bytes_and_floats_decode() {
        let (image, label) = parse(&datum([1, 1, 2], &[3, 255])).unwrap();
        assert_eq!(image.pixels, Pixels::Bytes(Bytes::from_static(&[3, 255])));
        assert_eq!((image.shape, label), ([1, 1, 2], 7));
        let floats = Datum { float_data: vec![0.5, -2.0], ..datum([2, 1, 1], &[]) };
        assert_eq!(parse(&floats).unwrap().0.pixels, Pixels::Floats(vec![0.5, -2.0]));
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let encoded = Datum { encoded: Some(true), ..datum([0, 0, 0], b"BM12") };
        assert!(parse(&encoded).unwrap_err().to_string().contains("seems to be a BMP"));
        assert_eq!(parse(&datum([1, -2, 2], &[1])), Err(RecordProblem::NoShape([1, -2, 2])));
        let short = RecordProblem::Length { shape: [1, 2, 2], have: 3, need: 4 };
        assert_eq!(parse(&datum([1, 2, 2], &[1, 2, 3])), Err(short));
        let garbage = Labelled::parse(Bytes::from_static(&[0xff; 9]), Colour::Native);
        assert!(matches!(garbage, Err(RecordProblem::NotADatum(_))));
    }

    #[test]
    fn colours_are_forced_on_encoded_images_only() {
        let bytes = |n: usize| datum([n as i32, 1, 1], &[1, 2, 3][..n]).encode_to_vec().into();
        assert!(Labelled::parse(bytes(3), Colour::Bgr).is_ok());
        assert!(Labelled::parse(bytes(1), Colour::Grey).is_ok());
        let problem = Labelled::parse(bytes(1), Colour::Bgr).unwrap_err();
        assert_eq!(problem, RecordProblem::NotEncoded { channels: 1 });
    }
}
