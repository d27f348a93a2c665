//! Data: from databases and image files on disk to batches of floats, or of bytes for devices that
//! transform them.
//!
//! * [`leveldb`], [`lmdb`]: the databases, read-only and checked, and writers for conversions;
//!   [`database`]: what they have in common
//! * [`image`]: JPEG and PNG; [`list`]: text files that name images
//! * [`datum`], [`mean`], [`transform`]: from a record's bytes to the values of a blob
//! * [`order`], [`records`]: which records make up which batch
//! * [`source`]: all of it together, for one layer; [`readers`]: for which layer types
//! * [`hdf5`]: the rows of HDF5 files, for one layer
//! * [`identity`]: what tells one layer's data from another's
//! * [`convert`]: making databases and mean files; [`survey`]: looking at them
//!
//! Nothing here knows of other replicas: a source fills the batch of any ticket, and who asks for
//! which ticket is the trainer's affair.

mod building;
pub mod convert;
pub mod database;
pub mod datum;
mod error;
pub mod hdf5;
pub mod identity;
pub mod image;
pub mod leveldb;
pub mod list;
pub mod lmdb;
pub mod mean;
pub mod order;
mod parallel;
pub mod readers;
pub mod records;
pub mod source;
pub mod survey;
pub mod synthetic;
pub mod transform;

pub use database::{Backend, Cursor, Database, Record, Writer};
pub use error::{DataError, RecordProblem};
pub use readers::Reading;
pub use source::{Batch, Raw};
