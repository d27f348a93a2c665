//! The whole machine (actors, pump, in-process transport) around fake replicas.
//!
//! Here: what the modes promise. `course`: what happens when, `faults`: how a job ends that cannot go
//! on, `not_finite`: updates that are dropped, and the way back to a snapshot.

#![allow(clippy::unwrap_used)]

mod course;
mod faults;
mod not_finite;
#[path = "../quadratic/mod.rs"]
mod quadratic;
#[path = "../suite/mod.rs"]
mod suite;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use caffe_actors::{Config, Fault, InProcess, Launch, Mode, RunReport, Schedule, Wire, run};
use quadratic::told::Told;
use quadratic::{Behaviour, Team, Trouble, bare_loop, factories};

const SSP: Mode = Mode::Ssp { staleness: 1 };
const LOCAL: Mode = Mode::LocalSgd { every: 4 };
const ALL: [Mode; 4] = [Mode::Sync, Mode::Hogwild, SSP, LOCAL];

fn schedule(iters: u64) -> Schedule {
    Schedule {
        max_iter: iters,
        display: 5,
        average_loss: 2,
        test_interval: 6,
        test_batches: vec![5],
        test_cursors: vec![0],
        snapshot: 9,
        ..Schedule::default()
    }
}

fn config(mode: Mode, iters: u64) -> Config {
    Config {
        launch: Launch::Solo,
        owns_process: false,
        stall_warning: Duration::from_secs(5),
        ..Config::new(mode, schedule(iters))
    }
}

type Outcome = (Vec<Result<RunReport, Fault>>, Vec<Told>);

/// Runs one node per entry of `workers`, each on its own thread.
fn job(config: &Config, workers: &[usize], behaviour: &Behaviour) -> Outcome {
    let behaviour = Behaviour { tests: config.schedule.test_batches.len(), ..behaviour.clone() };
    let told: Vec<Told> = workers.iter().map(|_| Told::default()).collect();
    let threads: Vec<_> = InProcess::nodes(workers.len())
        .into_iter()
        .zip(workers)
        .zip(&told)
        .map(|((node, devices), told)| {
            let config = Config {
                threads: vec![1; *devices],
                launch: Launch::InProcess(node),
                ..config.clone()
            };
            let (factories, told) = (factories(&behaviour), told.clone());
            std::thread::spawn(move || run(config, factories, Box::new(told)))
        })
        .collect();
    let reports = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    (reports, told)
}

fn succeed(config: &Config, workers: &[usize], behaviour: &Behaviour) -> (Vec<RunReport>, Told) {
    let (reports, told) = job(config, workers, behaviour);
    let reports = reports.into_iter().map(Result::unwrap).collect();
    (reports, told[0].clone())
}

#[test]
fn one_replica_is_the_bare_loop_bit_for_bit() {
    for mode in ALL {
        for iter_size in [1, 3] {
            let mut config = config(mode, 20);
            config.schedule.iter_size = iter_size;
            let behaviour = Behaviour::default();
            succeed(&config, &[1], &behaviour);
            let machine = behaviour.log.with(|seen| seen.final_weights.clone());
            assert!(bare_loop(&config) == machine, "{mode}, iter_size {iter_size}");
        }
    }
}

#[test]
fn the_machine_adds_little_to_a_step() {
    let mut config = config(Mode::Sync, 2_000);
    config.schedule =
        Schedule { max_iter: 2_000, snapshot_after_train: false, ..Schedule::default() };
    let start = Instant::now();
    bare_loop(&config);
    let bare = start.elapsed() / 2_000;
    let (reports, _) = succeed(&config, &[1], &Behaviour::default());
    let machine = reports[0].wall / 2_000;
    println!("a step: {bare:?} in the bare loop (with reading), {machine:?} through the actors");
    assert!(machine < bare + Duration::from_micros(300), "{bare:?} {machine:?}");
}

