//! Data: from databases on disk to batches of floats.
//!
//! * [`leveldb`]: the database, read-only and checked, and a writer for conversions
//! * [`datum`], [`mean`], [`transform`]: from a record's bytes to the values of a blob
//! * [`order`]: which records make up which batch
//! * [`source`]: all of it together, for one `Data` layer
//! * [`convert`]: making databases and mean files
//!
//! Nothing here knows of threads or of other replicas: a source fills the batch of any ticket, and
//! who asks for which ticket is the trainer's affair.

pub mod convert;
pub mod datum;
mod error;
pub mod leveldb;
pub mod mean;
pub mod order;
pub mod source;
pub mod synthetic;
pub mod transform;

pub use error::{DataError, RecordProblem};
pub use source::{Batch, DataSource};
