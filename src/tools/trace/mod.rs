//! The traces that the ranks of a run leave behind, on one time axis: read, merged into one file,
//! looked at for what bound the run, and drawn.
//!
//! * [`read`]: `trace-rank-N.json` as [`Trace`], every time on rank 0's clock
//! * [`merge`]: one Chrome trace of all ranks
//! * [`analysis`]: where the devices' time went and why; [`verdict`]: that in one sentence
//! * [`report`]: all of it as text
//! * [`picture`]: lanes with coloured spans
//!
//! Not here: recording, which is the actors' affair. Only words in the files connect the two.

pub mod analysis;
pub mod merge;
pub mod picture;
pub mod read;
pub mod report;
pub mod verdict;

pub use read::{Activity, Lane, Rank, Span, Trace};
