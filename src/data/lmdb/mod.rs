//! LMDB, read without a lock, a write or a memory map.
//!
//! [`Database`] reads, [`Writer`] makes a new database. Reading is our own: the B+tree in `data.mdb`
//! is walked page by page with positioned reads, and every number in it is checked before it is
//! used. LMDB itself trusts its file: a cut or damaged one ends the process with a signal, whereas
//! here it is an error that names file and byte. So any number of processes and hosts read one
//! database, also on a read-only mount; what must not happen is that one writes meanwhile.
//!
//! Pages carry no checksums, so a flipped bit inside a value goes unnoticed here; what is wrong with
//! the structure does not.
//!
//! Only what Caffe uses: the unnamed database of a 64-bit little-endian environment. Writing goes
//! through heed, that is, through LMDB itself.
//!
//! ```no_run
//! use caffe::data::lmdb::Database;
//!
//! # fn main() -> Result<(), caffe::data::DataError> {
//! let mut cursor = Database::open("examples/mnist/mnist_train_lmdb")?.cursor();
//! while let Some(record) = cursor.next_record()? {
//!     println!("{} bytes", record.value.len());
//! }
//! # Ok(())
//! # }
//! ```

mod cursor;
mod file;
mod meta;
mod page;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use cursor::Cursor;
pub use writer::Writer;

use super::DataError;
use file::PageFile;

/// An existing LMDB, read-only.
pub struct Database {
    path: PathBuf,
    file: Arc<PageFile>,
}

impl Database {
    /// Opens the database in the directory `path`.
    ///
    /// # Errors
    /// [`DataError::NotADatabase`] or [`DataError::OtherBackend`] when it is something else,
    /// [`DataError::Corrupt`] when `data.mdb` is cut short or its meta pages make no sense.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        Ok(Self { path: path.to_owned(), file: Arc::new(PageFile::open(path)?) })
    }

    /// A cursor before the first record, in key order.
    pub fn cursor(&self) -> Cursor {
        Cursor::new(self.file.clone())
    }

    /// The number of records, as the meta page has it.
    pub fn count(&self) -> u64 {
        self.file.meta.entries
    }

    /// The directory this was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
