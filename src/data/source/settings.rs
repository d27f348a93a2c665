//! What the parameters of data layers have in common, checked.

use std::path::Path;

use caffe_proto::LayerParameter;

use crate::data::DataError;
use crate::rng::{Philox, below, stream_id};

/// A complaint about a layer's settings.
pub(super) fn wrong(layer: &LayerParameter, reason: impl Into<String>) -> DataError {
    DataError::Layer { layer: layer.name().to_owned(), reason: reason.into() }
}

/// The path in `source`; `what` says what it should name.
pub(super) fn source<'a>(
    layer: &LayerParameter,
    message: &str,
    source: &'a str,
    what: &str,
) -> Result<&'a Path, DataError> {
    match source {
        "" => Err(wrong(layer, format!("{message} has no source; name {what}"))),
        source => Ok(Path::new(source)),
    }
}

/// A positive batch size.
pub(super) fn batch_size(
    layer: &LayerParameter,
    message: &str,
    size: u32,
) -> Result<usize, DataError> {
    match size {
        0 => Err(wrong(layer, format!("{message} has no batch_size, or 0; give a positive one"))),
        size => Ok(size as usize),
    }
}

/// Records to pass over at the start, below `rand_skip`: a function of seed and layer.
pub(super) fn skip(layer: &LayerParameter, seed: u64, rand_skip: u32) -> u64 {
    let [word, ..] = Philox::new(seed, stream_id("rand_skip") ^ stream_id(layer.name())).at(0);
    below(word, rand_skip).into()
}

/// The two tops that image layers have.
pub(super) fn two_tops(layer: &LayerParameter) -> Result<(), DataError> {
    match layer.top.len() {
        2 => Ok(()),
        _ => Err(wrong(layer, format!("a {} layer has two tops (data, label)", layer.r#type()))),
    }
}
