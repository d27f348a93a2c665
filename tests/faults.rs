//! Faults against the real program, alone and under `mpirun`: what a killed job resumes from, which
//! snapshots stay, what NaN does, ranks that were given different things, signals, black boxes.
//! `scripts/faults.sh` is the long form: the whole table, and hundreds of kills.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A folder with a net over generated images, and solvers for it.
struct Job {
    folder: tempfile::TempDir,
}

impl Job {
    fn new(max_iter: usize, more: &str) -> Job {
        let folder = tempfile::tempdir().unwrap();
        caffe::data::synthetic::write_synthetic(folder.path(), 200, 50, 5).unwrap();
        let job = Job { folder };
        let data = |phase: &str, set: &str| {
            format!(
                "layer {{ name: 'data' type: 'Data' top: 'data' top: 'label' include {{ phase: {phase} }} \
                 transform_param {{ scale: 0.0078125 }} data_param {{ source: '{}' batch_size: 10 backend: LEVELDB }} }}\n",
                job.path(&format!("cifar10_{set}_leveldb")).display()
            )
        };
        let net = data("TRAIN", "train")
            + &data("TEST", "test")
            + "layer { name: 'conv' type: 'Convolution' bottom: 'data' top: 'conv' convolution_param { num_output: 4 kernel_size: 5 stride: 3 weight_filler { type: 'xavier' } } }
               layer { name: 'relu' type: 'ReLU' bottom: 'conv' top: 'conv' }
               layer { name: 'ip' type: 'InnerProduct' bottom: 'conv' top: 'ip' inner_product_param { num_output: 10 weight_filler { type: 'xavier' } } }
               layer { name: 'accuracy' type: 'Accuracy' bottom: 'ip' bottom: 'label' top: 'accuracy' include { phase: TEST } }
               layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }";
        std::fs::write(job.path("net.prototxt"), net).unwrap();
        job.solver("solver.prototxt", "snap", max_iter, more);
        job
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn solver(&self, file: &str, prefix: &str, max_iter: usize, more: &str) {
        let text = format!(
            "net: '{}' base_lr: 0.01 momentum: 0.9 lr_policy: 'fixed' random_seed: 3 max_iter: {max_iter} \
             display: 10 test_iter: 2 test_interval: 10 snapshot_prefix: '{}' {more}",
            self.path("net.prototxt").display(),
            self.path(prefix).display()
        );
        std::fs::write(self.path(file), text).unwrap();
    }

