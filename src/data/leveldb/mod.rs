//! LevelDB, opened so that nothing on disk changes and nothing damaged goes unnoticed.
//!
//! [`Database`] reads, [`Writer`] makes a new database. Reading goes through rusty-leveldb on a
//! private environment: tables are checked block by block, logs and the MANIFEST record by record,
//! writes stay in memory, no lock is taken. A flipped bit, a cut or a missing file ends the read
//! with an error that names file and byte; it never leads to fewer records.
//!
//! This is not a general database: there is no writing to an existing one, no snapshot, no
//! reverse order.
//!
//! ```no_run
//! use caffe::data::leveldb::Database;
//!
//! # fn main() -> Result<(), caffe::data::DataError> {
//! let mut database = Database::open("examples/cifar10/cifar10_train_leveldb")?;
//! let mut cursor = database.cursor()?;
//! while let Some(record) = cursor.next_record()? {
//!     println!("{} bytes", record.value.len());
//! }
//! # Ok(())
//! # }
//! ```

mod cursor;
mod damage;
mod env;
mod layout;
mod manifest;
mod record_log;
mod table;
mod writer;

use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use rusty_leveldb::{DB, Options};

pub use cursor::Cursor;
pub(crate) use record_log::masked_crc;
pub use writer::Writer;

use super::DataError;
use damage::FaultCell;
use env::ReadOnlyEnv;
use layout::Layout;
use table::NoFilter;

/// Blocks kept in memory at least. A scan needs one a level; the crate counts entries, not bytes, and
/// a block holds at least one record of whatever size.
const CACHED_BLOCKS: usize = 16;

/// Blocks kept in memory at most.
const MOST_CACHED: u64 = 16 * 1024;

/// Table files kept open: Caffe's own figure, far below the usual limit of 1024 descriptors.
const OPEN_TABLES: usize = 100;

/// A log is turned into tables in memory, one for each so many bytes. Four new tables would make
/// the crate merge them at open; Caffe's logs reach 256 MB.
const LOG_TABLE_BYTES: usize = 128 << 20;

/// An existing LevelDB, read-only. Not `Send`: open it on the thread that reads.
pub struct Database {
    path: PathBuf,
    db: DB,
    fault: FaultCell,
}

impl Database {
    /// Opens the database in the directory `path`.
    ///
    /// # Errors
    /// [`DataError::NotADatabase`] or [`DataError::OtherBackend`] when it is something else,
    /// [`DataError::MissingFile`] and [`DataError::Corrupt`] when it is not whole.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DataError> {
        Self::open_keeping(path, 0)
    }

    /// [`open`](Self::open) for readers that come back to blocks: about so many bytes of them are
    /// kept, so that a block is read, checked and unpacked once and not for every record in it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_keeping(path: impl AsRef<Path>, bytes: u64) -> Result<Self, DataError> {
        let path = path.as_ref();
        let layout = Layout::read(path)?;
        let blocks = (bytes / layout.block_bytes.max(1)).min(MOST_CACHED) as usize;
        let fault = FaultCell::default();
        let options = Options {
            env: Rc::new(Box::new(ReadOnlyEnv::new(&layout, fault.clone()))),
            create_if_missing: false,
            reuse_logs: false,
            reuse_manifest: false,
            block_cache_capacity_bytes: blocks.max(CACHED_BLOCKS) * Options::default().block_size,
            max_open_files: OPEN_TABLES,
            write_buffer_size: LOG_TABLE_BYTES,
            filter_policy: Rc::new(Box::new(NoFilter)),
            ..Options::default()
        };
        let opened = DB::open(path, options);
        // The fault first: it has file and byte, and the crate may have carried on regardless.
        fault.check()?;
        let db = opened.map_err(|status| refused(path, "open", &status))?;
        Ok(Self { path: path.to_owned(), db, fault })
    }

    /// A cursor before the first record, in key order.
    ///
    /// # Errors
    /// [`DataError::Corrupt`] when a table cannot be read.
    pub fn cursor(&mut self) -> Result<Cursor, DataError> {
        let iter = self.db.new_iter();
        self.fault.check()?;
        let iter = iter.map_err(|status| refused(&self.path, "read", &status))?;
        Ok(Cursor::new(iter, self.fault.clone()))
    }

    /// The value of `key`, or `None` when there is no such record.
    ///
    /// # Errors
    /// [`DataError::Corrupt`] when a table cannot be read.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, DataError> {
        // Not `DB::get`: it turns errors into `None`, and it may start a compaction.
        let mut cursor = self.cursor()?;
        cursor.seek(key)?;
        let found = cursor.next_record()?;
        Ok(found.filter(|record| record.key == key).map(|record| record.value))
    }

    /// The directory this was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn refused(path: &Path, action: &'static str, status: &rusty_leveldb::Status) -> DataError {
    DataError::LevelDb { path: path.to_owned(), action, reason: status.to_string() }
}
