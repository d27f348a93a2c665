//! The engine's error type: values that say what went wrong, where, and what to do.
//!
//! Layers report with [`bail!`](crate::bail) and plain words; the net adds the layer's name, type
//! and place in the prototxt ([`Error::Layer`]), so that no layer has to know where it stands.

use std::path::{Path, PathBuf};

use crate::blob::Shape;

/// Result of everything in the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A prototxt or binary proto could not be read, parsed, upgraded or written.
    #[error(transparent)]
    Proto(#[from] caffe_proto::FileError),
    /// A record source could not be opened, read or decoded.
    #[error(transparent)]
    Data(#[from] crate::data::DataError),
    /// oneDNN could not be opened, or refused a primitive.
    #[error(transparent)]
    Onednn(#[from] crate::device::cpu::onednn::Error),
    /// An error inside one layer, with the layer's place.
    #[error("layer `{name}` ({type_name}){}: {source}", place.as_ref().map_or(String::new(), |p| format!(" at {p}")))]
    Layer {
        /// Name of the layer in the net.
        name: String,
        /// Caffe's type name, such as `Convolution`.
        type_name: String,
        /// `file:line` of the layer in the prototxt, where known.
        place: Option<String>,
        /// What the layer said.
        source: Box<Error>,
    },
    /// Two shapes that had to agree do not.
    #[error("{what}: expected {expected}, got {got}")]
    ShapeMismatch {
        /// What has the wrong shape.
        what: String,
        /// The shape that was needed.
        expected: Box<Shape>,
        /// The shape that was found.
        got: Box<Shape>,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A layer asked for two conflicting views of one buffer: a defect in that layer.
    #[error("internal: {what} is already borrowed in this call")]
    Borrow {
        /// The buffer that was asked for.
        what: &'static str,
    },
    /// A loss or gradient is NaN or infinite.
    #[error(
        "iteration {iter}: {what} is {value}; lower base_lr, set clip_gradients, or look at the data"
    )]
    NotFinite {
        /// Iteration in which it was seen.
        iter: u64,
        /// What is not finite.
        what: String,
        /// The value.
        value: f32,
    },
    /// Some actor of the job failed, here or on another rank.
    #[error(transparent)]
    Fault(Box<caffe_actors::Fault>),
    /// A setting, file content or request that cannot be honoured; the text says which and why.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// An [`Error::File`] about `path`.
    pub fn file(path: &Path, source: std::io::Error) -> Self {
        Error::File { path: path.to_owned(), source }
    }
}

/// Leaves the function with an [`Error::Invalid`] made from a format string.
#[macro_export]
macro_rules! bail {
    ($($arg:tt)*) => { return Err($crate::Error::Invalid(format!($($arg)*))) };
}

/// Leaves the function with an [`Error::Invalid`] unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($cond:expr, $($arg:tt)*) => {
        match $cond {
            true => {}
            false => $crate::bail!($($arg)*),
        }
    };
}