    /// `caffe train SOLVER flags`, under mpirun for more than one rank.
    fn command(&self, solver: &str, ranks: usize, flags: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_caffe");
        let mut command = if ranks == 1 {
            Command::new(program)
        } else {
            let mut mpirun = mpirun(ranks);
            mpirun.arg(program);
            mpirun
        };
        command
            .arg("train")
            .arg(format!("--solver={}", self.path(solver).display()))
            .arg(format!("--blackbox={}", self.path("boxes").display()))
            .args(["--threads=1", "--mode=sync"])
            .args(flags)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    fn log(&self, solver: &str, ranks: usize, flags: &[&str]) -> (bool, String) {
        let output = self.command(solver, ranks, flags).output().unwrap();
        (output.status.success(), text(&output))
    }

    fn model(&self, prefix: &str, iter: usize) -> Vec<u8> {
        std::fs::read(self.path(&format!("{prefix}_iter_{iter}.caffemodel"))).unwrap()
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn mpirun(ranks: usize) -> Command {
    let mut mpirun = Command::new("mpirun");
    mpirun
        .args(["-n", &ranks.to_string(), "--oversubscribe", "--bind-to", "none"])
        .envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")]);
    mpirun
}

/// Two ranks where there is an Open MPI and this build can use it, else one.
fn ranks() -> usize {
    let version = Command::new("mpirun").arg("--version").output();
    let open = version.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("Open MPI"));
    if cfg!(feature = "mpi") && open {
        return 2;
    }
    println!("one rank only: no Open MPI's mpirun, or built without MPI");
    1
}

#[test]
fn killed_anywhere_a_job_goes_on_to_the_weights_of_an_undisturbed_one() {
    let job = Job::new(40, "snapshot: 5");
    let ranks = ranks();
    let (ok, log) = job.log("solver.prototxt", ranks, &["--resume=auto"]);
    assert!(ok && log.contains("found no whole snapshot"), "{log}");
    job.solver("killed.prototxt", "killed", 40, "snapshot: 5");
    // While copying, while writing, while training, and before there is any snapshot.
    for fault in [
        "kill@phase=train,iter=2",
        "kill@phase=write,iter=10",
        "kill@phase=snapshot,iter=15",
        "kill@phase=train,iter=24",
    ] {
        let mut command = job.command("killed.prototxt", ranks, &["--resume=auto"]);
        let output = command.env("CAFFE_FAULT", fault).output().unwrap();
        assert!(!output.status.success(), "{fault}: {}", text(&output));
    }
    let (ok, log) = job.log("killed.prototxt", ranks, &["--resume=auto"]);
    // That of iteration 20, unless it was still being written.
    let resumed = [20, 15].map(|iter| log.contains(&format!("Resuming at iteration {iter}")));
    assert!(ok && resumed.contains(&true), "{log}");
    assert!(job.model("snap", 40) == job.model("killed", 40));
    let left = std::fs::read_dir(job.folder.path()).unwrap();
    let left: Vec<String> = left
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_damaged_snapshot_is_passed_over_by_name() {
    let job = Job::new(20, "snapshot: 5");
    assert!(job.log("solver.prototxt", 1, &[]).0);
    let whole = job.model("snap", 20);
    let damaged = job.path("snap_iter_20.caffemodel");
    std::fs::write(&damaged, &whole[..whole.len() - 9]).unwrap();
    std::fs::remove_file(job.path("snap_iter_15.resume")).unwrap();
    let (ok, log) = job.log("solver.prototxt", 1, &["--resume", "auto"]);
    assert!(ok, "{log}");
    assert!(log.contains("passes over") && log.contains("snap_iter_20.caffemodel: has"), "{log}");
    assert!(log.contains("has no snap_iter_15.resume beside it"), "{log}");
    assert!(log.contains("goes on from") && log.contains("Resuming at iteration 10"), "{log}");
    assert!(job.model("snap", 20) == whole, "the damaged one is written anew");
}

#[test]
fn another_number_of_replicas_resumes_and_says_what_it_changed() {
    let job = Job::new(20, "snapshot: 10");
    assert!(job.log("solver.prototxt", 1, &["--workers=2"]).0);
    std::fs::remove_file(job.path("snap_iter_20.resume")).unwrap();
    let (ok, log) = job.log("solver.prototxt", 1, &["--resume=auto", "--workers=3"]);
    assert!(ok, "{log}");
    assert!(log.contains("the snapshot is of 2 replica(s), this job has 3"), "{log}");
    assert!(log.contains("an iteration has 30 records instead of 20"), "{log}");
}

#[test]
fn the_last_and_the_best_snapshot_stay() {
    let job = Job::new(40, "snapshot: 10 test_compute_loss: true");
    let (ok, log) = job.log("solver.prototxt", 1, &["--keep-last=1", "--keep-best=loss:max"]);
    assert!(ok, "{log}");
    let mark = std::fs::read_to_string(job.path("snap_best.json")).unwrap();
    let mark: serde_json::Value = serde_json::from_str(&mark).unwrap();
    let best = mark["iter"].as_u64().unwrap();
    let mut there: Vec<u64> = std::fs::read_dir(job.folder.path())
        .unwrap()
        .filter_map(|e| {
            let name = e.unwrap().file_name().into_string().unwrap();
            name.strip_prefix("snap_iter_")?.strip_suffix(".resume")?.parse().ok()
        })
        .collect();
    there.sort_unstable();
    let mut wanted = vec![best, 40];
    wanted.dedup();
    assert_eq!(there, wanted);
    let (ok, log) = job.log("solver.prototxt", 1, &["--keep-best=precision"]);
    assert!(!ok && log.contains("there are: accuracy, loss"), "{log}");
}

/// Puts NaN into one record of a float database that takes the place of the train set.
fn poison(job: &Job, record: usize) {
    use caffe::data::{Backend, Writer};
    use caffe_proto::{Datum, Message};
    let path = job.path("float_leveldb");
    let mut writer = Writer::create(&path, Backend::LevelDb).unwrap();
    for i in 0..200 {
        let value = |at: usize| ((i * 31 + at * 7) % 97) as f32 / 97.0 - 0.5;
        let mut float_data: Vec<f32> = (0..3 * 32 * 32).map(value).collect();
        if i == record {
            float_data[100] = f32::NAN;
        }
        let datum = Datum {
            channels: Some(3),
            height: Some(32),
            width: Some(32),
            label: Some((i % 10) as i32),
            float_data,
            ..Datum::default()
        };
        writer.put(format!("{i:05}").as_bytes(), &datum.encode_to_vec()).unwrap();
    }
    writer.finish().unwrap();
    let net = std::fs::read_to_string(job.path("net.prototxt")).unwrap();
    std::fs::write(job.path("net.prototxt"), net.replace("cifar10_train_leveldb", "float_leveldb"))
        .unwrap();
}

#[test]
fn nan_stops_or_is_skipped_or_rolled_back() {
    let ranks = ranks();
    let job = Job::new(16, "snapshot: 5");
    poison(&job, 155);
    // A ReLU lets no NaN pass forward, a TanH does.
    for what in ["a gradient is NaN", "the loss is NaN"] {
        let (ok, log) = job.log("solver.prototxt", ranks, &[]);
        assert!(!ok, "{log}");
        let parts = ["layer `data`", "in record 00155", "rank ", "iteration ", "keys 00150"];
        for part in parts.into_iter().chain([what]) {
            assert!(log.contains(part), "no {part:?} in {log}");
        }
        let net = std::fs::read_to_string(job.path("net.prototxt")).unwrap();
        std::fs::write(job.path("net.prototxt"), net.replace("'ReLU'", "'TanH'")).unwrap();
    }
    for mode in ["--mode=sync", "--mode=hogwild", "--mode=ssp", "--mode=local-sgd"] {
        let flags = ["--on-nan=skip", mode];
        let (ok, log) = job.log("solver.prototxt", ranks, &flags);
        assert!(ok, "{mode}: {log}");
        assert!(log.contains("its update is dropped (--on-nan=skip)"), "{mode}: {log}");
        assert!(log.contains("in record 00155"), "{mode}: {log}");
        let flags = ["--on-nan=rollback", mode];
        let (ok, log) = job.log("solver.prototxt", ranks, &flags);
        assert!(ok, "{mode}: {log}");
        assert!(log.contains("all replicas go back to"), "{mode}: {log}");
    }
    // A gradient that is dropped leaves nothing in what rounding keeps for the next one.
    if ranks > 1 {
        for wire in ["--wire=bf16", "--wire=fp16"] {
            let (ok, log) = job.log("solver.prototxt", ranks, &["--on-nan=skip", wire]);
            assert!(ok && log.matches("its update is dropped").count() == 1, "{wire}: {log}");
        }
    }
    // There is no way back before the first snapshot, and an end to going back.
    job.solver("other.prototxt", "none", 16, "");
    let (ok, log) = job.log("other.prototxt", ranks, &["--on-nan=rollback"]);
    assert!(!ok && log.contains("there is no whole snapshot"), "{log}");
    let (ok, log) = job.log("solver.prototxt", ranks, &["--on-nan=rollback:0"]);
    assert!(!ok && log.contains("went back to a snapshot 0 time(s)"), "{log}");
}

#[test]
fn ranks_that_were_given_something_else_are_named() {
    if ranks() == 1 {
        return;
    }
    let job = Job::new(10, "");
    // Each rank runs in a folder of its own, with the same names in it.
    let solver = std::fs::read_to_string(job.path("solver.prototxt")).unwrap();
    let net = std::fs::read_to_string(job.path("net.prototxt")).unwrap();
    let here = format!("{}/", job.folder.path().display());
    let (solver, net) = (solver.replace(&here, ""), net.replace(&here, ""));
    let folders = ["0", "1"].map(|rank| job.path(rank));
    for folder in &folders {
        std::fs::create_dir(folder).unwrap();
        for set in ["train", "test"] {
            let name = format!("cifar10_{set}_leveldb");
            std::os::unix::fs::symlink(job.path(&name), folder.join(&name)).unwrap();
        }
    }
    let script = format!(
        "#!/bin/sh\ncd {here}$OMPI_COMM_WORLD_RANK && exec {} train --solver=solver.prototxt --threads=1 \
         --mode=sync\n",
        env!("CARGO_BIN_EXE_caffe")
    );
    std::fs::write(job.path("wrapper.sh"), script).unwrap();
    let test_net = net.replace("phase: TEST }", "phase: TEST stage: 'x' }");
    for (what, solver1, net1, train) in [
        ("the solver", solver.replace("momentum: 0.9", "momentum: 0.8"), net.clone(), "train"),
        ("the train net", solver.clone(), test_net.clone(), "train"),
        ("the train data", solver.clone(), net.clone(), "test"),
    ] {
        for (folder, (solver, net)) in folders.iter().zip([(&solver, &net), (&solver1, &net1)]) {
            std::fs::write(folder.join("solver.prototxt"), solver).unwrap();
            std::fs::write(folder.join("net.prototxt"), net).unwrap();
        }
        let link = folders[1].join("cifar10_train_leveldb");
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(job.path(&format!("cifar10_{train}_leveldb")), &link).unwrap();
        let output = mpirun(2).arg("sh").arg(job.path("wrapper.sh")).output().unwrap();
        let log = text(&output);
        assert!(!output.status.success(), "{log}");
        let named = |l: &str| {
            l.contains("rank 1 ")
                && l.contains("differs from rank 0")
                && l.contains(&format!("in {what}"))
        };
        assert!(log.lines().any(named), "{what}: {log}");
    }
}

#[test]
fn a_fault_in_any_phase_ends_the_job_with_one_line_and_leaves_a_black_box() {
    let ranks = ranks();
    let job = Job::new(20, "snapshot: 5");
    let last = ranks - 1;
    let of_last = |kind: &str, phase: &str| format!("{kind}@phase={phase},rank={last}");
    for (fault, wanted) in [
        (of_last("panic", "start"), "injected panic"),
        (of_last("error", "test"), "injected error"),
        (of_last("oom", "train"), "aborted (out of memory?)"),
        (of_last("error", "verify"), "injected error"),
        (
            "error@phase=write,rank=0".to_owned(),
            "writer, iteration 5, write snapshot: injected error",
        ),
        ("panic@phase=snapshot,rank=0".to_owned(), "injected panic"),
    ] {
        let begun = Instant::now();
        let mut command = job.command("solver.prototxt", ranks, &[]);
        let output = command.env("CAFFE_FAULT", &fault).output().unwrap();
        let log = text(&output);
        assert!(!output.status.success(), "{fault}: {log}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{fault}");
        assert!(log.lines().any(|l| l.contains("(host ") && l.contains(wanted)), "{fault}: {log}");
    }
    let boxes = Command::new(env!("CARGO_BIN_EXE_caffe"))
        .args(["blackbox", &job.path("boxes").display().to_string()])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&boxes.stdout);
    assert!(
        told.contains("rank 0 (host ")
            && told.contains("device 0")
            && told.contains("communicator"),
        "{told}"
    );
    assert!(told.contains("compute begins, iteration"), "{told}");
    let before = std::fs::read_dir(job.path("boxes")).unwrap().count();
    assert!(job.log("solver.prototxt", ranks, &[]).0);
    assert_eq!(
        std::fs::read_dir(job.path("boxes")).unwrap().count(),
        before,
        "a good end leaves none"
    );
}

#[test]
fn sigusr1_snapshots_and_sigterm_ends_at_once_with_the_newest_snapshot_named() {
    use std::io::BufRead;
    let job = Job::new(1_000_000, "snapshot: 100");
    let ranks = ranks();
    let mut child = job.command("solver.prototxt", ranks, &[]).spawn().unwrap();
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    let mut wait_for = |what: &str| {
        let mut line = String::new();
        while !line.contains(what) {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "ended before {what}: {said}");
            said.push_str(&line);
        }
        line
    };
    let kill = |signal: &str| {
        Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    };
    wait_for("Iteration 110 (");
    // mpirun passes it on to all ranks.
    kill("-USR1");
    let line = wait_for("Snapshotting to binary proto");
    let iter: u64 =
        line.rsplit_once("_iter_").unwrap().1.split('.').next().unwrap().parse().unwrap();
    assert!(iter > 100, "{line}");
    wait_for("Iteration ");
    kill("-TERM");
    // An mpirun that is ending may not pass on the last line.
    if ranks == 1 {
        wait_for("SIGTERM: ending at once; the newest snapshot is");
    }
    let rest = std::thread::spawn(move || std::io::read_to_string(log).unwrap());
    assert!(!child.wait().unwrap().success());
    rest.join().unwrap();
    job.solver("solver.prototxt", "snap", 1, "snapshot_after_train: false");
    let (ok, log) = job.log("solver.prototxt", 1, &["--resume=auto"]);
    assert!(ok && log.contains("goes on from"), "{log}");
}
