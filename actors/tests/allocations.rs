//! A round allocates nothing: gradients, weights, exchange buffers, packed pieces, headers and
//! messages all travel in circles. Two nodes of two devices in one process; `mpi.rs` counts the same
//! for two ranks.
//!
//! What is left, far less than one an iteration, are buffers that still grow (a queue that was never
//! as long before) and heartbeats, one a second.

#![allow(clippy::unwrap_used)]

mod counting;
mod quadratic;

use caffe_actors::{InProcess, Launch, Mode, Wire};

#[test]
fn a_round_allocates_nothing() {
    let local_sgd = Mode::LocalSgd { every: 4 };
    for (mode, wire) in [
        (Mode::Sync, Wire::F32),
        (Mode::Sync, Wire::Bf16),
        (Mode::Hogwild, Wire::F32),
        (Mode::Hogwild, Wire::Fp16),
        (Mode::Ssp { staleness: 2 }, Wire::F32),
        (local_sgd, Wire::F32),
    ] {
        let (marks, counted) = std::sync::mpsc::channel();
        let nodes: Vec<_> = InProcess::nodes(2)
            .into_iter()
            .map(|node| {
                let marks = marks.clone();
                std::thread::spawn(move || {
                    counting::train(mode, wire, Launch::InProcess(node), marks)
                })
            })
            .collect();
        let rounds: Vec<u64> = nodes.into_iter().map(|node| node.join().unwrap()).collect();
        drop(marks);
        let marks: Vec<_> = counted.into_iter().collect();
        let [count, bytes] = counting::per_iteration(&marks);
        println!(
            "{mode}, {wire}: {count:.2} allocations, {bytes:.0} bytes an iteration; rounds {rounds:?}"
        );
        // A message in a box, or a list a round, would be one or more.
        assert!(count < 0.5, "{mode}, {wire}: {count} allocations an iteration");
    }
}
