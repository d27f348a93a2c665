//! The engine.

pub mod data;
pub mod rng;
