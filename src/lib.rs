//! The engine of Caffe-MPI in Rust: Caffe's nets, layers and solvers on one device.
//!
//! # Layout
//! * [`blob`]: shapes, layouts, memory. [`params`]: the flat parameter arena.
//! * [`device`]: what layers compute with. [`layers`]: one layer, one file.
//! * [`net`]: layers over shared blobs. [`solver`]: update rules and the bare training loop.
//! * [`hdf5`]: HDF5 files, for data and snapshots.
//! * [`data`]: LevelDB, transforms, converters. [`snapshot`]: models and states on disk.
//! * [`export`]: weights and nets for other programs, and back.
//! * [`tools`]: what a net costs and looks like, and what a log says.
//! * [`trainer`] and [`cmd`]: the glue to the actors and the command line; only these two name
//!   `caffe_actors`.

pub mod blob;
pub mod cmd;
pub mod data;
pub mod device;
mod error;
pub mod export;
pub mod filler;
pub mod hdf5;
pub mod layers;
pub mod log;
pub mod net;
pub mod params;
pub mod rng;
pub mod snapshot;
pub mod solver;
pub mod tools;
pub mod trainer;

pub use error::{Error, Result};
