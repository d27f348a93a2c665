//! Makes a new LevelDB, whole or not at all.
//!
//! Records go to a folder beside the final path, which is read back, flushed to disk and renamed
//! when everything is in; a failure or a drop before that removes the folder. The options are
//! Caffe's (64 KiB blocks, batches of 1000 records) except for compression: Caffe asks for snappy,
//! which pixels hardly obey; tables are written plain, and C++ LevelDB reads either.

use std::path::Path;
use std::rc::Rc;

use rusty_leveldb::{DB, FilterPolicy, Options, WriteBatch};

use crate::data::DataError;
use crate::data::building::{Ascending, Building};

use super::{Database, refused};

/// Caffe's converters commit after so many records.
const BATCH: u32 = 1000;

/// As in Caffe.
const BLOCK_BYTES: usize = 64 << 10;

/// Records are collected in memory up to this size, then become one table.
const TABLE_BYTES: usize = 16 << 20;

/// Files that only matter while writing.
const SCRATCH: [&str; 3] = ["LOCK", "LOG", "LOG.old"];

/// A database in the making. Keys must come in ascending order of bytes.
pub struct Writer {
    // Before the folder, so that a drop closes the files first.
    db: Option<DB>,
    building: Building,
    batch: WriteBatch,
    keys: Ascending,
}

impl Writer {
    /// Starts a database that will appear at `path` when [`finish`](Self::finish) succeeds.
    ///
    /// # Errors
    /// [`DataError::Exists`] when there is anything at `path`, [`DataError::Io`] when its parent
    /// cannot be written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let building = Building::create(path.as_ref())?;
        let options = Options {
            create_if_missing: true,
            write_buffer_size: TABLE_BYTES,
            block_size: BLOCK_BYTES,
            compressor: 0,
            filter_policy: Rc::new(Box::new(EmptyFilter)),
            ..Options::default()
        };
        let db = DB::open(building.folder(), options)
            .map_err(|status| refused(building.target(), "create", &status))?;
        Ok(Self {
            db: Some(db),
            building,
            batch: WriteBatch::default(),
            keys: Ascending::default(),
        })
    }

    /// Appends a record.
    ///
    /// # Errors
    /// [`DataError::Record`] when `key` does not follow the last one, [`DataError::LevelDb`] when
    /// the disk refuses.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), DataError> {
        self.keys.admit(key, self.building.target())?;
        self.batch.put(key, value);
        match self.batch.count() {
            BATCH.. => self.commit(),
            _ => Ok(()),
        }
    }

    /// Completes the database and gives it its final name; returns the number of records.
    ///
    /// # Errors
    /// [`DataError::WriteLost`] and the errors of [`Database`] when it does not read back as it was
    /// written, [`DataError::Io`] when the disk refuses. Nothing is left behind then.
    pub fn finish(mut self) -> Result<u64, DataError> {
        self.commit()?;
        if let Some(mut db) = self.db.take() {
            // An empty range merges nothing, but it turns what is in the log into a table, so that
            // readers find no log to replay.
            db.compact_range(b"", b"")
                .and_then(|()| db.close())
                .map_err(|status| refused(self.building.target(), "write", &status))?;
        }
        // Reads everything back: the crate survives failed writes of tables without a word.
        let read = Database::open(self.building.folder())?.cursor()?.skip(u64::MAX)?;
        self.keys.expect(read, self.building.target())?;
        self.building.publish(&SCRATCH)?;
        Ok(read)
    }

    fn commit(&mut self) -> Result<(), DataError> {
        let batch = std::mem::take(&mut self.batch);
        match &mut self.db {
            Some(db) if batch.count() > 0 => db
                .write(batch, false)
                .map_err(|status| refused(self.building.target(), "write", &status)),
            _ => Ok(()),
        }
    }
}

/// The crate always writes a filter block; this one is empty and of a name nobody asks for. It
/// must sort before the reader's name, or the reader would look into it.
struct EmptyFilter;

impl FilterPolicy for EmptyFilter {
    fn name(&self) -> &'static str {
        "caffe.no-filter"
    }
    fn create_filter(&self, _: &[u8], _: &[usize]) -> Vec<u8> {
        Vec::new()
    }
    fn key_may_match(&self, _: &[u8], _: &[u8]) -> bool {
        true
    }
}
