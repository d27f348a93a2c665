//! Makes a new LevelDB, whole or not at all.
//!
//! Records go to a folder beside the final path, which is read back, flushed to disk and renamed
//! when everything is in; a failure or a drop before that removes the folder. The options are
//! Caffe's (64 KiB blocks, batches of 1000 records) except for compression: Caffe asks for snappy,
//! which pixels hardly obey; tables are written plain, and C++ LevelDB reads either.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rusty_leveldb::{DB, FilterPolicy, Options, WriteBatch};

use crate::data::{DataError, RecordProblem};

use super::{Database, refused};

/// Caffe's converters commit after so many records.
const BATCH: u32 = 1000;

/// As in Caffe.
const BLOCK_BYTES: usize = 64 << 10;

/// Records are collected in memory up to this size, then become one table.
const TABLE_BYTES: usize = 16 << 20;

/// A database in the making. Keys must come in ascending order of bytes.
pub struct Writer {
    target: PathBuf,
    building: PathBuf,
    db: Option<DB>,
    batch: WriteBatch,
    last_key: Vec<u8>,
    written: u64,
}

impl Writer {
    /// Starts a database that will appear at `path` when [`finish`](Self::finish) succeeds.
    ///
    /// # Errors
    /// [`DataError::Exists`] when there is anything at `path`, [`DataError::Io`] when its parent
    /// cannot be written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let target = path.as_ref();
        if fs::symlink_metadata(target).is_ok() {
            return Err(DataError::Exists { path: target.to_owned() });
        }
        let building = create_beside(target)?;
        let mut writer = Self {
            target: target.to_owned(),
            building,
            db: None,
            batch: WriteBatch::default(),
            last_key: Vec::new(),
            written: 0,
        };
        let options = Options {
            create_if_missing: true,
            write_buffer_size: TABLE_BYTES,
            block_size: BLOCK_BYTES,
            compressor: 0,
            filter_policy: Rc::new(Box::new(EmptyFilter)),
            ..Options::default()
        };
        let db = DB::open(&writer.building, options);
        writer.db = Some(db.map_err(|status| refused(target, "create", &status))?);
        Ok(writer)
    }

    /// Appends a record.
    ///
    /// # Errors
    /// [`DataError::Record`] when `key` does not follow the last one, [`DataError::LevelDb`] when
    /// the disk refuses.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), DataError> {
        if key <= self.last_key.as_slice() {
            return Err(DataError::Record {
                path: self.target.clone(),
                key: key.escape_ascii().to_string(),
                problem: RecordProblem::KeyOrder(self.last_key.escape_ascii().to_string()),
            });
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.batch.put(key, value);
        self.written += 1;
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
                .map_err(|status| refused(&self.target, "write", &status))?;
        }
        self.verify()?;
        self.settle()?;
        if fs::symlink_metadata(&self.target).is_ok() {
            return Err(DataError::Exists { path: self.target.clone() });
        }
        fs::rename(&self.building, &self.target)
            .map_err(|source| DataError::io("create", &self.target, source))?;
        let parent = self.target.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync(parent.unwrap_or(Path::new(".")))?;
        Ok(self.written)
    }

    fn commit(&mut self) -> Result<(), DataError> {
        let batch = std::mem::take(&mut self.batch);
        match &mut self.db {
            Some(db) if batch.count() > 0 => {
                db.write(batch, false).map_err(|status| refused(&self.target, "write", &status))
            }
            _ => Ok(()),
        }
    }

    /// Reads everything back: the crate survives failed writes of tables without a word.
    fn verify(&self) -> Result<(), DataError> {
        let mut database = Database::open(&self.building)?;
        let read = database.cursor()?.skip(u64::MAX)?;
        if read != self.written {
            let path = self.target.clone();
            return Err(DataError::WriteLost { path, written: self.written, read });
        }
        Ok(())
    }

    /// Removes what only mattered while writing and brings the rest to the disk.
    fn settle(&self) -> Result<(), DataError> {
        let list = |source| DataError::io("list", &self.building, source);
        for entry in fs::read_dir(&self.building).map_err(list)? {
            let file = entry.map_err(list)?.path();
            match file.file_name().and_then(|name| name.to_str()) {
                Some("LOCK" | "LOG" | "LOG.old") => fs::remove_file(&file)
                    .map_err(|source| DataError::io("remove", &file, source))?,
                _ => sync(&file)?,
            }
        }
        sync(&self.building)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.db = None;
        // After `finish` the folder has its final name and this finds nothing.
        let _ = fs::remove_dir_all(&self.building);
    }
}

/// Makes a hidden folder in the directory that `target` will be in, so that a rename suffices.
fn create_beside(target: &Path) -> Result<PathBuf, DataError> {
    let name = target.file_name().ok_or_else(|| DataError::NotADatabase {
        path: target.to_owned(),
        reason: "the output path has no last part to name the database".to_owned(),
    })?;
    let id = std::process::id();
    // A killed conversion leaves its folder, and process numbers come again.
    for attempt in 0..u16::MAX {
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".partial-{id}-{attempt}"));
        let folder = target.with_file_name(hidden);
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(DataError::io("create", &folder, source)),
        }
    }
    Err(DataError::Exists { path: target.to_owned() })
}

fn sync(path: &Path) -> Result<(), DataError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|source| DataError::io("flush", path, source))
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
