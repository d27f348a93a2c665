//! What can go wrong with a file, said with its path and what to do.

use std::{
    env, fmt, io,
    path::{Path, PathBuf},
};

use super::{is_missing, wire::WireFault};
use crate::{text::TextError, upgrade::UpgradeError};

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// There is no such file.
    #[error("{}: no such file{}", path.display(), RelativeTo(path))]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The system would not read it.
    #[error("{}: cannot read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The system would not write it.
    #[error("{}: cannot write: {source}{}", path.display(), RelativeTo(path))]
    Write {
        /// The file that was to be written.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A text file whose bytes are no UTF-8.
    #[error("{}:{line}: not UTF-8 text (byte {offset}); save the file as UTF-8", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The line of the first bad byte, from 1.
        line: usize,
        /// The offset of the first bad byte.
        offset: usize,
    },
    /// A prototxt with a fault.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A binary file of no bytes.
    #[error("{}: the file is empty; a {message} was expected", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// The message it should hold.
        message: &'static str,
    },
    /// A binary file that ends too early or holds bytes that make no sense.
    #[error("{}: damaged or truncated {message}: {fault}; copy or download it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The message it should hold.
        message: &'static str,
        /// Where and what.
        fault: WireFault,
    },
    /// A binary file that would take far more memory than it has bytes.
    #[error("{}: no {message} that this program reads: {fault}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The message it should hold.
        message: &'static str,
        /// Where and what.
        fault: WireFault,
    },
    /// A file of another kind.
    #[error("{}: expected {expected}, but this is {looks_like}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What it seems to hold.
        looks_like: &'static str,
    },
    /// A definition in an old form that cannot be upgraded.
    #[error("{}{}: {source}", path.display(), Line(*line))]
    Upgrade {
        /// The file.
        path: PathBuf,
        /// The line of the layer concerned, if it is known.
        line: Option<usize>,
        /// What stands in the way.
        source: UpgradeError,
    },
}

impl FileError {
    pub(super) fn reading(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        if is_missing(&source) { Self::Missing { path } } else { Self::Read { path, source } }
    }
}

/// ":12", or nothing.
struct Line(Option<usize>);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

/// For relative paths, the directory that they are relative to.
struct RelativeTo<'a>(&'a Path);

impl fmt::Display for RelativeTo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match env::current_dir() {
            Ok(here) if self.0.is_relative() => write!(
                f,
                " (paths are relative to the working directory, which is {})",
                here.display()
            ),
            _ => Ok(()),
        }
    }
}
