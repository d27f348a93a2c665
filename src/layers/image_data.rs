//! ImageData: batches of image files named in a list.
//!
//! ```text
//! layer {
//!   name: "data" type: "ImageData" top: "data" top: "label"
//!   transform_param { mirror: true crop_size: 227 mean_value: 104 mean_value: 117 mean_value: 123 }
//!   image_data_param {
//!     source: "train.txt"  # in each line a path, a space, a label
//!     root_folder: "images/" batch_size: 32 shuffle: true new_height: 256 new_width: 256
//!   }
//! }
//! ```
//!
//! How files become batches is told in [`crate::data::source::image_data`]. Without `new_height` and
//! `new_width`, and with batches of one image, the tops follow the image's size.

use super::{Count, LayerDef, data};

/// `ImageData`.
pub static DEF: LayerDef =
    LayerDef::new("ImageData", "batches of image files named in a list, transformed", data::build)
        .counts(Count::Exactly(0), Count::Exactly(2))
        .kernels(&[&data::KERNELS]);
