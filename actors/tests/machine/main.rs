//! The whole machine (actors, pump, in-process transport) around fake replicas.

#![allow(clippy::unwrap_used)]

mod not_finite;
#[path = "../quadratic/mod.rs"]
mod quadratic;
#[path = "../suite/mod.rs"]
mod suite;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use caffe_actors::{
    Config, Fault, InProcess, Launch, Mode, Origin, RunReport, Schedule, Wire, run,
};
use quadratic::told::Told;
use quadratic::{Behaviour, Trouble, bare_loop, factories};

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
fn a_wish_at_a_drained_point_repeats_nothing() {
    for (mode, workers) in [(Mode::Sync, &[1][..]), (Mode::Hogwild, &[2, 1]), (SSP, &[1, 1])] {
        let config = config(mode, 4);
        config.requests.snapshot();
        let behaviour = Behaviour::default();
        let (_, told) = succeed(&config, workers, &behaviour);
        let lines = told.lines();
        let tests = lines.iter().filter(|line| line.starts_with("tested")).count();
        assert_eq!(tests, 1, "{lines:?}");
        let snapshots: Vec<u64> =
            behaviour.log.with(|seen| seen.snapshots.iter().map(|one| one.iter).collect());
        assert_eq!(snapshots, [0, 4], "{mode}");
    }
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
fn sync_of_replicas_equals_one_replica_with_iter_size() {
    // The mean over 4 replicas of 1 batch = (the sum over 4 batches) ÷ 4, with a quarter rate.
    let behaviour = Behaviour::default();
    let (_, told) = succeed(&config(Mode::Sync, 12), &[2, 2], &behaviour);
    let lines = told.lines();
    assert!(lines.iter().any(|line| line.starts_with("display 10 ")), "{lines:?}");
    let mean = |tickets: std::ops::Range<u64>| -> f32 {
        let sum: f32 = tickets.map(|q| quadratic::target(q, 3)).sum();
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
            let mean = (0..180).map(|q| quadratic::target(q, i)).sum::<f32>() / 180.0;
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
    let troubles = vec![Trouble::Slow { replica: 2, millis: 12 }];
    let behaviour = Behaviour { compute: 4, troubles, ..Behaviour::default() };
    let (reports, _) = succeed(&config, &[2, 1], &behaviour);
    let (fast, slow) = (&reports[0].steps, reports[1].steps[0]);
    assert!(slow * 2 < fast[0].min(fast[1]), "{fast:?} {slow}");
}

#[test]
fn everything_happens_in_caffes_order() {
    for (mode, workers) in [
        (Mode::Sync, &[1][..]),
        (Mode::Sync, &[2, 1]),
        (Mode::Hogwild, &[1, 2]),
        (SSP, &[2, 1]),
        (LOCAL, &[1, 2]),
    ] {
        let behaviour = Behaviour::default();
        let (_, told) = succeed(&config(mode, 15), workers, &behaviour);
        let lines: Vec<String> = told
            .lines()
            .iter()
            .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
            .collect();
        let order: Vec<&str> = lines
            .iter()
            .map(String::as_str)
            .filter(|line| !line.starts_with("display") && !line.starts_with("warning"))
            .collect();
        let expected = [
            "started 0",
            "testing 0",
            "tested 0",
            "testing 6",
            "tested 6",
            "snapshot 9",
            "testing 12",
            "tested 12",
            "snapshot 15",
            "finished 15",
        ];
        assert_eq!(order, expected, "{mode} {workers:?}");
        let shown: Vec<&str> =
            lines.iter().map(String::as_str).filter(|line| line.starts_with("display")).collect();
        assert_eq!(shown, ["display 0", "display 5", "display 10", "display 15"]);

        let snapshots = behaviour.log.with(|seen| seen.snapshots.clone());
        let replicas = workers.iter().sum::<usize>();
        assert_eq!(snapshots.len(), 2);
        let written = behaviour.log.with(|seen| seen.written.clone());
        assert_eq!(written, [9, 15], "a job ends when its last snapshot is written");
        assert_eq!((snapshots[0].iter, snapshots[0].ticket), (9, 9 * replicas as u64));
        assert_eq!(snapshots[0].cursors, [10]);
        let streamed = if mode == Mode::Sync { 0 } else { replicas };
        assert_eq!(snapshots[1].replicas, (0..streamed).collect::<Vec<_>>());
    }
}

#[test]
fn test_scores_do_not_depend_on_the_layout() {
    let scores = |workers: &[usize]| {
        let mut config = config(Mode::Sync, 0);
        config.schedule.test_batches = vec![7, 2];
        config.schedule.test_cursors = vec![0, 3];
        let (_, told) = succeed(&config, workers, &Behaviour::default());
        told.lines().into_iter().filter(|line| line.starts_with("tested")).collect::<Vec<_>>()
    };
    let one = scores(&[1]);
    assert_eq!(one.len(), 2);
    assert_eq!(one, scores(&[3]));
    assert_eq!(one, scores(&[2, 1]));
    assert_eq!(one, scores(&[1, 1, 1, 1]));
}

#[test]
fn statistics_are_averaged_when_all_have_drained() {
    let (_, told) = succeed(&config(Mode::Sync, 12), &[2, 1], &Behaviour::default());
    let lines = told.lines();
    // Each replica adds its index once a step: after 6 drained iterations the mean is 6.
    assert!(lines.iter().any(|l| l.starts_with("tested 6 0") && l.ends_with(" 6.0]")), "{lines:?}");
}

#[test]
fn requests_take_effect_on_all_nodes_together() {
    for (mode, workers) in [
        (Mode::Sync, &[1][..]),
        (Mode::Sync, &[1, 2]),
        (Mode::Hogwild, &[2, 1]),
        (SSP, &[1, 2]),
        (LOCAL, &[2, 1]),
    ] {
        let mut config = config(mode, 100_000);
        config.schedule.test_interval = 0;
        config.schedule.snapshot = 0;
        let requests = config.requests.clone();
        let asker = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(150));
            requests.snapshot();
            std::thread::sleep(Duration::from_millis(150));
            requests.stop();
        });
        let behaviour = Behaviour { compute: 1, ..Behaviour::default() };
        let (reports, told) = succeed(&config, workers, &behaviour);
        asker.join().unwrap();
        assert!(reports.iter().all(|r| r.stopped_early && r.iter == reports[0].iter));
        let snapshots = behaviour.log.with(|seen| seen.snapshots.clone());
        assert_eq!(snapshots.len(), 2, "{mode} {workers:?} {snapshots:?}");
        assert!(snapshots[0].iter < snapshots[1].iter && snapshots[1].iter == reports[0].iter);
        assert!(told.lines().contains(&format!("stopped {}", reports[0].iter)));
    }
}

