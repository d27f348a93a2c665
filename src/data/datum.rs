//! A record's value as an image: Caffe's `Datum`, checked.

use bytes::Bytes;
use caffe_proto::{Datum, Message};

use super::RecordProblem;

/// The values of an image, channel by channel, row by row.
#[derive(Debug, Clone, PartialEq)]
pub enum Pixels {
    /// `Datum.data`, one byte a value; shares the record's memory.
    Bytes(Bytes),
    /// `Datum.float_data`.
    Floats(Vec<f32>),
}

/// One image (or feature map) and its label.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// (channels, height, width), none of them 0.
    pub shape: [usize; 3],
    /// As many values as `shape` says.
    pub pixels: Pixels,
    /// The class, 0 when the record has none.
    pub label: i32,
}

impl Image {
    /// Decodes the value of a record. Bytes are not copied.
    ///
    /// # Errors
    /// What is wrong with the record; the caller knows its database and key.
    pub fn decode(value: Bytes) -> Result<Self, RecordProblem> {
        let datum =
            Datum::decode(value).map_err(|source| RecordProblem::NotADatum(source.to_string()))?;
        if datum.encoded() {
            return Err(RecordProblem::Encoded);
        }
        let sides = [datum.channels(), datum.height(), datum.width()];
        let shape = sides.map(|side| usize::try_from(side).unwrap_or(0));
        let need = shape.iter().try_fold(1usize, |all, &side| all.checked_mul(side)).unwrap_or(0);
        if need == 0 {
            return Err(RecordProblem::NoShape(sides.map(i64::from)));
        }
        let label = datum.label();
        // As in Caffe, bytes win over floats.
        let (have, pixels) = match datum.data {
            Some(data) if !data.is_empty() => (data.len(), Pixels::Bytes(data)),
            _ => (datum.float_data.len(), Pixels::Floats(datum.float_data)),
        };
        if have != need {
            return Err(RecordProblem::Length { shape, have, need });
        }
        Ok(Self { shape, pixels, label })
    }
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

    fn decode(datum: &Datum) -> Result<Image, RecordProblem> {
        Image::decode(datum.encode_to_vec().into())
    }

    fn datum(shape: [i32; 3], data: &'static [u8]) -> Datum {
        let mut out = Vec::new();
        encode_bytes(shape, Bytes::from_static(data), 7, &mut out);
        Datum::decode(out.as_slice()).unwrap()
    }

    #[test]
    fn bytes_and_floats_decode() {
        let image = decode(&datum([1, 1, 2], &[3, 255])).unwrap();
        assert_eq!(image.pixels, Pixels::Bytes(Bytes::from_static(&[3, 255])));
        assert_eq!((image.shape, image.label), ([1, 1, 2], 7));
        let floats = Datum { float_data: vec![0.5, -2.0], ..datum([2, 1, 1], &[]) };
        assert_eq!(decode(&floats).unwrap().pixels, Pixels::Floats(vec![0.5, -2.0]));
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let encoded = Datum { encoded: Some(true), ..datum([0, 0, 0], &[1]) };
        assert_eq!(decode(&encoded), Err(RecordProblem::Encoded));
        assert_eq!(decode(&datum([1, -2, 2], &[1])), Err(RecordProblem::NoShape([1, -2, 2])));
        let short = RecordProblem::Length { shape: [1, 2, 2], have: 3, need: 4 };
        assert_eq!(decode(&datum([1, 2, 2], &[1, 2, 3])), Err(short));
        let garbage = Image::decode(Bytes::from_static(&[0xff; 9])).unwrap_err();
        assert!(matches!(garbage, RecordProblem::NotADatum(_)));
    }
}
