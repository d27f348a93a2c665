//! How a run is set up: [`Config`], [`Mode`], [`Launch`], [`Requests`], [`Factories`].
//!
//! Plain data. Everything that must be equal on all nodes is hashed and compared when they meet.

use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::digest::Digest;
use crate::replica::{Cause, Replica, ReplicaPlace};
use crate::schedule::Schedule;
use crate::source::{BatchSource, ReaderPlace};
use crate::transport::{InProcess, Link};
use crate::wire::Wire;

/// How replicas share what they learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The mean gradient of all replicas, every iteration; same configuration, same bits.
    Sync,
    /// Replicas draw tickets and push their own updates; rounds run in the background.
    Hogwild,
    /// As `Hogwild`, but no ticket q starts before all tickets ≤ q − R·(`staleness` + 1) are
    /// finished and visible where it starts.
    Ssp {
        /// s: by how many iterations replicas may be apart.
        staleness: u64,
    },
    /// `Sync` within each node; the nodes' weights are averaged every so many iterations.
    LocalSgd {
        /// k: iterations from one average to the next, at least 1.
        every: u64,
    },
}

impl Mode {
    /// Whether replicas draw tickets from their node and push into its weights.
    pub(crate) fn draws(self) -> bool {
        matches!(self, Mode::Hogwild | Mode::Ssp { .. })
    }

    /// Whether all replicas of a job have the same solver history.
    pub fn shares_history(self) -> bool {
        self == Mode::Sync
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Mode::Sync => f.write_str("sync"),
            Mode::Hogwild => f.write_str("hogwild"),
            Mode::Ssp { staleness } => write!(f, "ssp (staleness {staleness})"),
            Mode::LocalSgd { every } => write!(f, "local-sgd (exchange every {every})"),
        }
    }
}

/// How the nodes of the job find each other.
#[derive(Clone, Debug, Default)]
pub enum Launch {
    /// MPI if the environment shows that `mpirun` started this process, else alone.
    #[default]
    Auto,
    /// One node, no MPI.
    Solo,
    /// MPI, also when started without `mpirun` (one node then).
    Mpi,
    /// One of several nodes inside this process, each on its own thread.
    InProcess(InProcess),
}

/// Wishes from outside (signals, a terminal) that all nodes fulfil together: they travel in the
/// next round's header. Cheap to clone; setting one is async-signal-safe.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    stop: Arc<AtomicBool>,
    snapshot: Arc<AtomicBool>,
}

impl Requests {
    /// Ends training at the next whole iteration, on all nodes.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Writes a snapshot at the next whole iteration.
    pub fn snapshot(&self) {
        self.snapshot.store(true, Ordering::Release);
    }

    /// The flag behind [`stop`](Requests::stop), for a signal handler that wants a bare atomic.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// The flag behind [`snapshot`](Requests::snapshot).
    pub fn snapshot_flag(&self) -> Arc<AtomicBool> {
        self.snapshot.clone()
    }

    pub(crate) fn stop_wanted(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(crate) fn snapshot_wanted(&self) -> bool {
        self.snapshot.load(Ordering::Acquire)
    }

    pub(crate) fn any_wanted(&self) -> bool {
        self.stop_wanted() || self.snapshot_wanted()
    }

    /// Takes the snapshot wish, so that it is fulfilled once.
    pub(crate) fn take_snapshot(&self) -> bool {
        self.snapshot.swap(false, Ordering::AcqRel)
    }
}

/// A hash that must be equal on all ranks, with the name it has in the error message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What is hashed, as in "the solver file".
    pub what: String,
    /// Its hash.
    pub hash: u64,
}

/// At most so many [`Config::identities`]: they travel in a message of fixed size.
pub const MAX_IDENTITIES: usize = 24;

