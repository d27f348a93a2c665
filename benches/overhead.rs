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

use caffe::data::{Backend, Reading};
use caffe::device::cpu::threads::{Waiting, set_openmp_defaults};
use caffe::log::Log;
use caffe::solver::{Feeds, NetPlans, Silent, Solver, SolverOptions, train};
use caffe::trainer::{Mode, Options};
use caffe_proto::solver_from_file;

const THREADS: usize = 2;

fn bare(solver: &Path) {
    let param = solver_from_file(solver).unwrap().solver;
    let nets = NetPlans::read(&param, 0, &[]).unwrap();
    let options = SolverOptions { threads: THREADS, exact: false, seed: 1 };
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

/// cifar10_quick without tests and snapshots, on a generated set.
fn prepare(folder: &Path, iterations: usize) -> std::path::PathBuf {
    caffe::data::synthetic::write_synthetic(folder, 2000, 100, 1).unwrap();
    let database = folder.join("cifar10_train_leveldb");
    caffe::data::convert::compute_mean(&database, Backend::LevelDb)
        .unwrap()
        .0
        .write(&folder.join("mean"))
        .unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/cifar10");
    let net = std::fs::read_to_string(root.join("cifar10_quick_train_test.prototxt")).unwrap();
    let net = net
        .replace("examples/cifar10/cifar10_train_leveldb", &database.display().to_string())
        .replace("examples/cifar10/mean.binaryproto", &folder.join("mean").display().to_string());
    std::fs::write(folder.join("net.prototxt"), net).unwrap();
    let solver = format!(
        "net: '{}' base_lr: 0.001 momentum: 0.9 weight_decay: 0.004 lr_policy: 'fixed' \
         max_iter: {iterations} random_seed: 1 snapshot_after_train: false snapshot_prefix: '{}'",
        folder.join("net.prototxt").display(),
        folder.join("out").display()
    );
    std::fs::write(folder.join("solver.prototxt"), solver).unwrap();
    folder.join("solver.prototxt")
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
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
