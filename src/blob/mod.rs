//! Blobs: the numbers that flow between layers.

pub mod layout;