/// The set-up of this node's part of a run.
#[derive(Clone)]
pub struct Config {
    /// How replicas share what they learn. With one replica in the job every mode is the bare
    /// solver loop.
    pub mode: Mode,
    /// In `hogwild`: replicas compute where their next update will meet the weights, ahead by
    /// what they cannot yet see of the others (1), a part of it, or not at all (0).
    pub look_ahead: f32,
    /// Number format of what nodes send each other.
    pub wire: Wire,
    /// What happens when.
    pub schedule: Schedule,
    /// Compute threads of each device actor of this node; their number is the number of device
    /// actors.
    pub threads: Vec<usize>,
    /// Threads with which the communicator adds: itself, or more where the devices leave cores to
    /// spare.
    pub adders: usize,
    /// Reader actors of this node.
    pub readers: usize,
    /// Bytes of train batches that may lie ready on this node (at least two batches a replica).
    pub prefetch_bytes: usize,
    /// Files and settings that must be equal on all ranks, at most [`MAX_IDENTITIES`].
    pub identities: Vec<Identity>,
    /// How the nodes find each other.
    pub launch: Launch,
    /// A link to emulate between the nodes, over whatever really connects them.
    pub link: Option<Link>,
    /// Write a Chrome trace of this node into this folder, as `trace-rank-N.json`.
    pub trace: Option<PathBuf>,
    /// Keep this node's black box in this folder while it runs (and after, if it ends badly).
    pub black_box: Option<PathBuf>,
    /// Emit a span for each layer when the replica offers them.
    pub trace_layers: bool,
    /// Record spans at all. Off only to measure what recording costs: shares at displays are then
    /// zero, and a fault's place has no history.
    pub record: bool,
    /// Where signals arrive.
    pub requests: Requests,
    /// Warn when nothing has moved, or a peer has been silent, for this long.
    pub stall_warning: Duration,
    /// End the job when a peer has been silent for this long; zero: never.
    pub stall_timeout: Duration,
    /// Whether a fault may end this process when it cannot end in order: `MPI_Abort` after 2 s,
    /// `_exit` after 5 s. Off in tests that run several nodes in one process.
    pub owns_process: bool,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

impl Config {
    /// A run of `schedule` on one device actor with one thread, started as the environment says.
    pub fn new(mode: Mode, schedule: Schedule) -> Self {
        Config {
            mode,
            look_ahead: 1.0,
            wire: Wire::F32,
            schedule,
            threads: vec![1],
            adders: 1,
            readers: 1,
            prefetch_bytes: 256 << 20,
            identities: Vec::new(),
            launch: Launch::Auto,
            link: None,
            trace: None,
            black_box: None,
            trace_layers: false,
            record: true,
            requests: Requests::default(),
            stall_warning: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(300),
            owns_process: true,
            clock: Arc::new(SystemClock::default()),
        }
    }

    /// Hash of what the machine itself needs equal on all ranks: mode and schedule.
    pub(crate) fn hash(&self) -> u64 {
        let mut digest = Digest::default();
        (self.mode, self.wire).hash(&mut digest);
        self.look_ahead.to_bits().hash(&mut digest);
        let s = &self.schedule;
        (s.start_iter, s.max_iter, s.iter_size, s.display, s.average_loss).hash(&mut digest);
        (s.test_interval, s.test_initialization, s.snapshot).hash(&mut digest);
        (s.snapshot_after_train, &s.test_batches, &s.test_cursors).hash(&mut digest);
        digest.finish()
    }
}

/// Builds a replica on its device thread.
pub type ReplicaFactory<R> = dyn Fn(&ReplicaPlace) -> Result<R, Cause> + Send + Sync;

/// Builds a source on its reader's thread.
pub type SourceFactory<S> = dyn Fn(&ReaderPlace) -> Result<S, Cause> + Send + Sync;

/// The two things the engine brings.
pub struct Factories<R: Replica, S: BatchSource<Batch = R::Batch>> {
    /// Called once on each device thread.
    pub replica: Arc<ReplicaFactory<R>>,
    /// Called once on each reader thread.
    pub source: Arc<SourceFactory<S>>,
}

impl<R: Replica, S: BatchSource<Batch = R::Batch>> Factories<R, S> {
    /// From two closures.
    pub fn new(
        replica: impl Fn(&ReplicaPlace) -> Result<R, Cause> + Send + Sync + 'static,
        source: impl Fn(&ReaderPlace) -> Result<S, Cause> + Send + Sync + 'static,
    ) -> Self {
        Factories { replica: Arc::new(replica), source: Arc::new(source) }
    }
}

impl<R: Replica, S: BatchSource<Batch = R::Batch>> Clone for Factories<R, S> {
    fn clone(&self) -> Self {
        Factories { replica: self.replica.clone(), source: self.source.clone() }
    }
}
