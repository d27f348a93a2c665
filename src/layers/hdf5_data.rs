//! HDF5Data: batches of rows from HDF5 files.
//!
//! ```text
//! layer {
//!   name: "data" type: "HDF5Data" top: "data" top: "label"
//!   hdf5_data_param { source: "train_files.txt" batch_size: 10 shuffle: true }
//! }
//! ```
//!
//! `source` is a text file with the path of an HDF5 file in each line; each top is the dataset of
//! its name, of any number of axes. How rows become batches is told in [`crate::data::hdf5`]. Data
//! are not transformed: `transform_param` is refused.

use super::{Count, LayerDef, data};

/// `HDF5Data`.
pub static DEF: LayerDef =
    LayerDef::new("HDF5Data", "batches of rows from HDF5 files, one dataset per top", data::build)
        .counts(Count::Exactly(0), Count::AtLeast(1));
