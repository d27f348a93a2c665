//! Data: from databases on disk to batches of floats.
//!
//! * [`leveldb`]: the database, read-only and checked, and a writer for conversions
mod error;
pub mod leveldb;

pub use error::DataError;
