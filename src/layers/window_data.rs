//! WindowData: batches of windows cut out of images, foreground and background in a fixed share.
//!
//! ```text
//! layer {
//!   name: "data" type: "WindowData" top: "data" top: "label"
//!   transform_param { mirror: true crop_size: 227 mean_file: "mean.binaryproto" }
//!   window_data_param {
//!     source: "window_file_2007_trainval.txt" batch_size: 128
//!     fg_threshold: 0.5 bg_threshold: 0.5 fg_fraction: 0.25 context_pad: 16 crop_mode: "warp"
//!   }
//! }
//! ```
//!
//! The file's format and how windows become batches are told in
//! [`crate::data::source::window_data`].

use super::{Count, LayerDef, data};

/// `WindowData`.
pub static DEF: LayerDef =
    LayerDef::new("WindowData", "batches of windows cut out of listed images", data::build)
        .counts(Count::Exactly(0), Count::Exactly(2));
