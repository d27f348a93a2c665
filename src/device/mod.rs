//! Devices a replica can run on.

pub mod cpu;
