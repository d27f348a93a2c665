//! Databases of records, whichever library wrote them.
//!
//! [`Database`], [`Cursor`] and [`Writer`] are LevelDB's or LMDB's; what they have in common is
//! here, and nothing outside of [`leveldb`] and [`lmdb`] needs to know
//! which one it has.
//!
//! ```no_run
//! use caffe::data::{Backend, Database};
//!
//! # fn main() -> Result<(), caffe::data::DataError> {
//! let mut database = Database::open("mnist_train_lmdb", Backend::Lmdb)?;
//! let mut cursor = database.cursor()?;
//! while let Some(record) = cursor.next_record()? {
//!     println!("{}", record.key.escape_ascii());
//! }
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use bytes::Bytes;
use caffe_proto::data_parameter::Db;

use super::{DataError, leveldb, lmdb};

/// One key and its value. Both may share the memory of the block they were read with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The key as stored.
    pub key: Bytes,
    /// The value as stored: in a Caffe database a serialized `Datum`.
    pub value: Bytes,
}

/// A kind of database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// LevelDB: a folder of tables and logs.
    LevelDb,
    /// LMDB: a folder with `data.mdb`.
    Lmdb,
}

impl Backend {
    /// The kind of the database at `path`, by what is in the folder.
    ///
    /// # Errors
    /// [`DataError::Input`] when it holds neither.
    pub fn of(path: &Path) -> Result<Self, DataError> {
        let there = |file| path.join(file).exists();
        let reason = match (there("CURRENT"), there("data.mdb")) {
            (true, false) => return Ok(Self::LevelDb),
            (false, true) => return Ok(Self::Lmdb),
            (true, true) => "holds a LevelDB and an LMDB; say which one with -backend",
            (false, false) if !path.exists() => "there is no such database",
            (false, false) => {
                "is no database: it holds neither CURRENT (LevelDB) nor data.mdb (LMDB)"
            }
        };
        Err(DataError::Input { path: path.to_owned(), reason: reason.to_owned() })
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LevelDb => "LevelDB",
            Self::Lmdb => "LMDB",
        })
    }
}

impl From<Db> for Backend {
    fn from(db: Db) -> Self {
        match db {
            Db::Leveldb => Self::LevelDb,
            Db::Lmdb => Self::Lmdb,
        }
    }
}

/// As on the command lines of Caffe's tools: `leveldb`, `lmdb`.
impl FromStr for Backend {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "leveldb" => Ok(Self::LevelDb),
            "lmdb" => Ok(Self::Lmdb),
            _ => Err(format!("`{name}` is no kind of database; use leveldb or lmdb")),
        }
    }
}

/// An existing database, read-only. Not `Send`: open it on the thread that reads.
pub enum Database {
    /// A LevelDB.
    LevelDb(Box<leveldb::Database>),
    /// An LMDB.
    Lmdb(lmdb::Database),
}

impl Database {
    /// Opens the database in the folder `path`.
    ///
    /// # Errors
    /// [`DataError::NotADatabase`], [`DataError::OtherBackend`], or what is wrong with its files.
    pub fn open(path: impl AsRef<Path>, backend: Backend) -> Result<Self, DataError> {
        Self::open_keeping(path, backend, 0)
    }

    /// [`open`](Self::open) for readers that come back to parts of it: about so many bytes of what
    /// costs work to read again (a LevelDB's blocks) are kept in memory.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_keeping(
        path: impl AsRef<Path>,
        backend: Backend,
        bytes: u64,
    ) -> Result<Self, DataError> {
        Ok(match backend {
            Backend::LevelDb => {
                Self::LevelDb(Box::new(leveldb::Database::open_keeping(path, bytes)?))
            }
            Backend::Lmdb => Self::Lmdb(lmdb::Database::open(path)?),
        })
    }

    /// A cursor before the first record, in key order.
    ///
    /// # Errors
    /// [`DataError::Corrupt`] when the first block cannot be read.
    pub fn cursor(&mut self) -> Result<Cursor, DataError> {
        Ok(match self {
            Self::LevelDb(database) => Cursor::LevelDb(database.cursor()?),
            Self::Lmdb(database) => Cursor::Lmdb(database.cursor()),
        })
    }

    /// The number of records, where the database knows it without reading them all (LMDB).
    pub fn count(&self) -> Option<u64> {
        match self {
            Self::LevelDb(_) => None,
            Self::Lmdb(database) => Some(database.count()),
        }
    }

    /// The folder this was opened from.
    pub fn path(&self) -> &Path {
        match self {
            Self::LevelDb(database) => database.path(),
            Self::Lmdb(database) => database.path(),
        }
    }
}

