//! The Caffe file formats: messages, prototxt text and upgrades of old files.

mod generated;
pub mod text;

pub use generated::*;
pub use prost::{self, Message};
