//! A run's numbers for people and programs: the line of speed, `--metrics`, `--tensorboard`,
//! `--prometheus`, `caffe parse_log`; alone and under `mpirun`.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const CAFFE: &str = env!("CARGO_BIN_EXE_caffe");

/// A solver for a small net with a test, on a generated database.
fn solver(folder: &Path, max_iter: usize) -> PathBuf {
    caffe::data::synthetic::write_synthetic(folder, 400, 100, 5).unwrap();
    let data = |phase: &str, set: &str| {
        format!(
            "layer {{ name: 'data' type: 'Data' top: 'data' top: 'label' include {{ phase: {phase} }} \
             data_param {{ source: '{}' batch_size: 20 backend: LEVELDB }} }}",
            folder.join(format!("cifar10_{set}_leveldb")).display()
        )
    };
    let net = data("TRAIN", "train")
        + &data("TEST", "test")
        + "layer { name: 'ip' type: 'InnerProduct' bottom: 'data' top: 'ip' \
           inner_product_param { num_output: 10 weight_filler { type: 'xavier' } } }
           layer { name: 'accuracy' type: 'Accuracy' bottom: 'ip' bottom: 'label' top: 'accuracy' include { phase: TEST } }
           layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }";
    std::fs::write(folder.join("net.prototxt"), net).unwrap();
    let text = format!(
        "net: '{}' base_lr: 0.00001 lr_policy: 'fixed' max_iter: {max_iter} display: 10 test_iter: 2 \
         test_interval: 20 random_seed: 1 snapshot: 30 snapshot_prefix: '{}'",
        folder.join("net.prototxt").display(),
        folder.join("snap").display()
    );
    std::fs::write(folder.join("solver.prototxt"), text).unwrap();
    folder.join("solver.prototxt")
}

fn train(ranks: usize, solver: &Path) -> Command {
    let mut command = match ranks {
        1 => Command::new(CAFFE),
        _ => {
            let mut mpirun = Command::new("mpirun");
            mpirun.args(["-n", &ranks.to_string(), "--oversubscribe", "--bind-to", "none", CAFFE]);
            mpirun
        }
    };
    command
        .envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")])
        .args(["train", "--threads=1", &format!("--solver={}", solver.display())]);
    command
}

fn objects(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of<'a>(all: &'a [Value], event: &str) -> Vec<&'a Value> {
    all.iter().filter(|one| one["event"] == event).collect()
}

#[test]
fn displays_have_speed_and_metrics_have_everything() {
    let folder = tempfile::tempdir().unwrap();
    let solver = solver(folder.path(), 50);
    let metrics = folder.path().join("metrics.jsonl");
    let output = train(1, &solver)
        .args(["--mode=hogwild", "--workers=2", &format!("--metrics={}", metrics.display())])
        .output()
        .unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{log}");

    // The line of speed stands behind Caffe's own lines, and has no word that parsers look for.
    let lines: Vec<&str> = log.lines().collect();
    let speeds: Vec<usize> = (0..lines.len()).filter(|i| lines[*i].contains("] Speed: ")).collect();
    assert_eq!(speeds.len(), 5, "{log}");
    for place in &speeds {
        let line = lines[*place];
        assert!(lines[place - 1].contains(", lr = "), "{log}");
        assert!(line.contains("img/s on 2 replicas") && line.contains("compute"), "{line}");
        for word in ["Iteration", "loss", "lr", "Test", "output"] {
            assert!(!line.contains(word), "{line}");
        }
    }

    everything_is_in(&objects(&metrics));

    // A second run continues the file.
    let again = train(1, &solver).arg(format!("--metrics={}", metrics.display())).output().unwrap();
    assert!(again.status.success());
    assert_eq!(of(&objects(&metrics), "start").len(), 2);
    speeds_are_parsed(folder.path(), &log);
}

/// The objects of a run of 50 iterations on two replicas.
fn everything_is_in(all: &[Value]) {
    assert_eq!(of(all, "start").len(), 1);
    assert_eq!(of(all, "start")[0]["replicas"], 2.0);
    assert_eq!(of(all, "snapshot").len(), 2);
    assert_eq!(of(all, "test").len(), 3);
    assert!(of(all, "test")[0]["outputs"]["accuracy"].is_f64());
    assert_eq!(of(all, "end")[0]["iter"], 50);
    let displays: Vec<&Value> =
        of(all, "display").into_iter().filter(|d| !d["lr"].is_null()).collect();
    assert_eq!(displays.len(), 5);
    for display in &displays {
        let number = |name: &str| display[name].as_f64().unwrap();
        let sum: f64 = ["data_wait", "compute", "comm_exposed", "update"].map(number).iter().sum();
        assert!((sum - 1.0).abs() < 1e-9, "{display}");
        assert!(number("img_per_s") > 0.0 && number("loss") > 0.0);
        assert_eq!(display["replicas"].as_array().unwrap().len(), 2);
        assert!(display["outputs"]["loss"].is_f64(), "{display}");
    }
}

