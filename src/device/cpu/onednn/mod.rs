//! oneDNN 2.x behind safe types.
//!
//! * [`Library`]: the shared library, opened at run time; [`Library::open`] fails where it is
//!   missing, and the engine takes its plain path.
//! * [`Context`]: one per replica thread: engine, stream, scratchpad, team of threads.
//! * [`Convolution`], [`Pooling`], [`LrnAcross`] and
//!   [`Context::sgemm`]: primitives over slices. Lengths are checked at every call; memory objects
//!   are made once and re-pointed, so a call allocates nothing.
//!
//! Everything oneDNN sees has channels rounded up to whole blocks of its layout: the padding is
//! ordinary zeros to it, zero in gives zero out, and no kernel's tail handling is relied on. Not
//! here: anything that knows Caffe's layers (the pooling window rule excepted), and bf16.
//!
//! All `unsafe` of the bindings is in this folder. Speed: `cargo bench --bench primitives`.

mod context;
mod convolution;
mod error;
#[allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    rustdoc::all
)]
mod ffi;
mod library;
mod lrn;
mod pooling;
mod primitive;
mod reorder;
mod sgemm;
#[cfg(test)]
mod testing;

pub use context::Context;
pub use convolution::{ConvConfig, Convolution};
pub use error::Error;
pub use library::Library;
pub use lrn::{LrnAcross, LrnConfig};
pub use pooling::{PoolConfig, PoolMethod, Pooling};