/// Reads records one after another; see [`Database::cursor`].
pub enum Cursor {
    /// Of a LevelDB.
    LevelDb(leveldb::Cursor),
    /// Of an LMDB.
    Lmdb(lmdb::Cursor),
}

impl Cursor {
    /// Goes before the first record whose key is not less than `key`.
    ///
    /// # Errors
    /// [`DataError::Corrupt`] when a block makes no sense, [`DataError::Io`].
    pub fn seek(&mut self, key: &[u8]) -> Result<(), DataError> {
        match self {
            Self::LevelDb(cursor) => cursor.seek(key),
            Self::Lmdb(cursor) => cursor.seek(key),
        }
    }

    /// The next record, or `None` behind the last one.
    ///
    /// # Errors
    /// As [`seek`](Self::seek).
    pub fn next_record(&mut self) -> Result<Option<Record>, DataError> {
        match self {
            Self::LevelDb(cursor) => cursor.next_record(),
            Self::Lmdb(cursor) => cursor.next_record(),
        }
    }

    /// The key of the next record, which is passed over; an LMDB does not read the value.
    ///
    /// # Errors
    /// As [`seek`](Self::seek).
    pub fn next_key(&mut self) -> Result<Option<Bytes>, DataError> {
        match self {
            Self::LevelDb(cursor) => Ok(cursor.next_record()?.map(|record| record.key)),
            Self::Lmdb(cursor) => cursor.next_key(),
        }
    }

    /// Passes over up to `n` records; gives how many there were.
    ///
    /// # Errors
    /// As [`seek`](Self::seek).
    pub fn skip(&mut self, n: u64) -> Result<u64, DataError> {
        match self {
            Self::LevelDb(cursor) => cursor.skip(n),
            Self::Lmdb(cursor) => cursor.skip(n),
        }
    }
}

/// A database in the making, which appears whole or not at all. Keys must come in ascending order
/// of bytes.
pub enum Writer {
    /// A LevelDB.
    LevelDb(Box<leveldb::Writer>),
    /// An LMDB.
    Lmdb(lmdb::Writer),
}

impl Writer {
    /// Starts a database that will appear at `path` when [`finish`](Self::finish) succeeds.
    ///
    /// # Errors
    /// [`DataError::Exists`] when there is anything at `path`, [`DataError::Io`] when its parent
    /// cannot be written.
    pub fn create(path: impl AsRef<Path>, backend: Backend) -> Result<Self, DataError> {
        Ok(match backend {
            Backend::LevelDb => Self::LevelDb(Box::new(leveldb::Writer::create(path)?)),
            Backend::Lmdb => Self::Lmdb(lmdb::Writer::create(path)?),
        })
    }

    /// Appends a record.
    ///
    /// # Errors
    /// [`DataError::Record`] when `key` does not follow the last one, and whatever the disk refuses.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), DataError> {
        match self {
            Self::LevelDb(writer) => writer.put(key, value),
            Self::Lmdb(writer) => writer.put(key, value),
        }
    }

    /// Completes the database, reads it back, and gives it its final name; returns the number of
    /// records.
    ///
    /// # Errors
    /// [`DataError::WriteLost`] and the errors of [`Database`] when it does not read back as it was
    /// written, [`DataError::Io`] when the disk refuses. Nothing is left behind then.
    pub fn finish(self) -> Result<u64, DataError> {
        match self {
            Self::LevelDb(writer) => writer.finish(),
            Self::Lmdb(writer) => writer.finish(),
        }
    }
}
