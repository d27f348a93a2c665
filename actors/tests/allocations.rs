//! What a round allocates, counted by the allocator: two nodes of two devices in one process, all
//! their threads together, between two iterations far from start and end.
//!
//! Of bulk data nothing: gradients, weights, exchange buffers, packed pieces and header words go
//! round in circles. What is left, by its origin: actix boxes every message in a mailbox (some 70 bytes in
//! two boxes; a device sends one for each bucket and one for its step), timers likewise (hogwild's
//! rests), and a round's headers are unpacked into one short list. Excluded: the fakes' own books,
//! displays, tests and snapshots, which happen at drained points.

#![allow(clippy::unwrap_used)]

mod quadratic;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use caffe_actors::{Config, InProcess, Launch, Mode, Observer, Schedule, Wire, run};
use quadratic::{Behaviour, factories};

/// From here on an allocation counts as large: less than a header of the fakes has.
const LARGE: usize = 256;

struct Counting;

static SMALL: AtomicU64 = AtomicU64::new(0);
static MUCH: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is the system allocator's; counting touches no memory of its own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let counter = if layout.size() < LARGE { &SMALL } else { &MUCH };
        counter.fetch_add(1, Relaxed);
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

/// Notes the counters at two iterations.
struct Notes {
    marks: std::sync::mpsc::Sender<(u64, [u64; 3])>,
    first: bool,
}

impl Observer for Notes {
    fn progress(&mut self, iter: u64) {
        if iter >= 100 && !self.first || iter >= 500 {
            self.first = true;
            let counts = [&SMALL, &MUCH, &BYTES].map(|counter| counter.load(Relaxed));
            self.marks.send((iter, counts)).unwrap();
        }
    }
}

/// Small and large allocations, and bytes, per iteration.
fn count(mode: Mode, wire: Wire) -> [f64; 3] {
    let behaviour = Behaviour { compute: 1, ..Behaviour::default() };
    behaviour.log.with(|seen| seen.tickets.reserve(10_000));
    let (marks, counted) = std::sync::mpsc::channel();
    let threads: Vec<_> = InProcess::nodes(2)
        .into_iter()
        .map(|node| {
            let schedule =
                Schedule { max_iter: 600, snapshot_after_train: false, ..Schedule::default() };
            let config = Config {
                threads: vec![1; 2],
                launch: Launch::InProcess(node),
                owns_process: false,
                wire,
                ..Config::new(mode, schedule)
            };
            let (factories, marks) = (factories(&behaviour), marks.clone());
            std::thread::spawn(move || {
                run(config, factories, Box::new(Notes { marks, first: false })).unwrap()
            })
        })
        .collect();
    let rounds: Vec<u64> =
        threads.into_iter().map(|thread| thread.join().unwrap().rounds).collect();
    drop(marks);
    let marks: Vec<_> = counted.into_iter().collect();
    let (from, to) = (marks[0], marks[1]);
    let per = |i: usize| (to.1[i] - from.1[i]) as f64 / (to.0 - from.0) as f64;
    let counts = [per(0), per(1), per(2)];
    println!(
        "{mode}, {wire}: {:.1} small and {:.2} large allocations, {:.0} bytes an iteration; rounds {rounds:?}",
        counts[0], counts[1], counts[2]
    );
    counts
}

#[test]
fn a_round_allocates_no_bulk() {
    for (mode, wire) in [
        (Mode::Sync, Wire::F32),
        (Mode::Sync, Wire::Bf16),
        (Mode::Hogwild, Wire::F32),
        (Mode::Hogwild, Wire::Fp16),
    ] {
        let [small, large, bytes] = count(mode, wire);
        // Buckets are of 80,000 and 40 bytes; a header of 176 in each direction.
        assert!(bytes < 16_000.0, "{mode}, {wire}: {bytes} bytes an iteration");
        assert!(large < 4.0, "{mode}, {wire}: {large} large allocations an iteration");
        assert!(small < 200.0, "{mode}, {wire}: {small} small allocations an iteration");
    }
}
