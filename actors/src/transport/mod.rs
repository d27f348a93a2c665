//! Between nodes: the [`Transport`] trait, the in-process and solo transports, MPI, an emulated
//! link around any of them, and the pump thread that owns one.
//!
//! Operations are posted and polled; nothing waits. Collectives of one [`Lane`] must be posted
//! in the same order on all nodes; lanes are independent of each other. Every buffer given with
//! an operation comes back with its completion.

mod emulated;
mod inprocess;
mod launch;
mod measure;
#[cfg(feature = "mpi")]
mod mpi;
mod pump;

use crate::fault::Fault;
use crate::wire::Wire;

pub use emulated::{Link, Loss};
pub use inprocess::InProcess;
#[cfg(test)]
pub(crate) use inprocess::Node;
pub use launch::launched;
pub use measure::{MeasuredLink, measure_link};
#[cfg(feature = "mpi")]
pub(crate) use mpi::{abort_job, thread_level};
pub use pump::ClockOffset;
pub(crate) use pump::{Hello, Line, Meeting, News, Patience, Pump, start};

/// Ends the whole job at once, from any thread, if it is one that can be ended: the watchdog's
/// last means. Nothing to end without MPI.
#[cfg(not(feature = "mpi"))]
pub(crate) fn abort_job() {}

/// What the MPI library lets threads do: nothing without MPI.
#[cfg(not(feature = "mpi"))]
pub(crate) fn thread_level() -> Option<String> {
    None
}

/// Independent streams of operations; each has its own MPI communicator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Buckets, statistics, weights.
    Data,
    /// Test scores and snapshot histories.
    Test,
}

/// An operation to start.
#[derive(Debug)]
pub(crate) enum Op {
    /// All nodes' words, in rank order, on the header lane.
    Header { words: Vec<u64> },
    /// Element-wise sum over all nodes, bit-identical on all of them. When `wire` rounds: of what
    /// it makes of `data` + `rest`; `rest`, as long as `data`, keeps what it takes away.
    Sum { lane: Lane, id: usize, data: Vec<f32>, wire: Wire, rest: Vec<f32> },
    /// Rank 0's data to all.
    Broadcast { id: usize, data: Vec<f32> },
    /// `data` from rank `from` to rank 0. Posted by these two only.
    Collect { from: usize, data: Vec<f32> },
}

/// A finished operation.
#[derive(Debug)]
pub(crate) enum Done {
    Headers { words: Vec<u64> },
    Sum { lane: Lane, id: usize, data: Vec<f32>, rest: Vec<f32> },
    Broadcast { id: usize, data: Vec<f32> },
    Collect { from: usize, data: Vec<f32> },
}

/// What a rank tells its peers now and then, outside all rounds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Beat {
    /// Still here.
    Alive,
    /// Ending, for this reason.
    Fault(Fault),
}

/// One node's end of the connection to the others. Lives on the pump's thread.
pub(crate) trait Transport {
    /// This node's rank.
    fn rank(&self) -> usize;

    /// Number of nodes.
    fn size(&self) -> usize;

    /// What it is, for the log.
    fn describe(&self) -> String;

    /// Starts an operation.
    fn post(&mut self, op: Op) -> Result<(), String>;

    /// Moves things on; adds what has finished to `done`.
    fn poll(&mut self, done: &mut Vec<Done>) -> Result<(), String>;

    /// Whether operations are open.
    fn open(&self) -> bool;

    /// Ranks that exchange beats with this one.
    fn peers(&self) -> Vec<usize>;

    /// Sends a beat to the peers, without waiting.
    fn beat(&mut self, beat: &Beat) -> Result<(), String>;

    /// Beats that have come in, with their senders.
    fn heard(&mut self, beats: &mut Vec<(usize, Beat)>) -> Result<(), String>;

    /// Ends the whole job at once, if this transport can.
    fn abort(&mut self);

    /// Leaves in order, when all nodes do.
    fn finish(self: Box<Self>) -> Result<(), String>;
}
