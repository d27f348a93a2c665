//! A measurement, started by `scripts/bench/communication.sh` with `mpirun`: sums of 28 MB through a
//! lane, polled as the pump does, in each wire format. Prints how long the turns of the pump were (one
//! or a few MPI calls each, with the arithmetic of rounded sums), and what was written to sockets.

use std::time::{Duration, Instant};

use super::Mpi;
use crate::transport::{Beat, Done, Lane, Op, Transport};
use crate::wire::Wire;

/// Floats of a sum: 28 MB.
const LEN: usize = 7_000_000;
const SUMS: usize = 20;

/// Bytes this process has handed to the system with write calls: Open MPI's and MPICH's TCP do, shared
/// memory does not.
fn written() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("wchar: ")?.trim().parse().ok())
}

fn post(mpi: &mut Mpi, wire: Wire, data: Vec<f32>, rest: Vec<f32>, turns: &mut Vec<Duration>) {
    let start = Instant::now();
    mpi.post(Op::Sum { lane: Lane::Data, id: 0, data, wire, rest }).unwrap();
    turns.push(start.elapsed());
}

/// Polls until the sum is there.
fn finish(mpi: &mut Mpi, turns: &mut Vec<Duration>) -> (Vec<f32>, Vec<f32>) {
    let mut done = Vec::new();
    loop {
        let start = Instant::now();
        mpi.poll(&mut done).unwrap();
        turns.push(start.elapsed());
        if let Some(Done::Sum { data, rest, .. }) = done.pop() {
            return (data, rest);
        }
        std::thread::park_timeout(Duration::from_micros(150));
    }
}

#[test]
#[ignore = "a measurement for mpirun: scripts/bench/communication.sh"]
fn sums_through_a_lane() {
    let mut mpi = Mpi::connect().unwrap();
    let rank = mpi.rank();
    if rank == 0 {
        println!("{} ranks over {}, sums of 28 MB in chunks of 1 MiB", mpi.size(), mpi.describe());
    }
    for wire in [Wire::F32, Wire::Bf16, Wire::Fp16] {
        let (mut turns, mut each) = (Vec::new(), Vec::new());
        let (mut data, mut rest) = (vec![0.0; LEN], vec![0.0; LEN]);
        let mut bytes = 0;
        // The first two warm up: connections, buffers, the library's own memory.
        for nth in 0..SUMS + 2 {
            data.iter_mut().enumerate().for_each(|(i, v)| *v = (i % 1000 + rank) as f32);
            if !wire.rounds() {
                rest.clear();
            }
            if nth == 2 {
                turns.clear();
                each.clear();
                bytes = written().unwrap_or(0);
            }
            let start = Instant::now();
            post(&mut mpi, wire, data, rest, &mut turns);
            (data, rest) = finish(&mut mpi, &mut turns);
            each.push(start.elapsed());
        }
        let bytes = written().unwrap_or(0) - bytes;
        turns.sort_unstable();
        each.sort_unstable();
        if rank == 0 {
            let at =
                |part: f64| turns[((turns.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
            let median = each[each.len() / 2].as_secs_f64() * 1e3;
            println!(
                "{wire}: {median:.1} ms a sum; turns of the pump: {} of them, median {:.3} ms, 90 % below \
                 {:.3}, 99 % below {:.3}, longest {:.3}; {:.1} MB written to sockets a sum",
                turns.len(),
                at(0.5),
                at(0.9),
                at(0.99),
                at(1.0),
                bytes as f64 / SUMS as f64 / 1e6
            );
            let mut from = 0.0;
            for to in [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, f64::INFINITY] {
                let inside = |turn: &&Duration| (from..to).contains(&(turn.as_secs_f64() * 1e3));
                let count = turns.iter().filter(inside).count();
                println!(
                    "    {from:>5} ms and more: {count:>6}  {}",
                    "#".repeat(count * 60 / turns.len())
                );
                from = to;
            }
        }
        mpi.beat(&Beat::Alive).unwrap();
    }
    Box::new(mpi).finish().unwrap();
}
