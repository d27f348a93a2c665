//! `compute_image_mean [-backend lmdb] INPUT_DB [OUTPUT_FILE]`.

use std::path::Path;

use crate::data::datum::{Labelled, Pixels};
use crate::data::image::Colour;
use crate::data::mean::MeanImage;
use crate::data::{Backend, DataError, Database, RecordProblem};

/// The mean over all records of the database at `path`, place by place, and their number. For images
/// of bytes with sums below 2²⁴ (at least 65,793 images) it has the bits of Caffe's own tool; beyond
/// that it is the more exact of the two, since it sums in double precision.
///
/// # Errors
/// Those of [`Database`], [`DataError::Empty`], [`DataError::Record`] for images of differing size.
pub fn compute_mean(path: &Path, backend: Backend) -> Result<(MeanImage, u64), DataError> {
    let mut cursor = Database::open(path, backend)?.cursor()?;
    let mut shape = None;
    let mut sums: Vec<f64> = Vec::new();
    let mut count = 0u64;
    while let Some(record) = cursor.next_record()? {
        let bad = |problem| DataError::Record {
            path: path.to_owned(),
            key: record.key.escape_ascii().to_string(),
            problem,
        };
        let parsed = Labelled::parse(record.value.clone(), Colour::Native).map_err(bad)?;
        let image = parsed.image.image().map_err(bad)?;
        let first = *shape.get_or_insert(image.shape);
        if image.shape != first {
            return Err(bad(RecordProblem::MeanSizes { first, image: image.shape }));
        }
        sums.resize(first.iter().product(), 0.0);
        match &image.pixels {
            Pixels::Bytes(bytes) => add(&mut sums, bytes),
            Pixels::Floats(floats) => add(&mut sums, floats),
        }
        count += 1;
    }
    let shape = shape.ok_or_else(|| DataError::Empty { path: path.to_owned() })?;
    let data = sums.iter().map(|&sum| sum as f32 / count as f32).collect();
    Ok((MeanImage { shape, data }, count))
}

fn add<T: Copy + Into<f64>>(sums: &mut [f64], values: &[T]) {
    for (sum, &value) in sums.iter_mut().zip(values) {
        *sum += value.into();
    }
}
