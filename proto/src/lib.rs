//! The Caffe file formats: messages, prototxt text and upgrades of old files.

mod generated;

pub use generated::*;
pub use prost::{self, Message};
