//! Makes a new LMDB, whole or not at all.
//!
//! Records go to a folder beside the final path, which is read back, flushed to disk and renamed
//! when everything is in; a failure or a drop before that removes the folder. Like Caffe's tools it
//! commits every 1000 records, or sooner when these are large.

use std::path::Path;

use heed::types::Bytes;
use heed::{CommitOrAbort, EnvFlags, EnvOpenOptions, PutFlags};

use crate::data::building::{Ascending, Building};
use crate::data::{DataError, Record};

use super::Database;

/// Caffe's converters commit after so many records.
const BATCH: usize = 1000;

/// Values of so many bytes are committed at once, however few they are.
const BATCH_BYTES: usize = 16 << 20;

/// Address space for the database: far more than any will need. It costs neither memory nor disk.
const MAP_BYTES: usize = 1 << 40;

/// A database in the making. Keys must come in ascending order of bytes.
pub struct Writer {
    table: heed::Database<'static, Bytes, Bytes>,
    // Before the folder, so that a drop closes the file first.
    env: heed::Env,
    building: Building,
    batch: Vec<Record>,
    batch_bytes: usize,
    keys: Ascending,
}

impl Writer {
    /// Starts a database that will appear at `path` when [`finish`](Self::finish) succeeds.
    ///
    /// # Errors
    /// [`DataError::Exists`] when there is anything at `path`, [`DataError::Io`] when its parent
    /// cannot be written, [`DataError::Lmdb`].
    pub fn create(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let building = Building::create(path.as_ref())?;
        let refused = |source| refused(building.target(), "create", &source);
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_BYTES);
        // SAFETY: no other process knows the folder, so no lock is needed; it was just made, so
        // nobody cuts the file that LMDB maps; and a database that a crash leaves behind unsynced
        // is never renamed to where anybody would read it.
        let env = unsafe {
            options.flags(EnvFlags::NO_LOCK | EnvFlags::NO_SYNC);
            options.open(building.folder())
        };
        let env = env.map_err(refused)?;
        let txn = env.write_txn().map_err(refused)?;
        let table = env.create_databases_and_commit(txn, |opener, txn| {
            opener.create_database(txn, None).map(CommitOrAbort::<_, ()>::Commit)
        });
        let table = table.map_err(refused)?.unwrap_commit();
        Ok(Self {
            table,
            env,
            building,
            batch: Vec::new(),
            batch_bytes: 0,
            keys: Ascending::default(),
        })
    }

    /// Appends a record.
    ///
    /// # Errors
    /// [`DataError::Record`] when `key` does not follow the last one, [`DataError::Lmdb`] when the
    /// disk refuses or a key is longer than 511 bytes.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), DataError> {
        self.keys.admit(key, self.building.target())?;
        self.batch.push(Record { key: key.to_vec().into(), value: value.to_vec().into() });
        self.batch_bytes += key.len() + value.len();
        match self.batch.len() >= BATCH || self.batch_bytes >= BATCH_BYTES {
            true => self.commit(),
            false => Ok(()),
        }
    }

    /// Completes the database and gives it its final name; returns the number of records.
    ///
    /// # Errors
    /// [`DataError::WriteLost`] and the errors of [`Database`] when it does not read back as it was
    /// written, [`DataError::Io`] and [`DataError::Lmdb`] when the disk refuses. Nothing is left
    /// behind then.
    pub fn finish(mut self) -> Result<u64, DataError> {
        self.commit()?;
        let synced = self.env.force_sync();
        synced.map_err(|source| refused(self.building.target(), "write", &source))?;
        let read = Database::open(self.building.folder())?.cursor().skip(u64::MAX)?;
        self.keys.expect(read, self.building.target())?;
        self.building.publish(&[])?;
        Ok(read)
    }

    fn commit(&mut self) -> Result<(), DataError> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let write = || {
            let mut txn = self.env.write_txn()?;
            for Record { key, value } in &batch {
                self.table.put_with_flags(&mut txn, PutFlags::APPEND, key, value)?;
            }
            txn.commit()
        };
        write().map_err(|source| refused(self.building.target(), "write", &source))
    }
}

fn refused(path: &Path, action: &'static str, source: &heed::Error) -> DataError {
    DataError::Lmdb { path: path.to_owned(), action, reason: source.to_string() }
}
