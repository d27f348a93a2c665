//! What seeing costs: cifar10_quick b100 with one replica, trace rings off and on, with `--trace`, and
//! with `--trace-layers`, in turn, in one process.
//!
//! ```text
//! scripts/bench/trace.sh [ROUNDS ITERATIONS]
//! ```
//! Prints milliseconds per iteration of training (wall time of the run, without building nets and
//! writing trace files) and the median over the rounds of each one's ratio to its round's "off". The
//! order within a round turns, so that no variant always runs behind the same other.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use caffe::device::cpu::threads::{Waiting, set_openmp_defaults};
use caffe::log::Log;
use caffe::trainer::Options;

mod quick;

use quick::{median, prepare};

const THREADS: usize = 2;
const VARIANTS: [&str; 4] = ["off", "on (always)", "--trace", "--trace-layers"];

/// Milliseconds per iteration.
fn run(solver: &Path, folder: &Path, variant: usize, iterations: usize) -> f64 {
    let metrics = folder.join("metrics.jsonl");
    let mut options = Options::new(solver);
    options.threads = THREADS;
    options.record = variant > 0;
    options.trace = (variant > 1).then(|| folder.join("trace"));
    options.trace_layers = variant > 2;
    options.metrics = Some(metrics.clone());
    caffe::trainer::run(&options, &Log::quiet()).unwrap();
    let lines = std::fs::read_to_string(&metrics).unwrap();
    std::fs::remove_file(&metrics).unwrap();
    let end: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(end["event"], "end");
    end["wall"].as_f64().unwrap() * 1e3 / iterations as f64
}

fn main() {
    set_openmp_defaults(Waiting::Sleep);
    let numbers: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let (rounds, iterations) = match numbers[..] {
        [rounds, iterations, ..] => (rounds, iterations),
        _ => (9, 200),
    };
    let folder = tempfile::tempdir().unwrap();
    let solver = prepare(folder.path(), iterations);
    run(&solver, folder.path(), 0, iterations);
    let mut times = vec![Vec::new(); VARIANTS.len()];
    for round in 0..rounds {
        let mut of_round = [0.0; VARIANTS.len()];
        for place in 0..VARIANTS.len() {
            let variant = (round + place) % VARIANTS.len();
            of_round[variant] = run(&solver, folder.path(), variant, iterations);
        }
        println!("round {round}: {of_round:.2?} ms");
        for (all, time) in times.iter_mut().zip(of_round) {
            all.push(time);
        }
    }
    println!(
        "cifar10_quick b100, {THREADS} threads, medians of {rounds} rounds of {iterations} iterations:"
    );
    for (name, all) in VARIANTS.iter().zip(&times) {
        let ratios = all.iter().zip(&times[0]).map(|(time, off)| time / off);
        println!(
            "{name:<16} {:8.3} ms an iteration, {:.4} of off",
            median(all.clone()),
            median(ratios.collect())
        );
    }
}
