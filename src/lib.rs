//! The engine.

pub mod blob;
pub mod device;
