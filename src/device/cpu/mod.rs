//! What runs on the CPU: a team of threads, oneDNN's compiled primitives, and plain loops.
//!
//! * [`CpuRun`]: what a layer gets to compute with.
//! * [`threads`]: a replica's team; the same OpenMP threads oneDNN uses.
//! * [`onednn`]: oneDNN behind safe types. The library is opened at run time; where it is missing,
//!   [`gemm`] and plain loops do the work, slower.
//! * [`reorder`], [`channels`], [`lrn`]: own parallel loops over plain and blocked layouts.
//! * [`memory`]: how much of it there is.
//! * [`aligned`]: buffers that start on a cache line.
//!
//! Nothing here knows a layer, a net or a prototxt: slices and sizes go in, slices come out.

pub mod aligned;
pub mod channels;
pub mod gemm;
pub mod lrn;
pub mod memory;
pub mod onednn;
pub mod reorder;
mod run;
pub mod threads;

pub use run::CpuRun;
