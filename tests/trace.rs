//! What `caffe trace` says of runs of which each stage is slowed down in turn: real actors around
//! fake replicas, readers and links in one process; and of a real run under `mpirun`.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../actors/tests/quadratic/mod.rs"]
mod quadratic;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use caffe::tools::trace::analysis::{Analysis, Cause};
use caffe::tools::trace::report::report;
use caffe::tools::trace::{Activity, Trace, merge, picture};
use caffe_actors::{Clock, Config, InProcess, Launch, Link, Mode, Schedule, Silent, run};
use quadratic::{Behaviour, Trouble, factories};

/// Clocks of nodes that started hours apart.
struct Ahead(Instant, Duration);

impl Clock for Ahead {
    fn now(&self) -> Duration {
        self.1 + self.0.elapsed()
    }
}

/// Two nodes, one with two devices; every computation takes 4 ms.
fn traced(
    mode: Mode,
    iters: u64,
    link: Option<Link>,
    troubles: &[Trouble],
) -> (Trace, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let behaviour = Behaviour { compute: 4, troubles: troubles.to_vec(), ..Behaviour::default() };
    let start = Instant::now();
    let threads: Vec<_> = InProcess::nodes(2)
        .into_iter()
        .enumerate()
        .map(|(rank, node)| {
            let snapshot = if troubles.iter().any(is_snapshot) { 10 } else { 0 };
            let schedule = Schedule { max_iter: iters, snapshot, ..Schedule::default() };
            let config = Config {
                threads: vec![1; 2 - rank],
                launch: Launch::InProcess(node),
                link: link.clone(),
                clock: Arc::new(Ahead(start, Duration::from_secs(3000 * rank as u64))),
                owns_process: false,
                trace: Some(folder.path().to_owned()),
                ..Config::new(mode, schedule)
            };
            let factories = factories(&behaviour);
            std::thread::spawn(move || run(config, factories, Box::new(Silent)).unwrap())
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    (Trace::read(&[folder.path().to_owned()]).unwrap(), folder)
}

fn is_snapshot(trouble: &Trouble) -> bool {
    matches!(trouble, Trouble::SlowSnapshot { .. })
}

/// The last line of a run's report.
fn verdict(mode: Mode, iters: u64, link: Option<Link>, troubles: &[Trouble]) -> String {
    let (trace, _folder) = traced(mode, iters, link, troubles);
    let text = report(&trace);
    println!("{text}");
    let last = text.lines().last().unwrap();
    last.strip_prefix("Verdict: ").unwrap().to_owned()
}

/// ssp with a bound so wide that rounds on a busy machine do not reach it.
const MODES: [Mode; 4] =
    [Mode::Sync, Mode::Hogwild, Mode::Ssp { staleness: 10 }, Mode::LocalSgd { every: 5 }];

#[test]
fn nothing_slow_is_bound_by_compute() {
    for mode in MODES {
        let text = verdict(mode, 40, None, &[]);
        assert!(text.starts_with("bound by compute: "), "{mode}: {text}");
    }
}

#[test]
fn a_slow_reader_is_named_with_its_rank() {
    for mode in MODES {
        let text = verdict(mode, 30, None, &[Trouble::SlowReader { rank: 1, millis: 16 }]);
        assert!(text.starts_with("bound by LevelDB reading on rank 1: "), "{mode}: {text}");
    }
}

#[test]
fn a_slow_device_is_named_where_others_wait_for_it() {
    let slow = [Trouble::Slow { replica: 2, millis: 10 }];
    for mode in [Mode::Sync, Mode::LocalSgd { every: 5 }] {
        let text = verdict(mode, 40, None, &slow);
        assert!(
            text.starts_with("bound by the slow replica 2 (rank 1, device 0): "),
            "{mode}: {text}"
        );
        let ratio: f64 =
            text.split(": ").nth(1).unwrap().split('×').next().unwrap().parse().unwrap();
        assert!((1.8..5.0).contains(&ratio), "{mode}: {text}");
    }
    // So slow that its pace, not that of the rounds, holds the others up.
    let very = [Trouble::Slow { replica: 2, millis: 60 }];
    let text = verdict(Mode::Ssp { staleness: 2 }, 40, None, &very);
    assert!(text.starts_with("bound by the slow replica 2 (rank 1, device 0): "), "{text}");
    let text = verdict(Mode::Hogwild, 40, None, &slow);
    assert!(text.starts_with("bound by compute: "), "{text}");
    assert!(text.contains("replica 2 (rank 1, device 0)"), "{text}");
}

#[test]
fn a_slow_link_is_communication() {
    let link = Link { latency: Duration::from_millis(5), ..Link::default() };
    for mode in [Mode::Sync, Mode::LocalSgd { every: 1 }] {
        let text = verdict(mode, 30, Some(link.clone()), &[]);
        assert!(text.starts_with("bound by communication: "), "{mode}: {text}");
    }
    // Rounds go on in the background: devices hold tickets for as long as one takes.
    let text = verdict(Mode::Hogwild, 400, Some(link), &[]);
    assert!(text.starts_with("bound by compute: "), "{text}");
}

#[test]
fn a_slow_update_and_slow_snapshots_are_named() {
    for mode in MODES {
        let text = verdict(mode, 30, None, &[Trouble::SlowUpdate { millis: 8 }]);
        assert!(text.starts_with("bound by the update: "), "{mode}: {text}");
    }
    let text = verdict(Mode::Sync, 30, None, &[Trouble::SlowSnapshot { millis: 150 }]);
    assert!(text.starts_with("bound by snapshots: "), "{text}");
}

#[test]
fn device_time_is_whole_and_on_one_axis() {
    let (trace, folder) = traced(Mode::Sync, 30, None, &[Trouble::Slow { replica: 2, millis: 4 }]);
    let analysis = Analysis::of(&trace).unwrap();
    let window = analysis.window.1 - analysis.window.0;
    assert!(window < 60.0, "clocks an hour apart are not on one axis: {window} s");
    assert_eq!(analysis.iterations, 30);
    for device in &analysis.devices {
        let all = device.seconds(|_| true);
        assert!((all - window).abs() < 1e-6 * window.max(1.0), "{all} of {window}");
        assert_eq!(device.batches.len(), 30);
    }
    assert!(analysis.devices[0].seconds(|cause| cause == Cause::Slow(2)) > 30.0 * 0.002);

    // Whoever computes, computes the same iteration as the others, give or take a clock's error.
    let computes = |rank: usize| {
        let lane = trace.ranks[rank].lanes.iter().find(|lane| lane.title == "device 0").unwrap();
        let spans = lane.spans.iter().filter(|span| span.what == Activity::Compute);
        spans.map(|span| (span.start, span.end)).collect::<Vec<_>>()
    };
    for (a, b) in computes(0).iter().zip(computes(1)) {
        assert!(a.0 < b.1 && b.0 < a.1, "{a:?} {b:?}");
    }

    let merged = folder.path().join("all.json");
    let (ranks, events) = merge::merge(&[folder.path().to_owned()], &merged).unwrap();
    let all: serde_json::Value = serde_json::from_slice(&std::fs::read(&merged).unwrap()).unwrap();
    assert_eq!((ranks, all["traceEvents"].as_array().unwrap().len()), (2, events));
    for name in ["lanes.svg", "lanes.png"] {
        let picture = folder.path().join(name);
        picture::draw(&trace, (0.0, f64::INFINITY), &picture).unwrap();
        assert!(std::fs::metadata(picture).unwrap().len() > 1000);
    }
    let error = Trace::read(&[merged]).unwrap_err().to_string();
    assert!(error.contains("already merged"), "{error}");
    let error = Trace::read(&[PathBuf::from("src")]).unwrap_err().to_string();
    assert!(error.contains("trace-rank-N.json"), "{error}");
}

#[cfg(feature = "mpi")]
mod real {
    use std::path::{Path, PathBuf};
    use std::process::Command;

    /// A solver for a small net on a generated database.
    fn solver(folder: &Path) -> PathBuf {
        caffe::data::synthetic::write_synthetic(folder, 400, 100, 5).unwrap();
        let net = format!(
            "layer {{ name: 'data' type: 'Data' top: 'data' top: 'label' \
             data_param {{ source: '{}' batch_size: 20 backend: LEVELDB }} }}
             layer {{ name: 'conv' type: 'Convolution' bottom: 'data' top: 'conv' \
             convolution_param {{ num_output: 16 kernel_size: 5 weight_filler {{ type: 'xavier' }} }} }}
             layer {{ name: 'ip' type: 'InnerProduct' bottom: 'conv' top: 'ip' \
             inner_product_param {{ num_output: 10 weight_filler {{ type: 'xavier' }} }} }}
             layer {{ name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }}",
            folder.join("cifar10_train_leveldb").display()
        );
        std::fs::write(folder.join("net.prototxt"), net).unwrap();
        let text = format!(
            "net: '{}' base_lr: 0.0001 lr_policy: 'fixed' max_iter: 40 display: 10 random_seed: 1 \
             snapshot_after_train: false snapshot_prefix: '{}'",
            folder.join("net.prototxt").display(),
            folder.join("snap").display()
        );
        std::fs::write(folder.join("solver.prototxt"), text).unwrap();
        folder.join("solver.prototxt")
    }

    #[test]
    fn a_real_run_of_two_ranks_is_reported() {
        if Command::new("mpirun").arg("--version").output().is_err() {
            println!("skipped: no mpirun on this machine");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (solver, trace) = (solver(folder.path()), folder.path().join("trace"));
        let caffe = env!("CARGO_BIN_EXE_caffe");
        let output = Command::new("mpirun")
            .args([
                "-n",
                "2",
                "--oversubscribe",
                "--bind-to",
                "none",
                caffe,
                "train",
                "--mode=sync",
            ])
            .args(["--threads=1", &format!("--solver={}", solver.display())])
            .arg(format!("--trace={}", trace.display()))
            .envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")])
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{log}");

        let output = Command::new(caffe).args(["trace", "report"]).arg(&trace).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        println!("{text}");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for part in [
            "2 ranks, 2 replicas, mode sync",
            "40 iterations",
            "right within",
            "Events lost: none",
            "rank 1 device 0",
            "batches of LevelDB ",
            "Verdict: bound by ",
        ] {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
    }
}