/// `caffe parse_log` has a row for each line of speed.
fn speeds_are_parsed(folder: &Path, log: &str) {
    let path = folder.join("train.log");
    std::fs::write(&path, log).unwrap();
    let output = Command::new(CAFFE).arg("parse_log").arg(&path).arg(folder).output().unwrap();
    assert!(output.status.success());
    let rows = |set: &str| {
        let csv = std::fs::read_to_string(folder.join(format!("train.log.{set}"))).unwrap();
        csv.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!((rows("train").len(), rows("test").len(), rows("speed").len()), (6, 4, 6));
    let head = "NumIters,Seconds,LearningRate,img/s,data wait,compute,comm exposed,update";
    assert_eq!(rows("speed")[0], head);
}

#[test]
#[cfg(feature = "mpi")]
fn rank_0_knows_what_all_ranks_did() {
    if Command::new("mpirun").arg("--version").output().is_err() {
        println!("skipped: no mpirun on this machine");
        return;
    }
    for mode in ["sync", "hogwild"] {
        let folder = tempfile::tempdir().unwrap();
        let solver = solver(folder.path(), 50);
        let metrics = folder.path().join("metrics.jsonl");
        let output = train(2, &solver)
            .args([&format!("--mode={mode}"), &format!("--metrics={}", metrics.display())])
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{log}");
        let all = objects(&metrics);
        assert_eq!(of(&all, "start").len(), 1, "one rank writes");
        let displays = of(&all, "display");
        let mut seen = [0.0; 2];
        for display in displays.iter().filter(|d| d["replicas"].is_array()) {
            let replicas = display["replicas"].as_array().unwrap();
            assert_eq!(replicas.len(), 2);
            for (seen, replica) in seen.iter_mut().zip(replicas) {
                *seen += replica["img_per_s"].as_f64().unwrap();
            }
        }
        assert!(seen.iter().all(|images| *images > 0.0), "{mode}: {seen:?}");
    }
}

const READ_EVENTS: &str = "
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1])
events.Reload()
for tag in sorted(events.Tags()['scalars']):
    points = events.Scalars(tag)
    print(tag, len(points), points[-1].step, points[-1].value, sep='\\t')
";

#[test]
fn tensorboard_opens_the_event_file() {
    let folder = tempfile::tempdir().unwrap();
    let solver = solver(folder.path(), 50);
    let events = folder.path().join("events");
    let output =
        train(1, &solver).arg(format!("--tensorboard={}", events.display())).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file = std::fs::read_dir(&events).unwrap().next().unwrap().unwrap().path();
    assert!(file.file_name().unwrap().to_string_lossy().starts_with("events.out.tfevents."));

    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let known = Command::new(&python).args(["-c", "import tensorboard"]).output();
    if !known.is_ok_and(|output| output.status.success()) {
        println!("skipped: {python} has no tensorboard (PYTHON names another python)");
        return;
    }
    let output = Command::new(&python).args(["-c", READ_EVENTS]).arg(&events).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("{text}");
    for (tag, count, step) in [
        ("train/loss", 6, 50),
        ("train/lr", 5, 40),
        ("train outputs/loss", 5, 40),
        ("test/accuracy", 3, 40),
        ("speed/img_per_s", 5, 40),
        ("time/compute", 5, 40),
    ] {
        let begin = format!("{tag}\t{count}\t{step}\t");
        assert!(text.lines().any(|line| line.starts_with(&begin)), "no {begin:?} in\n{text}");
    }
}

#[test]
fn prometheus_is_served_while_training_and_a_taken_port_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    // A folder of its own: two jobs may not write the same snapshots.
    let elsewhere = tempfile::tempdir().unwrap();
    let other = solver(elsewhere.path(), 10);
    let solver = solver(folder.path(), 1_000_000);
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let mut child = train(1, &solver)
        .arg(format!("--prometheus={port}"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let page = loop {
        assert!(begun.elapsed() < Duration::from_secs(30), "no page");
        let page = get(port);
        if page.contains("caffe_images_per_second") {
            break page;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let second = train(1, &other).arg(format!("--prometheus={port}")).output().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    for name in ["caffe_iteration ", "caffe_loss ", "caffe_time_share{part=\"compute\"} "] {
        assert!(page.contains(name), "no {name} in\n{page}");
    }
    assert_eq!(second.status.code(), Some(1));
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(text.contains("cannot listen on 127.0.0.1:"), "{text}");
}

/// The page, or nothing.
fn get(port: u16) -> String {
    let mut text = String::new();
    if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
        let asked = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        drop(asked.and_then(|()| stream.read_to_string(&mut text)));
    }
    text
}
