//! The modes as pure state machines: [`Event`] in, [`Action`]s out.
//!
//! A machine runs on every node, inside the communicator. It holds no buffer, looks at no clock
//! and calls nobody: the communicator tells it what has happened and carries out what it asks
//! for. So the same code is tested over many thousand random schedules in milliseconds.
//!
//! A machine runs one *segment* after another: the iterations between two drained points. Tests,
//! snapshots and averaging happen between segments and are none of its business.
//!
//! One file each: [`single`] (the bare loop), [`sync`], [`hogwild`], [`ssp`], [`local_sgd`]. A further mode is one more
//! file and one more arm in [`machine`].

mod hogwild;
mod local_sgd;
mod single;
mod ssp;
mod sync;

#[cfg(test)]
mod simulation;

use std::sync::Arc;
use std::time::Duration;

use crate::config::Mode;
use crate::header::{Header, LossPart, Sample};

/// What a machine knows of the job; constant.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) rank: usize,
    /// Device actors of each node.
    pub(crate) workers: Vec<usize>,
    /// Number of buckets of the plan.
    pub(crate) buckets: usize,
    /// Whether what nodes send each other is rounded, unless an exchange is to be exact.
    pub(crate) rounded: bool,
}

impl Job {
    pub(crate) fn nodes(&self) -> usize {
        self.workers.len()
    }

    /// R.
    pub(crate) fn replicas(&self) -> u64 {
        self.workers.iter().sum::<usize>() as u64
    }

    /// K, this node's device actors.
    pub(crate) fn local(&self) -> usize {
        self.workers[self.rank]
    }
}

/// What holds at the moment of an event.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment {
    pub(crate) now: Duration,
    /// Somebody asked this node to stop.
    pub(crate) stop: bool,
    /// Somebody asked this node for a snapshot.
    pub(crate) snapshot: bool,
}

/// What has happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A segment begins: iterations `from..to`, `from < to`. All local devices are parked.
    Begin { from: u64, to: u64 },
    /// A local device has given a bucket's gradient.
    Gradient { bucket: usize },
    /// A local device has done forward and backward of an iteration.
    Computed { local: usize, iter: u64, sample: Option<Sample> },
    /// A local device's update of a step ticket is in the node's weights.
    Finished { ticket: u64, sample: Option<Sample> },
    /// All nodes' headers of the round this node posted last.
    Headers(Arc<Vec<Header>>),
    /// The exchange of a bucket has ended.
    Summed { bucket: usize },
    /// A local device has left the segment; it has done all iterations below `iter` if it is
    /// alone in the job.
    Parked { iter: u64 },
    /// A moment asked for with [`Action::WakeAt`], or any other moment.
    Timer,
}

/// What is to be done, in this order. An exchange that is not `exact` may leave a part of what it
/// was given behind, for the next one of its bucket; in an `exact` one everything arrives.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "a header in a box would be an allocation every round"
)]
pub(crate) enum Action {
    /// All local devices run iterations `from..to`.
    Run { from: u64, to: u64 },
    /// Exchange headers with all nodes.
    Header(Header),
    /// Sum the local gradients of a bucket and exchange it: the sum becomes the job's mean.
    Sum { bucket: usize, exact: bool },
    /// Sum the local gradients of a bucket: the sum becomes the node's mean.
    SumHere { bucket: usize },
    /// Exchange the node's part of a bucket's average, which its first device has given.
    Merge { bucket: usize, exact: bool },
    /// Give a bucket's mean gradient, or average, to the local devices.
    Mean { bucket: usize },
    /// The local devices have all they need for the iteration, or for taking the average.
    Next(Then),
    /// Let the local devices train on these step tickets.
    Grant { first: u64, count: u64 },
    /// f ← a, a ← 0, exchange Σf.
    Swap { bucket: usize, exact: bool },
    /// z += Σf, f ← 0.
    Apply { bucket: usize },
    /// From now on updates weigh `rho`, and replicas compute as many of their own updates
    /// `ahead` of the weights.
    Weight { rho: f32, ahead: f32 },
    /// Tickets below this one may start.
    Open { below: u64 },
    /// No ticket is left in this segment: local devices park.
    Park,
    /// Send [`Event::Timer`] then.
    WakeAt(Duration),
    /// Part of an iteration's loss has become known (equal on all nodes).
    Loss(LossPart),
    /// All tickets of iterations below this one have finished.
    Progress(u64),
    /// All nodes have drained. The segment is over after `iter` iterations.
    Drained { iter: u64, stop: bool, snapshot: bool },
    /// The nodes contradict each other: rank and what is wrong.
    Broken { rank: usize, cause: String },
}

/// What devices do when they have all they need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// The next iteration.
    GoOn,
    /// Average the weights of all nodes.
    Merge,
    /// Park.
    Park,
}

impl Then {
    /// Another iteration, or none.
    pub(crate) fn go_on(go_on: bool) -> Self {
        if go_on { Then::GoOn } else { Then::Park }
    }
}

/// A mode on one node.
pub(crate) trait Machine {
    /// Takes an event, appends what is to be done.
    fn on(&mut self, moment: &Moment, event: Event, actions: &mut Vec<Action>);

    /// How many local updates are visible everywhere after one further round, and after two.
    fn visible_after(&self) -> [u64; 2] {
        [0; 2]
    }

    /// T, the mean round length in iterations; 0 when there are no rounds.
    fn round_iters(&self) -> f64 {
        0.0
    }
}

/// The machine of a mode. With one replica every mode is the bare loop.
pub(crate) fn machine(mode: Mode, job: Job) -> Box<dyn Machine> {
    if job.replicas() == 1 {
        return Box::new(single::Single::new());
    }
    match mode {
        Mode::Sync => Box::new(sync::Sync::new(job)),
        Mode::Hogwild => Box::new(hogwild::Hogwild::new(job)),
        Mode::Ssp { staleness } => Box::new(ssp::Ssp::new(job, staleness)),
        // Nothing to average between nodes.
        Mode::LocalSgd { .. } if job.nodes() == 1 => Box::new(sync::Sync::new(job)),
        Mode::LocalSgd { every } => Box::new(local_sgd::LocalSgd::new(job, every)),
    }
}

/// Checks what must be equal in all headers of one round.
fn contradiction(headers: &[Header], round: u64) -> Option<Action> {
    for (rank, header) in headers.iter().enumerate() {
        if header.round != round {
            let cause = format!("is in round {} while the others are in {round}", header.round);
            return Some(Action::Broken { rank, cause });
        }
        if header.hash != headers[0].hash {
            let cause = format!("its weights differ from rank 0's at round {round}");
            return Some(Action::Broken { rank, cause });
        }
    }
    None
}
