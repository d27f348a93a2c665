//! What every thread did and when: [`Tracer`], [`Span`], typed [`Kind`]s.
//!
//! Each thread of a run owns one lane: a ring of start/stop events, always on, about 0.1 µs an
//! event. The rings are written as one Chrome trace file per rank when asked for. The lane also
//! holds what the thread is doing *now*, for the message that ends a job.
//!
//! ```
//! # use caffe_actors::trace::{Kind, Tracer};
//! let tracer = Tracer::detached("device 0");
//! let conv1 = tracer.name("conv1");
//! {
//!     let _forward = tracer.span(Kind::Forward);
//!     let _layer = tracer.layer(conv1); // recorded only when layers were asked for
//!     assert_eq!(tracer.doing(), "forward");
//! }
//! ```

mod blackbox;
mod chrome;
mod ring;
mod tally;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::{Clock, SystemClock};
use ring::{Event, Phase, Ring};

pub(crate) use blackbox::BlackBox;
pub use blackbox::{Entry, Recording, read_recording, recordings_in};
pub(crate) use chrome::{Facts, write};
pub use tally::Tally;
pub(crate) use tally::{Share, TALLY_WORDS};

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// What a span is about.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            const ALL: &'static [Kind] = &[$(Kind::$kind,)*];

            /// The word in the trace and in messages.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)* }
            }
        }
    };
}

kinds! {
    /// Nothing in particular.
    Idle = "idle",
    /// Setting up: building a replica, opening a source, meeting the other nodes.
    Start = "start",
    /// A reader fills a train batch.
    Read = "read",
    /// A reader fills a test batch.
    ReadTest = "read test batch",
    /// A device waits for a batch.
    WaitBatch = "wait for a batch",
    /// A device waits for a test batch.
    WaitTest = "wait for a test batch",
    /// A device waits until its node is granted a ticket.
    WaitTicket = "wait for a ticket",
    /// A device has a batch, but slower replicas must come up first (`ssp`).
    WaitTurn = "wait for slower replicas",
    /// Forward and backward of one batch.
    Compute = "compute",
    /// Forward.
    Forward = "forward",
    /// Backward.
    Backward = "backward",
    /// A device actor has asked its device for everything and waits for it.
    WaitDevice = "wait for the device",
    /// A device waits for the job's gradient.
    WaitGradient = "wait for the gradient",
    /// The solver's update.
    Update = "update",
    /// Pushing an update into the node's weights and reading them back.
    Push = "push",
    /// The communicator sums its replicas' gradients.
    Aggregate = "aggregate",
    /// A bucket travels between nodes.
    Exchange = "exchange",
    /// The sum of a round enters the node's weights.
    Apply = "apply",
    /// A round's header travels.
    Header = "header",
    /// Averaging statistics at a drained point.
    Drain = "drain",
    /// A test batch.
    Test = "test",
    /// Copying a snapshot out of a replica.
    Snapshot = "snapshot",
    /// Writing a snapshot's files.
    Write = "write snapshot",
    /// Comparing the final weights.
    Verify = "verify",
    /// One layer, under its own name.
    Layer = "layer",
}

/// The index of a name given to [`Tracer::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameId(u32);

const NO_ITER: u64 = u64::MAX;

/// One thread's lane of the trace. Clones write into the same lane.
#[derive(Clone, Debug)]
pub struct Tracer(Arc<Lane>);

struct Lane {
    title: String,
    clock: Arc<dyn Clock>,
    record: bool,
    layers: bool,
    ring: Mutex<Ring>,
    slot: Option<blackbox::Slot>,
    tally: tally::Cells,
    about: Mutex<String>,
    names: Arc<Mutex<Vec<String>>>,
    iter: AtomicU64,
    doing: AtomicU8,
}

/// A running span; it ends when dropped.
#[must_use = "a span ends when it is dropped"]
#[derive(Debug)]
pub struct Span {
    lane: Tracer,
    kind: Kind,
    name: u32,
    before: u8,
    begun: u64,
}

impl Tracer {
    /// A lane of its own, in no run: for tests and for an engine that runs without actors.
    pub fn detached(title: &str) -> Self {
        Traces::new(Arc::new(SystemClock::default()), Wanted::default()).lane(title)
    }

    /// Starts a span.
    pub fn span(&self, kind: Kind) -> Span {
        self.start(kind, 0)
    }

    /// Keeps a layer's name for [`layer`](Tracer::layer). Call it at set-up: it allocates.
    pub fn name(&self, name: &str) -> NameId {
        let mut names = self.0.names.lock();
        let known = names.iter().position(|known| known == name);
        NameId(known.unwrap_or_else(|| {
            names.push(name.to_owned());
            names.len() - 1
        }) as u32)
    }

    /// Whether layers were asked for.
    pub fn shows_layers(&self) -> bool {
        self.0.layers
    }

    /// Starts a layer's span, if layers were asked for.
    pub fn layer(&self, name: NameId) -> Option<Span> {
        self.0.layers.then(|| self.start(Kind::Layer, name.0))
    }