#[test]
fn sync_is_reproducible_and_alike_for_any_layout() {
    let mut all = Vec::new();
    for workers in [&[4][..], &[2, 2], &[1, 3], &[1, 1, 1, 1], &[3, 1], &[2, 2]] {
        let behaviour = Behaviour::default();
        let (reports, _) = succeed(&config(Mode::Sync, 20), workers, &behaviour);
        assert!(reports.iter().all(|report| report.checksum == reports[0].checksum));
        let weights = behaviour.log.with(|seen| seen.final_weights.clone());
        all.push((reports[0].checksum, weights));
        let tickets = behaviour.log.with(|seen| seen.tickets.clone());
        assert_eq!(tickets.len(), 80);
        assert_eq!(tickets.into_iter().collect::<BTreeSet<_>>(), (0..80).collect());
    }
    assert_eq!(all[1].0, all[5].0, "the same configuration twice");
    for (_, weights) in &all {
        for (a, b) in weights.iter().zip(&all[0].1) {
            assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} {b}");
        }
    }
}

#[test]
fn gradients_that_devices_have_added_up_count_once() {
    let layouts = [(Mode::Sync, &[3][..]), (Mode::Sync, &[2, 3]), (LOCAL, &[2, 2])];
    for (mode, workers) in layouts {
        let run = |teams| {
            let behaviour = Behaviour { teams, ..Behaviour::default() };
            let (reports, _) = succeed(&config(mode, 12), workers, &behaviour);
            reports[0].checksum
        };
        let teams = workers.iter().map(|&count| Arc::new(Team::new(count))).collect();
        assert_eq!(run(teams), run(Vec::new()), "{mode} {workers:?}");
    }
}

#[test]
fn sync_of_replicas_equals_one_replica_with_iter_size() {
    // The mean over 4 replicas of 1 batch = (the sum over 4 batches) ÷ 4, with a quarter rate.
    let behaviour = Behaviour::default();
    let (_, told) = succeed(&config(Mode::Sync, 12), &[2, 2], &behaviour);
    let lines = told.lines();
    assert!(lines.iter().any(|line| line.starts_with("display 10 ")), "{lines:?}");
    let mean = |tickets: std::ops::Range<u64>| -> f32 {
        let sum: f32 = tickets.map(|q| quadratic::source::target(q, 3)).sum();
        sum / 4.0
    };
    // Element 3, by hand: w ← w − v, v ← ½v + rate·(w − mean target).
    let (mut w, mut v) = (3.0f32, 0.0f32);
    for iter in 0..12u64 {
        let rate = 0.25 / (1.0 + iter as f32 / 64.0);
        v = 0.5 * v + rate * (w - mean(4 * iter..4 * iter + 4));
        w -= v;
    }
    let weights = behaviour.log.with(|seen| seen.final_weights.clone());
    assert!((weights[3] - w).abs() < 1e-5, "{} {w}", weights[3]);
}

#[test]
fn all_nodes_end_bit_identical_and_every_ticket_is_taken_once() {
    for mode in [Mode::Hogwild, SSP, Mode::Ssp { staleness: 0 }, LOCAL] {
        ends_identical(mode);
    }
}

fn ends_identical(mode: Mode) {
    for workers in [&[1, 1][..], &[3], &[2, 1], &[1, 2, 1], &[1, 1, 1, 1]] {
        for iter_size in [1, 2] {
            let mut config = config(mode, 20);
            config.schedule.iter_size = iter_size;
            config.readers = 2;
            let behaviour = Behaviour { compute: 1, ..Behaviour::default() };
            let (reports, _) = succeed(&config, workers, &behaviour);
            assert!(reports.iter().all(|report| report.checksum == reports[0].checksum));
            let replicas = workers.iter().sum::<usize>() as u64;
            let tickets = behaviour.log.with(|seen| seen.tickets.clone());
            let expected: BTreeSet<u64> = (0..20 * replicas * iter_size as u64).collect();
            assert_eq!(tickets.len(), expected.len(), "{workers:?}");
            assert_eq!(tickets.into_iter().collect::<BTreeSet<_>>(), expected);
            let steps: u64 = reports.iter().flat_map(|report| &report.steps).sum();
            assert_eq!(steps, 20 * replicas);
        }
    }
}

