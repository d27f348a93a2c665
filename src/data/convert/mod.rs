//! Making databases and mean files: what stands behind `caffe convert_imageset`,
//! `convert_cifar_data`, `convert_mnist_data`, `convert_mnist_siamese_data`, `compute_image_mean` and `db`.
//!
//! Arguments, names, keys and the bytes of each `Datum` are those of Caffe's tools. A conversion
//! refuses an output that exists and leaves none that is not whole.

mod cifar;
mod copy;
mod idx;
mod imageset;
mod mean;
mod mnist;

pub use cifar::{CIFAR_RECORD, CIFAR_SHAPE, CifarConversion, Converted, convert_cifar};
pub use copy::{copy, shard};
pub use imageset::{Encoding, Imageset, Step as ImagesetStep};
pub use mean::compute_mean;
pub use mnist::{convert_mnist, convert_mnist_pairs};

use std::path::Path;

use super::DataError;

fn wrong(path: &Path, reason: impl Into<String>) -> DataError {
    DataError::Input { path: path.to_owned(), reason: reason.into() }
}
