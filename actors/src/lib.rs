//! The asynchronous machine: reader, device and communicator actors over any replica.
//!
//! Generic: it knows no layer, no file format and no device. An engine implements [`Replica`]
//! (one copy of the net and its solver) and [`BatchSource`] (makes the batch of a ticket), and
//! calls [`run`]. The machine decides which replica trains on which ticket, how gradients or
//! updates reach the other replicas and nodes, when everybody stops for a test or a snapshot,
//! and how the job ends when something breaks. `docs/protocol.md` argues why it is right.
//!
//! # Layout
//!
//! * [`run`]: sets up one node, waits for its end.
//! * `replica`, `source`, `observe`, `config`, `schedule`, `clock`: the traits and data above.
//! * `messages`: every message, with the diagram of who sends what to whom.
//! * `reader`, `device`, `communicator`, `writer`: the actors, each on its own OS thread.
//! * `mode`: `sync`, `hogwild` and the bare loop as pure state machines, one file each.
//! * `transport`: in-process, solo and MPI, an emulated link, and the pump thread that owns them.
//! * `hands`: long sums on the communicator's thread and a few more.
//! * `wire`: number formats between nodes, and sums of rounded values.
//! * `fault`: alarm, panic hook, watchdog.
//! * [`trace`]: spans of every thread, and the Chrome trace file.

mod board;
mod clock;
mod communicator;
mod config;
mod deck;
mod device;
mod digest;
mod fault;
mod hands;
mod header;
mod inbox;
mod ledger;
mod messages;
mod mode;
mod observe;
mod reader;
mod replica;
mod run;
mod schedule;
mod source;
mod store;
pub mod trace;
mod transport;
mod wire;
mod writer;

pub use clock::{Clock, DilatedClock, SystemClock};
pub use config::{
    Config, Factories, Identity, Launch, MAX_IDENTITIES, Mode, ReplicaFactory, Requests,
    SourceFactory,
};
pub use digest::Digest;
pub use fault::{Fault, Origin};
pub use observe::{Display, Observer, Pace, RunReport, Silent, Started, Tested};
pub use replica::{
    Begun, Cause, Complaint, Histories, Plan, Ready, Replica, ReplicaPlace, SnapshotRequest, Step,
    Writing,
};
pub use run::run;
pub use schedule::Schedule;
pub use source::{BatchSource, ReaderPlace};
pub use trace::Tally;
pub use transport::{ClockOffset, InProcess, Link, Loss, MeasuredLink, launched, measure_link};
pub use wire::Wire;
