//! The trainer as its users start it: the real program, alone and under `mpirun`, on a small
//! generated LevelDB. What the modes promise, how faults end, what a snapshot resumes to.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use caffe::data::Reading;
use caffe::solver::{Feeds, NetPlans, Silent, Solver, SolverOptions, train};
use caffe_proto::{NetParameter, model_from_file, solver_from_file};

/// A folder with databases, net and solver.
struct Job {
    folder: tempfile::TempDir,
}

impl Job {
    /// `batch` records per iteration, `max_iter` iterations, more lines for the solver.
    fn new(batch: usize, max_iter: usize, more: &str) -> Job {
        let folder = tempfile::tempdir().unwrap();
        caffe::data::synthetic::write_synthetic(folder.path(), 400, 100, 5).unwrap();
        let job = Job { folder };
        std::fs::write(job.path("net.prototxt"), job.net(batch)).unwrap();
        std::fs::write(job.path("solver.prototxt"), job.solver(max_iter, more)).unwrap();
        job
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn net(&self, batch: usize) -> String {
        let data = |phase: &str, set: &str, batch: usize| {
            let source = self.path(&format!("cifar10_{set}_leveldb"));
            format!(
                "layer {{ name: 'data' type: 'Data' top: 'data' top: 'label' include {{ phase: {phase} }} \
                 transform_param {{ scale: 0.0078125 mirror: {} }} \
                 data_param {{ source: '{}' batch_size: {batch} backend: LEVELDB }} }}\n",
                phase == "TRAIN",
                source.display()
            )
        };
        data("TRAIN", "train", batch)
            + &data("TEST", "test", 25)
            + "layer { name: 'conv' type: 'Convolution' bottom: 'data' top: 'conv' param { lr_mult: 1 } param { lr_mult: 2 } \
               convolution_param { num_output: 8 kernel_size: 5 stride: 2 weight_filler { type: 'xavier' } } }
               layer { name: 'relu' type: 'ReLU' bottom: 'conv' top: 'conv' }
               layer { name: 'pool' type: 'Pooling' bottom: 'conv' top: 'pool' pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
               layer { name: 'drop' type: 'Dropout' bottom: 'pool' top: 'pool' dropout_param { dropout_ratio: 0.2 } }
               layer { name: 'ip' type: 'InnerProduct' bottom: 'pool' top: 'ip' inner_product_param { num_output: 10 weight_filler { type: 'xavier' } } }
               layer { name: 'accuracy' type: 'Accuracy' bottom: 'ip' bottom: 'label' top: 'accuracy' include { phase: TEST } }
               layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }"
    }

    fn solver(&self, max_iter: usize, more: &str) -> String {
        format!(
            "net: '{}' base_lr: 0.05 momentum: 0.9 weight_decay: 0.001 lr_policy: 'fixed' random_seed: 3 \
             max_iter: {max_iter} display: 5 test_iter: 4 test_interval: 10 snapshot_prefix: '{}' solver_mode: CPU {more}",
            self.path("net.prototxt").display(),
            self.path("snap").display()
        )
    }

    /// `caffe train` of this job, under mpirun for more than one rank.
    fn command(&self, ranks: usize, flags: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_caffe");
        let mut command = match ranks {
            1 => Command::new(program),
            _ => {
                let mut mpirun = Command::new("mpirun");
                mpirun.args(["-n", &ranks.to_string(), "--oversubscribe", "--bind-to", "none"]);
                mpirun.arg(program);
                mpirun
            }
        };
        command
            .envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")])
            .arg("train")
            .arg(format!("--solver={}", self.path("solver.prototxt").display()))
            .args(["--threads=1"])
            .args(flags);
        command
    }

    fn run(&self, ranks: usize, flags: &[&str]) -> Output {
        self.command(ranks, flags).output().unwrap()
    }

    /// Runs to a good end and returns the weights of the last snapshot.
    fn weights(&self, ranks: usize, flags: &[&str], iter: usize) -> NetParameter {
        let output = self.run(ranks, flags);
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{ranks} ranks, {flags:?}:\n{log}");
        self.model(iter)
    }

    fn model(&self, iter: usize) -> NetParameter {
        model_from_file(self.path(&format!("snap_iter_{iter}.caffemodel"))).unwrap().0
    }
}

/// Whether `mpirun` is there and this build can use it.
fn mpi() -> bool {
    let there = cfg!(feature = "mpi") && Command::new("mpirun").arg("--version").output().is_ok();
    if !there {
        println!("skipped: no mpirun, or built without MPI");
    }
    there
}

/// Largest difference per blob, relative to the blob's largest weight.
fn apart(a: &NetParameter, b: &NetParameter) -> f32 {
    let blobs = |n: &NetParameter| -> Vec<Vec<f32>> {
        n.layer.iter().flat_map(|l| l.blobs.iter().map(|b| b.data.clone())).collect()
    };
    let (a, b) = (blobs(a), blobs(b));
    assert!(!a.is_empty() && a.len() == b.len());
    let relative = |(x, y): (&Vec<f32>, &Vec<f32>)| {
        let largest = y.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let worst = x.iter().zip(y).fold(0.0f32, |m, (p, q)| m.max((p - q).abs()));
        assert!(worst.is_finite());
        worst / largest.max(1e-30)
    };
    a.iter().zip(&b).map(relative).fold(0.0, f32::max)
}

#[test]
fn one_replica_through_the_actors_is_the_bare_loop() {
    let job = Job::new(32, 20, "");
    let through_actors = job.weights(1, &["--mode=sync"], 20);
    let hogwild = job.weights(1, &["--mode=hogwild"], 20);
    let solver = solver_from_file(job.path("solver.prototxt")).unwrap().solver;
    let nets = NetPlans::read(&solver, 0, &[]).unwrap();
    let options = SolverOptions::new(1, 3);
    let mut bare = Solver::new(&solver, &nets, &options).unwrap();
    let mut feeds = Feeds::open(&nets, Reading::new(3)).unwrap();
    train(&mut bare, &mut feeds, 0, &mut Silent).unwrap();
    let bare = bare.net().to_proto().unwrap();
    assert_eq!(apart(&through_actors, &bare), 0.0);
    assert_eq!(apart(&hogwild, &bare), 0.0);
}

#[test]
fn sync_replicas_compute_what_one_computes() {
    let one = Job::new(32, 20, "");
    let alone = one.weights(1, &["--mode=sync", "--exact"], 20);
    let two_workers =
        one.weights(1, &["--mode=sync", "--exact", "--batch=global", "--workers=2"], 20);
    assert!(apart(&two_workers, &alone) <= 1e-5, "2 workers: {:e}", apart(&two_workers, &alone));
    if !mpi() {
        return;
    }
    let ranks = ["--mode=sync", "--exact", "--batch=global"];
    let two = one.weights(2, &ranks, 20);
    assert!(apart(&two, &alone) <= 1e-5, "2 ranks: {:e}", apart(&two, &alone));
    let again = one.weights(2, &ranks, 20);
    assert_eq!(apart(&two, &again), 0.0, "same configuration, same bits");
    let four = one.weights(2, &["--mode=sync", "--exact", "--batch=global", "--workers=2"], 20);
    assert!(apart(&four, &alone) <= 1e-5, "2 ranks × 2 workers: {:e}", apart(&four, &alone));
}

#[test]
fn hogwild_ends_with_one_set_of_weights() {
    let job = Job::new(16, 30, "");
    let ranks = if mpi() { 2 } else { 1 };
    // The program compares the weights of all replicas itself and fails where they differ.
    let output = job.run(ranks, &["--mode=hogwild", "--workers=2"]);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert!(log.contains(&format!("all {} replica(s) hold weights", 2 * ranks)), "{log}");
    assert!(log.contains("Iteration 30, Testing net (#0)"), "{log}");
}

#[test]
fn a_resumed_sync_run_is_the_undisturbed_one() {
    let job = Job::new(16, 20, "snapshot: 10 type: 'Adam' momentum2: 0.99");
    let straight = job.weights(1, &["--mode=sync", "--workers=2"], 20);
    let state = format!("--snapshot={}", job.path("snap_iter_10.solverstate").display());
    let resumed = job.weights(1, &["--mode=sync", "--workers=2", &state], 20);
    assert_eq!(apart(&resumed, &straight), 0.0);
}

#[test]
fn a_trace_is_written_for_every_rank() {
    let job = Job::new(16, 5, "");
    let trace = job.path("trace");
    let ranks = if mpi() { 2 } else { 1 };
    let output =
        job.run(ranks, &["--mode=sync", "--trace-layers", &format!("--trace={}", trace.display())]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for rank in 0..ranks {
        let text = std::fs::read_to_string(trace.join(format!("trace-rank-{rank}.json"))).unwrap();
        let events: serde_json::Value = serde_json::from_str(&text).unwrap();
        for name in ["read", "forward", "backward", "update", "conv"] {
            assert!(text.contains(&format!("\"name\":\"{name}\"")), "{name} is missing");
        }
        assert!(events.is_array() || events["traceEvents"].is_array());
    }
}

/// Waits for a line of the log; returns what was read.
fn wait_for(child: &mut Child, what: &str) -> std::io::BufReader<std::process::ChildStderr> {
    use std::io::BufRead;
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(what) {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "ended before {what}");
    }
    log
}

/// The ranks of an mpirun, by the parent they have.
fn children(of: u32) -> Vec<i32> {
    let list = Command::new("ps").args(["-o", "pid=", "--ppid", &of.to_string()]).output().unwrap();
    String::from_utf8_lossy(&list.stdout).lines().filter_map(|l| l.trim().parse().ok()).collect()
}

/// Waits for the end and says how long it took.
fn end(mut child: Child) -> (std::process::ExitStatus, Duration) {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return (status, begun.elapsed());
        }
        if begun.elapsed() > Duration::from_secs(30) {
            child.kill().unwrap();
            panic!("the job did not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_killed_rank_ends_the_job_and_leaves_its_snapshots_whole() {
    if !mpi() {
        return;
    }
    let job = Job::new(16, 1_000_000, "snapshot: 10");
    let mut command = job.command(2, &["--mode=sync"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let log = wait_for(&mut child, "Iteration 20 (");
    let rank = children(child.id())[1];
    Command::new("kill").args(["-9", &rank.to_string()]).status().unwrap();
    let drain = std::thread::spawn(move || std::io::read_to_string(log).unwrap());
    let (status, took) = end(child);
    assert!(!status.success());
    assert!(took < Duration::from_secs(10), "{took:?}");
    let said = drain.join().unwrap();
    assert!(said.contains("rank"), "{said}");
    // Whatever snapshot was the last, it loads.
    let last = newest_state(job.folder.path());
    let state = format!("--snapshot={}", last.display());
    let text = std::fs::read_to_string(job.path("solver.prototxt")).unwrap();
    std::fs::write(job.path("solver.prototxt"), text.replace("max_iter: 1000000", "max_iter: 1"))
        .unwrap();
    assert!(job.run(1, &[&state]).status.success());
}

fn newest_state(folder: &Path) -> PathBuf {
    let states = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let iter = |p: &PathBuf| -> Option<u64> {
        p.file_stem()?.to_str()?.strip_prefix("snap_iter_")?.parse().ok()
    };
    states.filter(|p| p.extension().is_some_and(|e| e == "solverstate")).max_by_key(iter).unwrap()
}

#[test]
fn sigint_stops_all_ranks_with_a_snapshot() {
    let ranks = if mpi() { 2 } else { 1 };
    let job = Job::new(16, 1_000_000, "");
    let mut child = job.command(ranks, &["--mode=sync"]).stderr(Stdio::piped()).spawn().unwrap();
    let log = wait_for(&mut child, "Iteration 5 (");
    let target = if ranks == 1 { child.id() as i32 } else { children(child.id())[0] };
    Command::new("kill").args(["-INT", &target.to_string()]).status().unwrap();
    let drain = std::thread::spawn(move || std::io::read_to_string(log).unwrap());
    let (status, _) = end(child);
    let said = drain.join().unwrap();
    assert!(status.success(), "{said}");
    assert!(said.contains("Snapshotting solver state"), "{said}");
    newest_state(job.folder.path());
}

#[test]
fn an_error_in_one_rank_names_it() {
    let ranks = if mpi() { 2 } else { 1 };
    let job = Job::new(16, 50, "");
    // A label that the net has no output for, past the first epoch's start.
    let net = std::fs::read_to_string(job.path("net.prototxt")).unwrap();
    std::fs::write(job.path("net.prototxt"), net.replace("num_output: 10", "num_output: 5"))
        .unwrap();
    let begun = Instant::now();
    let output = job.run(ranks, &["--mode=sync"]);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{log}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(log.contains("label") && log.contains("layer `"), "{log}");
}
