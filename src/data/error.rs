//! What can go wrong between a database on disk and a batch of floats.

use std::io;
use std::path::{Path, PathBuf};

use caffe_proto::FileError;

use super::Backend;
use super::image::ImageProblem;

/// An error of the data side. Every message says what, where and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system refused.
    #[error("cannot {action} `{}`: {source}", path.display())]
    Io {
        /// What was tried: "read", "create", …
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file could not be read or written whole.
    #[error(transparent)]
    File(#[from] FileError),
    /// The path holds no database of the kind.
    #[error("`{}` is not {} {kind}: {reason}; check `source` and `backend`, or convert the data first (`caffe convert_imageset`, `caffe convert_cifar_data`, `caffe convert_mnist_data`)", path.display(), article(*kind))]
    NotADatabase {
        /// What was looked for.
        kind: Backend,
        /// The folder.
        path: PathBuf,
        /// Why it was not taken for a database.
        reason: String,
    },
    /// The database is of the other kind.
    #[error("`{}` is {} {found}; say so with `backend: {}` in data_param, or `-backend={}` to a tool", path.display(), article(*found), found.to_string().to_uppercase(), found.to_string().to_lowercase())]
    OtherBackend {
        /// The folder.
        path: PathBuf,
        /// What it holds.
        found: Backend,
    },
    /// A byte on disk is not what was written.
    #[error("`{}` is damaged at byte {offset}: {what}; restore the file or convert the data again", file.display())]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What does not check out.
        what: String,
    },
    /// A file of the database is gone.
    #[error("`{}` is missing but `{}` needs it; restore it or convert the data again", file.display(), named_by.display())]
    MissingFile {
        /// The missing file.
        file: PathBuf,
        /// The file that names it.
        named_by: PathBuf,
    },
    /// rusty-leveldb refused for a reason of its own.
    #[error("LevelDB `{}`: cannot {action}: {reason}", path.display())]
    LevelDb {
        /// The database.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The crate's message.
        reason: String,
    },
    /// LMDB refused for a reason of its own.
    #[error("LMDB `{}`: cannot {action}: {reason}", path.display())]
    Lmdb {
        /// The database.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The library's message.
        reason: String,
    },
    /// A conversion would overwrite something.
    #[error("`{}` exists already; remove it or choose another output path", path.display())]
    Exists {
        /// The output path.
        path: PathBuf,
    },
    /// A written database did not read back as it was written.
    #[error("`{}`: {written} records were written but {read} read back; is the disk full?", path.display())]
    WriteLost {
        /// Where the database was built.
        path: PathBuf,
        /// Records put in.
        written: u64,
        /// Records found when it was read back.
        read: u64,
    },
    /// The database holds no record.
    #[error("`{}` holds no records; convert the data again", path.display())]
    Empty {
        /// The database.
        path: PathBuf,
    },
    /// One record cannot be used.
    #[error("`{}`, record `{key}`: {problem}", path.display())]
    Record {
        /// The database.
        path: PathBuf,
        /// The record's key, unprintable bytes escaped.
        key: String,
        /// What is wrong with it.
        #[source]
        problem: RecordProblem,
    },
    /// A line of a list makes no sense.
    #[error("{}:{line}: {reason}", list.display())]
    Line {
        /// The list.
        list: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// An image named in a list cannot be used.
    #[error("{}:{line}: `{}`: {problem}", list.display(), file.display())]
    Image {
        /// The list.
        list: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The image file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        problem: RecordProblem,
    },
    /// A layer's settings make no sense.
    #[error("layer `{layer}`: {reason}")]
    Layer {
        /// The layer's name.
        layer: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// An HDF5 file, or a list of them, cannot be used; the text says which and why.
    #[error("{0}")]
    Hdf5(String),
    /// A file in one of the input formats is not what it should be.
    #[error("`{}`: {reason}", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
}

impl DataError {
    /// Wraps an I/O error with what was tried and where.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

/// Why a record cannot be used. Shapes are (channels, height, width).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordProblem {
    /// The value does not decode.
    #[error("the value is not a Datum ({0}); was the database made for Caffe?")]
    NotADatum(String),
    /// A JPEG or PNG that cannot be used.
    #[error(transparent)]
    Image(#[from] ImageProblem),
    /// Colours are to be converted, but the image is not encoded.
    #[error(
        "the image has {channels} channels and is not encoded; force_color, force_gray and force_encoded_color convert encoded images only: remove them, or convert the images with `-encoded`"
    )]
    NotEncoded {
        /// The channels it has.
        channels: usize,
    },
    /// A file that the system would not read.
    #[error("cannot read the file: {0}")]
    Unreadable(String),
    /// A shape with nothing in it.
    #[error("the Datum has shape {}, so it holds no image", text(*.0))]
    NoShape([i64; 3]),
    /// Fewer or more values than the shape says.
    #[error("the Datum holds {have} values, but its shape {} needs {need}", text(*.shape))]
    Length {
        /// Its shape.
        shape: [usize; 3],
        /// Values found.
        have: usize,
        /// Values the shape asks for.
        need: usize,
    },
    /// `crop_size` exceeds the image.
    #[error("crop_size {crop} is larger than the image, {}; lower crop_size or convert larger images", text(*.image))]
    CropTooLarge {
        /// The layer's `crop_size`.
        crop: usize,
        /// The image.
        image: [usize; 3],
    },
    /// The mean is that of images of another shape.
    #[error("the mean file has shape {}, the image {}; they must be equal (before the crop): recompute it with `caffe compute_image_mean`", text(*.mean), text(*.image))]
    MeanShape {
        /// The mean file's shape.
        mean: [usize; 3],
        /// The image.
        image: [usize; 3],
    },
    /// `mean_value` given for another number of channels.
    #[error(
        "{values} mean_value given for an image of {channels} channels; give one, or one a channel"
    )]
    MeanValues {
        /// How many were given.
        values: usize,
        /// The image's channels.
        channels: usize,
    },
    /// Images of different shape in one batch.
    #[error("the image gives {}, the batch began with {}; images of one batch must be equal: set crop_size, resize them to one size, or use batch_size 1", text(*.image), text(*.batch))]
    Differs {
        /// What this record gives.
        image: [usize; 3],
        /// What the first record of the batch gave.
        batch: [usize; 3],
    },
    /// Images of different shape have no mean.
    #[error("the image is {}, the first one {}; a mean needs images of one size", text(*.image), text(*.first))]
    MeanSizes {
        /// The first record's shape.
        first: [usize; 3],
        /// This record's.
        image: [usize; 3],
    },
    /// A key written out of order.
    #[error("keys must be written in ascending order; the one before is `{0}`")]
    KeyOrder(String),
}

fn article(kind: Backend) -> &'static str {
    match kind {
        Backend::LevelDb => "a",
        Backend::Lmdb => "an",
    }
}

/// A shape as Caffe writes it: `3 x 32 x 32`.
fn text<T: std::fmt::Display>([channels, height, width]: [T; 3]) -> String {
    format!("{channels} x {height} x {width}")
}