/// The suite that `tests/mpi.rs` runs over real ranks.
#[test]
fn the_suite_holds_in_process() {
    for case in suite::cases() {
        let (mut threads, mut logs) = (Vec::new(), Vec::new());
        for (rank, node) in InProcess::nodes(case.workers.len()).into_iter().enumerate() {
            let launch = Launch::InProcess(node);
            let config = Config { launch, owns_process: false, ..case.config(rank) };
            let behaviour = case.behaviour(rank, &config);
            logs.push(behaviour.log.clone());
            let factories = factories(&behaviour);
            threads.push(std::thread::spawn(move || {
                run(config, factories, Box::new(Told::default()))
            }));
        }
        let reports = threads.into_iter().map(|thread| thread.join().unwrap().unwrap());
        let ended: Vec<suite::Ended> = reports
            .zip(&logs)
            .map(|(report, log)| suite::Ended::new(&report, log.with(|seen| seen.tickets.clone())))
            .collect();
        case.check(&ended);
    }
}

#[test]
fn rounding_changes_little_and_the_same_configuration_gives_the_same_bits() {
    for mode in [Mode::Sync, LOCAL] {
        let weights = |wire| {
            let config = Config { wire, ..config(mode, 30) };
            let behaviour = Behaviour::default();
            succeed(&config, &[1, 2, 1], &behaviour);
            behaviour.log.with(|seen| seen.final_weights.clone())
        };
        let exact = weights(Wire::F32);
        for wire in [Wire::Bf16, Wire::Fp16] {
            let rounded = weights(wire);
            assert!(rounded == weights(wire), "{mode} {wire}: two runs, two results");
            let far = exact.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far > 0.0 && far < 0.02, "{mode} {wire}: {far} from f32");
        }
    }
}

#[test]
fn every_mode_learns() {
    for mode in ALL {
        let config = config(mode, 60);
        let behaviour = Behaviour { compute: 1, ..Behaviour::default() };
        succeed(&config, &[2, 1], &behaviour);
        let weights = behaviour.log.with(|seen| seen.final_weights.clone());
        for i in [0, 3, 999, 39_999] {
            let mean = (0..180).map(|q| quadratic::source::target(q, i)).sum::<f32>() / 180.0;
            assert!((weights[i] - mean).abs() < 0.25, "{mode} {i}: {} for {mean}", weights[i]);
        }
    }
}

#[test]
fn averages_after_every_iteration_are_sync_with_local_histories() {
    // One step from the same weights with the same rate: the average of the nodes' weights is
    // the weight after the mean gradient.
    let weights = |mode| {
        let mut config = config(mode, 1);
        config.schedule.test_interval = 0;
        let behaviour = Behaviour::default();
        succeed(&config, &[2, 1], &behaviour);
        behaviour.log.with(|seen| seen.final_weights.clone())
    };
    let (sync, local) = (weights(Mode::Sync), weights(Mode::LocalSgd { every: 1 }));
    for (a, b) in sync.iter().zip(&local) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
}

#[test]
fn a_straggler_takes_fewer_tickets_in_hogwild() {
    let mut config = config(Mode::Hogwild, 60);
    config.schedule.test_interval = 0;
    config.schedule.snapshot = 0;
    // So slow that a busy machine's delays, which are the same for all, do not hide it.
    let troubles = vec![Trouble::Slow { replica: 2, millis: 40 }];
    let behaviour = Behaviour { compute: 4, troubles, ..Behaviour::default() };
    let (reports, _) = succeed(&config, &[2, 1], &behaviour);
    let (fast, slow) = (&reports[0].steps, reports[1].steps[0]);
    assert!(slow * 2 < fast[0].min(fast[1]), "{fast:?} {slow}");
}
