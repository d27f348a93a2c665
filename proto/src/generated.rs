//! The messages of `proto/caffe.proto` as prost makes them, and their descriptors.
//!
//! Nothing is written by hand here: names, fields and defaults are those of the format. Optional
//! scalars are `Option`s with an accessor that knows the default (`convolution.group()` is 1 where
//! the file says nothing); optional sub-messages of a layer are boxed.

use std::sync::LazyLock;

use prost_reflect::DescriptorPool;

#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
mod messages {
    include!(concat!(env!("OUT_DIR"), "/caffe.rs"));
}
pub use messages::*;

/// The messages of `proto/onnx.proto`: what an exported net needs of the ONNX format.
#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
pub mod onnx {
    include!(concat!(env!("OUT_DIR"), "/onnx.rs"));
}

/// The messages of `proto/event.proto`: what TensorBoard's event files need for scalars.
#[allow(missing_docs, clippy::all, clippy::pedantic, rustdoc::all)]
pub mod tensorboard {
    include!(concat!(env!("OUT_DIR"), "/tensorboard.rs"));
}

/// The compiled form of `caffe.proto`, a serialized `FileDescriptorSet`.
pub static DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/caffe.fds"));

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    // The set was written by the build from a file that compiled, so it decodes; an empty pool
    // would answer every look-up with "no such message" rather than bring the process down.
    DescriptorPool::decode(DESCRIPTOR_SET).unwrap_or_default()
});

/// The descriptors of all messages, decoded on first use (about 2 ms).
pub fn descriptors() -> &'static DescriptorPool {
    &POOL
}
