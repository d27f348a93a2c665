//! What a round allocates, counted by the allocator: all threads of a process together, between two
//! iterations far from start and end.

#![allow(clippy::unwrap_used)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::Sender;

use caffe_actors::{Config, Launch, Mode, Observer, Schedule, Wire, run};

use super::quadratic::{Behaviour, factories};

struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is the system allocator's; counting touches no memory of its own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Relaxed);
        BYTES.fetch_add(layout.size() as u64, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Iteration, allocations and bytes until then.
pub type Mark = (u64, u64, u64);

/// Notes the counters at two iterations.
struct Notes {
    marks: Sender<Mark>,
    first: bool,
}

impl Observer for Notes {
    fn progress(&mut self, iter: u64) {
        if iter >= 100 && !self.first || iter >= 500 {
            self.first = true;
            self.marks.send((iter, COUNT.load(Relaxed), BYTES.load(Relaxed))).unwrap();
        }
    }
}

/// Trains with two devices on one node; its marks, from rank 0, go to `marks`. Returns the number of
/// rounds.
pub fn train(mode: Mode, wire: Wire, launch: Launch, marks: Sender<Mark>) -> u64 {
    let behaviour = Behaviour { compute: 1, ..Behaviour::default() };
    // The fakes' book.
    behaviour.log.with(|seen| seen.tickets.reserve(10_000));
    let schedule = Schedule { max_iter: 600, snapshot_after_train: false, ..Schedule::default() };
    let config = Config {
        threads: vec![1; 2],
        launch,
        owns_process: false,
        wire,
        ..Config::new(mode, schedule)
    };
    let notes = Notes { marks, first: false };
    run(config, factories(&behaviour), Box::new(notes)).unwrap().rounds
}

/// Allocations and bytes an iteration.
pub fn per_iteration(marks: &[Mark]) -> [f64; 2] {
    let (from, to) = (marks[0], marks[1]);
    let iters = (to.0 - from.0) as f64;
    [(to.1 - from.1) as f64 / iters, (to.2 - from.2) as f64 / iters]
}
