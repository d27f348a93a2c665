//! The engine.

pub mod data;