fn fail(workers: &[usize], trouble: Trouble, mode: Mode) -> (Vec<Fault>, Vec<Told>) {
    let behaviour = Behaviour { troubles: vec![trouble], compute: 1, ..Behaviour::default() };
    let start = Instant::now();
    let (reports, told) = job(&config(mode, 1000), workers, &behaviour);
    assert!(start.elapsed() < Duration::from_secs(8), "took {:?}", start.elapsed());
    (reports.into_iter().map(Result::unwrap_err).collect(), told)
}

#[test]
fn a_panic_ends_all_nodes_with_place_and_cause() {
    for mode in ALL {
        let (faults, told) = fail(&[2, 1, 1], Trouble::Panic { rank: 1, iter: 3 }, mode);
        for (rank, fault) in faults.iter().enumerate() {
            assert_eq!((fault.rank, &*fault.actor), (1, "device 0"));
            assert!(fault.iter.is_some_and(|iter| iter >= 3), "{fault}");
            assert_eq!(&*fault.doing, "forward");
            assert!(fault.cause.contains("index out of bounds in layer conv1"), "{fault}");
            assert!(fault.cause.contains("mod.rs:"), "{fault}");
            assert_eq!(fault.origin, if rank == 1 { Origin::Own } else { Origin::Remote });
            let lines = told[rank].lines();
            assert_eq!(lines.iter().filter(|line| line.starts_with("fault")).count(), 1);
        }
    }
}

