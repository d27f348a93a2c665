//! What the machine tells the outside: [`Observer`].
//!
//! Rank 0's observer hears everything; the others hear [`Observer::started`],
//! [`Observer::warning`] and [`Observer::fault`] only. Calls come from the communicator's thread
//! and from the thread that called [`run`](crate::run), one at a time: they must not block.

use std::time::Duration;

use crate::fault::Fault;
use crate::trace::Tally;
use crate::transport::ClockOffset;

/// What is known when all nodes have met and all replicas are built.
#[derive(Clone, Debug)]
pub struct Started {
    /// This node's rank.
    pub rank: usize,
    /// Host name of each rank.
    pub hosts: Vec<String>,
    /// Number of device actors of each rank; their sum is R.
    pub workers: Vec<usize>,
    /// Each rank's clock beside rank 0's.
    pub clocks: Vec<ClockOffset>,
    /// First iteration of this run.
    pub iter: u64,
    /// Name of the transport ("solo", "in-process", or the MPI library's version line).
    pub transport: String,
}

/// Loss and outputs at an iteration that is displayed.
#[derive(Clone, Debug, PartialEq)]
pub struct Display {
    /// The iteration.
    pub iter: u64,
    /// Mean over the iteration's tickets, then over the last `average_loss` iterations.
    pub loss: f32,
    /// The train net's outputs, mean over the iteration's tickets. Empty on the closing display.
    pub outputs: Vec<f32>,
    /// True for Caffe's closing "Iteration N, loss = …" after the last iteration.
    pub closing: bool,
    /// What every replica of the job did since the last display. Empty on the closing display.
    pub paces: Vec<Pace>,
    /// `hogwild` and `ssp`: rank 0's updates so far by staleness, as in
    /// [`RunReport::staleness`].
    pub staleness: Vec<u64>,
}

/// What one replica did in a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Its node.
    pub rank: usize,
    /// Its device on that node.
    pub device: usize,
    /// Batches and time. Of other nodes' replicas as of their last header, which is at most a
    /// round old.
    pub spent: Tally,
}

/// Scores of one test net.
#[derive(Clone, Debug, PartialEq)]
pub struct Tested {
    /// Iterations done.
    pub iter: u64,
    /// Which test net.
    pub net: usize,
    /// Outputs summed over the batches in batch order, divided by their number, as in Caffe.
    pub scores: Vec<f32>,
}

/// What a finished run has to say for itself.
#[derive(Clone, Debug, PartialEq)]
pub struct RunReport {
    /// Rank of the node that reports.
    pub rank: usize,
    /// Iterations done, those before a resume included.
    pub iter: u64,
    /// First batch ticket not trained on.
    pub ticket: u64,
    /// Whether a request ended the run before `max_iter`.
    pub stopped_early: bool,
    /// Checksum of the weights, equal on all replicas of the job.
    pub checksum: u64,
    /// Steps taken by each replica of this node.
    pub steps: Vec<u64>,
    /// Rounds between nodes that carried data.
    pub rounds: u64,
    /// Mean length of a round in iterations (T of the protocol); 0 with one node.
    pub round_iters: f64,
    /// `hogwild` and `ssp`: number of this node's updates by staleness, the number of others'
    /// updates merged between their pull and their push. Empty in other modes.
    pub staleness: Vec<u64>,
    /// `hogwild` and `ssp`: how many of this node's updates became visible everywhere with the
    /// next round to end, and with the one after it, which is the longest. Zeros elsewhere.
    pub visible_after: [u64; 2],
    /// Wall time from the first iteration to the end.
    pub wall: Duration,
}

/// Callbacks of a run. All default to nothing.
pub trait Observer: Send {
    /// All nodes have met, plans agree, weights are equal everywhere.
    fn started(&mut self, _started: &Started) {}

    /// All tickets of the iterations below `iter` have finished.
    fn progress(&mut self, _iter: u64) {}

    /// An iteration to display.
    fn display(&mut self, _display: &Display) {}

    /// A test of net `net` begins.
    fn testing(&mut self, _iter: u64, _net: usize) {}

    /// A test has ended.
    fn tested(&mut self, _tested: &Tested) {}

    /// A snapshot has been copied out after `iter` iterations and is being written.
    fn snapshotted(&mut self, _iter: u64) {}

    /// A request stopped the run after `iter` iterations.
    fn stopped_early(&mut self, _iter: u64) {}

    /// Training is over and all ranks agree on the weights.
    fn finished(&mut self, _report: &RunReport) {}

    /// Something is slow or stuck; training goes on. One line of text.
    fn warning(&mut self, _text: &str) {}

    /// The job is ending because of this. Called on every rank that still can, once.
    fn fault(&mut self, _fault: &Fault) {}
}

/// An observer that listens to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {}