    /// Says what the thread works on ("LevelDB train_leveldb"), for those who read the trace.
    pub fn describe(&self, about: &str) {
        about.clone_into(&mut self.0.about.lock());
    }

    /// What this thread has spent its time on so far.
    pub(crate) fn tally(&self) -> Tally {
        self.0.tally.read()
    }

    /// The iteration that faults and spans of this thread are about.
    pub fn set_iter(&self, iter: u64) {
        self.0.iter.store(iter, Ordering::Relaxed);
    }

    /// What the thread is doing now; empty when nothing in particular.
    pub fn doing(&self) -> &'static str {
        let doing = usize::from(self.0.doing.load(Ordering::Relaxed));
        match Kind::ALL.get(doing) {
            None | Some(Kind::Idle) => "",
            Some(kind) => kind.name(),
        }
    }

    /// The iteration last set.
    pub fn iter(&self) -> Option<u64> {
        Some(self.0.iter.load(Ordering::Relaxed)).filter(|iter| *iter != NO_ITER)
    }

    /// Starts something that overlaps with others of its kind, told apart by `id`.
    pub(crate) fn open(&self, kind: Kind, id: u32) {
        self.event(kind, id, Phase::Open);
    }

    /// Ends what [`open`](Tracer::open) started.
    pub(crate) fn close(&self, kind: Kind, id: u32) {
        self.event(kind, id, Phase::Close);
    }

    fn start(&self, kind: Kind, name: u32) -> Span {
        let begun = self.event(kind, name, Phase::Begin);
        let before = match kind {
            // A layer's span is inside forward or backward, which is the better word.
            Kind::Layer => self.0.doing.load(Ordering::Relaxed),
            _ => self.0.doing.swap(kind as u8, Ordering::Relaxed),
        };
        Span { lane: self.clone(), kind, name, before, begun }
    }

    /// Records an event; its time.
    fn event(&self, kind: Kind, name: u32, phase: Phase) -> u64 {
        if !self.0.record {
            return 0;
        }
        let at = self.0.clock.now().as_nanos() as u64;
        let iter = self.0.iter.load(Ordering::Relaxed);
        let event = Event { at, iter, name, kind, phase };
        let mut ring = self.0.ring.lock();
        ring.push(event);
        if let Some(slot) = &self.0.slot {
            slot.push(event);
        }
        at
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let ended = self.lane.event(self.kind, self.name, Phase::End);
        if let Some(share) = Share::of(self.kind) {
            self.lane.0.tally.add(share, ended.saturating_sub(self.begun));
        }
        // While a panic unwinds, the innermost activity is the one to name.
        if !std::thread::panicking() {
            self.lane.0.doing.store(self.before, Ordering::Relaxed);
        }
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").field("title", &self.title).finish_non_exhaustive()
    }
}

/// What is to be recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Anything at all.
    pub(crate) record: bool,
    /// The rings will be written to a file, so they are large.
    pub(crate) keep: bool,
    /// A span for each layer.
    pub(crate) layers: bool,
}

impl Default for Wanted {
    fn default() -> Self {
        Wanted { record: true, keep: false, layers: false }
    }
}

/// All lanes of one node.
pub(crate) struct Traces {
    clock: Arc<dyn Clock>,
    wanted: Wanted,
    capacity: usize,
    lanes: Mutex<Vec<Tracer>>,
    black_box: Option<Arc<BlackBox>>,
    names: Arc<Mutex<Vec<String>>>,
}

impl Traces {
    /// Lanes whose events bear this clock's times.
    pub(crate) fn new(clock: Arc<dyn Clock>, wanted: Wanted) -> Self {
        Traces {
            clock,
            wanted,
            capacity: if wanted.keep { 1 << 20 } else { 1 << 13 },
            lanes: Mutex::default(),
            black_box: None,
            names: Arc::default(),
        }
    }

    /// With a black box beside the rings.
    pub(crate) fn recorded(self, black_box: Option<Arc<BlackBox>>) -> Self {
        Traces { black_box, ..self }
    }

    /// The black box.
    pub(crate) fn black_box(&self) -> Option<&BlackBox> {
        self.black_box.as_deref()
    }

    fn now(&self) -> Duration {
        self.clock.now()
    }

    /// A new lane.
    pub(crate) fn lane(&self, title: &str) -> Tracer {
        let tracer = Tracer(Arc::new(Lane {
            title: title.to_owned(),
            clock: self.clock.clone(),
            record: self.wanted.record,
            layers: self.wanted.layers,
            ring: Mutex::new(Ring::new(self.capacity)),
            slot: self.black_box.as_ref().and_then(|black_box| black_box.lane(title)),
            tally: tally::Cells::default(),
            about: Mutex::default(),
            names: self.names.clone(),
            iter: AtomicU64::new(NO_ITER),
            doing: AtomicU8::new(Kind::Idle as u8),
        }));
        self.lanes.lock().push(tracer.clone());
        tracer
    }
}
