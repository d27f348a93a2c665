//! `convert_mnist_data [-backend lmdb] IMAGE_FILE LABEL_FILE OUTPUT_DB`, and
//! `convert_mnist_siamese_data IMAGE_FILE LABEL_FILE OUTPUT_DB`.

use std::path::Path;

use bytes::Bytes;

use crate::data::datum::encode_bytes;
use crate::data::{Backend, DataError, Writer};
use crate::rng::{Philox, stream_id};

use super::idx::Pair;

/// Converts an idx image file and its label file, plain or gzipped, into the database `output`;
/// returns the number of records. Keys are the record's number, `%08d`; images are 1 × rows ×
/// columns.
///
/// # Errors
/// [`DataError::Input`] for a wrong magic number, counts that differ, or a file of the wrong length;
/// [`DataError::Exists`]; [`DataError::Io`].
pub fn convert_mnist(
    images: &Path,
    labels: &Path,
    output: &Path,
    backend: Backend,
) -> Result<u64, DataError> {
    let mut pair = Pair::open(images, labels)?;
    let shape = [1, pair.rows as i32, pair.columns as i32];
    let mut writer = Writer::create(output, backend)?;
    let mut value = Vec::new();
    for index in 0..pair.count {
        let (image, label) = pair.record()?;
        encode_bytes(shape, image, label.into(), &mut value);
        writer.put(format!("{index:08}").as_bytes(), &value)?;
    }
    pair.end()?;
    writer.finish()
}

/// As many pairs of images, drawn at random with `seed`, as there are images, into the LevelDB
/// `output`; returns their number. A record is 2 × rows × columns, one image behind the other, its
/// label 1 where both show the same digit and 0 where not.
///
/// # Errors
/// As [`convert_mnist`].
pub fn convert_mnist_pairs(
    images: &Path,
    labels: &Path,
    output: &Path,
    seed: u64,
) -> Result<u64, DataError> {
    let mut pair = Pair::open(images, labels)?;
    let (count, shape) = (pair.count, [2, pair.rows as i32, pair.columns as i32]);
    let records: Vec<(Bytes, u8)> = (0..count).map(|_| pair.record()).collect::<Result<_, _>>()?;
    pair.end()?;
    let mut random = Philox::new(seed, stream_id("pairs")).sequence();
    let mut draw = || &records[random.below(count.into()) as usize];
    let mut writer = Writer::create(output, Backend::LevelDb)?;
    let mut value = Vec::new();
    for index in 0..count {
        let (first, second) = (draw(), draw());
        let both = [&first.0[..], &second.0[..]].concat();
        encode_bytes(shape, both.into(), i32::from(first.1 == second.1), &mut value);
        writer.put(format!("{index:08}").as_bytes(), &value)?;
    }
    writer.finish()
}