#[test]
fn an_error_of_any_actor_ends_all_nodes() {
    let (faults, _) = fail(&[1, 1], Trouble::Error { rank: 1, iter: 2 }, Mode::Sync);
    assert!(faults.iter().all(|f| f.rank == 1 && &*f.cause == "loss is NaN"), "{faults:?}");
    let (faults, _) = fail(&[1, 1], Trouble::Build { rank: 1 }, Mode::Hogwild);
    assert!(faults.iter().all(|f| f.rank == 1 && &*f.cause == "no such device"), "{faults:?}");
    let (faults, _) = fail(&[1, 2], Trouble::Reader { rank: 0, ticket: 9 }, Mode::Hogwild);
    for fault in &faults {
        assert_eq!((fault.rank, &*fault.actor, &*fault.doing), (0, "reader 0", "read"));
        assert!(fault.cause.contains("checksum mismatch"), "{fault}");
    }
    let (faults, _) = fail(&[1], Trouble::Panic { rank: 0, iter: 2 }, Mode::Sync);
    assert_eq!(faults[0].iter, Some(2));
    assert_eq!(&*faults[0].doing, "forward");
}

#[test]
fn a_stuck_device_does_not_hold_up_the_end() {
    let troubles = vec![Trouble::Stuck { rank: 0, iter: 1 }, Trouble::Error { rank: 1, iter: 1 }];
    let behaviour = Behaviour { troubles, ..Behaviour::default() };
    let start = Instant::now();
    let (reports, _) = job(&config(Mode::Sync, 10), &[1, 1], &behaviour);
    assert!(start.elapsed() < Duration::from_secs(8));
    assert!(reports.iter().all(|report| report.as_ref().is_err_and(|f| f.rank == 1)));
}

#[test]
fn ranks_that_differ_are_named() {
    let (faults, told) = fail(&[1, 1, 1], Trouble::OtherNet { rank: 2 }, Mode::Sync);
    assert!(faults.iter().all(|f| f.rank == 2 && f.origin == Origin::Agreed), "{faults:?}");
    let said = |told: &Told| told.lines().iter().any(|line| line.starts_with("fault"));
    assert!(said(&told[0]) && !said(&told[1]) && !said(&told[2]));

    let behaviour =
        Behaviour { troubles: vec![Trouble::BitFlip { rank: 1 }], ..Behaviour::default() };
    let (reports, _) = job(&config(Mode::Sync, 4), &[1, 1], &behaviour);
    for report in reports {
        let fault = report.unwrap_err();
        assert!(fault.rank == 1 && fault.cause.contains("bit for bit"), "{fault}");
    }

    let nodes = InProcess::nodes(2).into_iter().enumerate().map(|(rank, node)| {
        let mut config = config(Mode::Sync, 4);
        config.launch = Launch::InProcess(node);
        config.identities =
            vec![caffe_actors::Identity { what: "the solver file".into(), hash: rank as u64 }];
        let factories = factories(&Behaviour { tests: 1, ..Behaviour::default() });
        std::thread::spawn(move || run(config, factories, Box::new(Told::default())))
    });
    for thread in nodes.collect::<Vec<_>>() {
        let fault = thread.join().unwrap().unwrap_err();
        assert!(fault.rank == 1 && fault.cause.contains("in the solver file"), "{fault}");
    }
}

#[test]
fn the_trace_is_complete_after_an_end_and_after_a_fault() {
    for trouble in [vec![], vec![Trouble::Panic { rank: 1, iter: 3 }]] {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(Mode::Sync, 10);
        config.trace = Some(dir.path().to_owned());
        let behaviour = Behaviour { troubles: trouble, ..Behaviour::default() };
        job(&config, &[1, 1], &behaviour);
        for rank in 0..2 {
            let path = dir.path().join(format!("trace-rank-{rank}.json"));
            let text = std::fs::read_to_string(path).unwrap();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            let events = json["traceEvents"].as_array().unwrap();
            for name in ["read", "compute", "forward", "aggregate", "exchange 0", "update"] {
                assert!(events.iter().any(|e| e["name"] == name), "no {name} on rank {rank}");
            }
            let lanes: Vec<_> = events.iter().filter(|e| e["name"] == "thread_name").collect();
            assert!(lanes.len() >= 4);
        }
    }
}
