//! HDF5 files: named arrays of numbers in groups, as Caffe keeps data sets and snapshots in them.
//!
//! [`Reader`] and [`Writer`] say in words what went wrong and in which file; what the arrays mean is
//! the affair of [`crate::snapshot`], [`crate::data`] and the `HDF5Output` layer. The work is
//! libhdf5's, through the crate `hdf5-metno`, one call at a time in the whole process. Without the
//! cargo feature `hdf5` everything here has the same face, and every call says that this program
//! was built without HDF5.
//!
//! ```
//! # #[cfg(feature = "hdf5")] {
//! use caffe::hdf5::{Reader, Writer};
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("x.h5");
//! let mut file = Writer::create(&path)?;
//! file.floats("data", &[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])?;
//! file.finish()?;
//! assert_eq!(Reader::open(&path)?.shape("data")?, [2, 3]);
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(not(feature = "hdf5"))]
mod absent;
#[cfg(feature = "hdf5")]
mod linked;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use caffe_proto::{FileError, files};

use crate::{Error, Result};

#[cfg(not(feature = "hdf5"))]
pub use absent::{Appender, Reader, Writer};
#[cfg(feature = "hdf5")]
pub use linked::{Appender, Reader, Writer};

/// The first bytes of every HDF5 file.
const SIGNATURE: &[u8] = b"\x89HDF\r\n\x1a\n";

/// Whether a file begins as HDF5 files do, whatever its name.
pub fn is_hdf5(path: &Path) -> bool {
    head(path).is_ok_and(|head| head.starts_with(SIGNATURE))
}

/// Tells missing, empty and foreign files apart, in the words used for Caffe's other files.
fn check_signature(path: &Path) -> Result<()> {
    let owned = || path.to_owned();
    let head = match head(path) {
        Ok(head) => head,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(FileError::Missing { path: owned() }.into());
        }
        Err(e) => return Err(Error::file(path, e)),
    };
    if head.is_empty() {
        return Err(FileError::Empty { path: owned(), message: "HDF5 file" }.into());
    }
    if !head.starts_with(SIGNATURE) {
        let looks_like = files::looks_like(&head).unwrap_or("something else");
        let expected = "an HDF5 file";
        return Err(FileError::Foreign { path: owned(), expected, looks_like }.into());
    }
    Ok(())
}

fn head(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path)?.take(512).read_to_end(&mut head)?;
    Ok(head)
}
