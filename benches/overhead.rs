//! What the actors cost: cifar10_quick b100 with one replica through reader, device and communicator
//! actors, against the bare solver loop on one thread of control, in turn, in one process.
//!
//! ```text
//! cargo bench --bench overhead [-- ROUNDS ITERATIONS]
//! ```
//! Prints milliseconds per iteration of both, medians over the rounds, and their ratio. Both read a
//! generated LevelDB; both times include building the net.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Instant;

use caffe::data::Reading;
use caffe::device::cpu::threads::{Waiting, set_openmp_defaults};
use caffe::log::Log;
use caffe::solver::{Feeds, NetPlans, Silent, Solver, SolverOptions, train};
use caffe::trainer::{Mode, Options};
use caffe_proto::solver_from_file;

mod quick;

use quick::{median, prepare};

const THREADS: usize = 2;

fn bare(solver: &Path) {
    let param = solver_from_file(solver).unwrap().solver;
    let nets = NetPlans::read(&param, 0, &[]).unwrap();
    let options = SolverOptions::new(THREADS, 1);
    let mut solver = Solver::new(&param, &nets, &options).unwrap();
    let mut feeds = Feeds::open(&nets, Reading::new(1)).unwrap();
    train(&mut solver, &mut feeds, 0, &mut Silent).unwrap();
}

fn actors(solver: &Path) {
    let mut options = Options::new(solver);
    options.mode = Mode::Hogwild;
    options.threads = THREADS;
    caffe::trainer::run(&options, &Log::quiet()).unwrap();
}

fn main() {
    set_openmp_defaults(Waiting::Sleep);
    let numbers: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let (rounds, iterations) = match numbers[..] {
        [rounds, iterations, ..] => (rounds, iterations),
        _ => (5, 200),
    };
    let folder = tempfile::tempdir().unwrap();
    let solver = prepare(folder.path(), iterations);
    let time = |run: &dyn Fn(&Path)| {
        let begun = Instant::now();
        run(&solver);
        begun.elapsed().as_secs_f64() * 1e3 / iterations as f64
    };
    time(&bare);
    let pairs: Vec<(f64, f64)> = (0..rounds).map(|_| (time(&bare), time(&actors))).collect();
    for (bare, actors) in &pairs {
        println!("bare {bare:.2} ms, actors {actors:.2} ms, ratio {:.4}", actors / bare);
    }
    let bare = median(pairs.iter().map(|p| p.0).collect());
    let actors = median(pairs.iter().map(|p| p.1).collect());
    let ratio = median(pairs.iter().map(|p| p.1 / p.0).collect());
    println!(
        "cifar10_quick b100, {THREADS} threads, medians of {rounds} rounds of {iterations} iterations: \
         bare loop {bare:.2} ms, through the actors {actors:.2} ms, ratio {ratio:.4}"
    );
}
