//! A replica and a source that need no engine: a quadratic bowl, trained with momentum.
//!
//! Batch q holds a target x(q), a function of q alone; the loss is ½|w − x|², the gradient
//! w − x. Everything is exact arithmetic in `f32`, so equality of bits can be asked for.
//! Trouble can be ordered: errors, panics and slowness at a given place.

// Shared by a test and an example: neither uses all of it, and both may panic.
#![allow(dead_code, clippy::panic, clippy::unwrap_used)]

mod bowl;
mod guard;
pub mod source;
mod team;
pub mod told;
mod trouble;

use std::sync::{Arc, Mutex};

use caffe_actors::trace::Tracer;
use caffe_actors::{BatchSource, Config, Factories, Replica, ReplicaPlace, Requests, Step};

pub use bowl::Bowl;
use source::{Batch, Source};
pub use team::Team;
pub use trouble::Trouble;

/// Length of the parameter vector: several 64 KiB chunks in the largest bucket.
pub const PARAMS: usize = 40_010;

/// How the fakes behave.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    pub troubles: Vec<Trouble>,
    /// Milliseconds of each compute.
    pub compute: u64,
    pub tests: usize,
    pub clip: Option<f32>,
    /// Asks the job to stop from this iteration on.
    pub stop: Option<(u64, Requests)>,
    /// Of each node: its replicas sum their gradients among themselves, and give them once.
    pub teams: Vec<Arc<Team>>,
    /// Updates are given during backward.
    pub early: bool,
    pub log: Log,
}

/// What the fakes saw.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
pub struct Seen {
    /// Batch tickets, in order of compute.
    pub tickets: Vec<u64>,
    pub snapshots: Vec<Snapshot>,
    /// Iterations of the snapshots that the writer has written.
    pub written: Vec<u64>,
    pub final_weights: Vec<f32>,
    /// The last snapshot that was written.
    pub saved: Option<(u64, Vec<f32>)>,
    /// Replicas that have gone back to it, in order.
    pub reloads: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    pub iter: u64,
    pub ticket: u64,
    pub cursors: Vec<u64>,
    pub mean: f32,
    pub replicas: Vec<usize>,
}

impl Log {
    pub fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(|e| e.into_inner()))
    }
}

pub fn factories(behaviour: &Behaviour) -> Factories<Bowl, Source> {
    let (one, other) = (behaviour.clone(), behaviour.clone());
    Factories::new(
        move |place| Bowl::new(place, &one),
        move |place| Ok(Source { rank: place.rank, behaviour: other.clone() }),
    )
}

/// The bare solver loop: what every mode must do, bit for bit, with one replica.
pub fn bare_loop(config: &Config) -> Vec<f32> {
    let place = ReplicaPlace {
        rank: 0,
        nodes: 1,
        local: 0,
        workers: 1,
        replica: 0,
        replicas: 1,
        threads: 1,
        tracer: Tracer::detached("bare"),
    };
    let behaviour = Behaviour::default();
    let mut bowl = Bowl::new(&place, &behaviour).unwrap();
    bowl.opening_words().unwrap();
    let mut source = Source { rank: 0, behaviour };
    let mut batch = Batch::default();
    let passes = config.schedule.iter_size;
    for iter in 0..config.schedule.max_iter {
        for pass in 0..passes {
            let ticket = iter * passes as u64 + pass as u64;
            source.fill(ticket, &mut batch).unwrap();
            let step = Step { iter, ticket, pass, passes, report: false };
            bowl.compute(&mut batch, &step, &mut |_, _| {}).unwrap();
        }
        bowl.update_local(iter).unwrap();
    }
    bowl.w
}
