//! Real ranks under `mpirun`: equality, and the ends that must not hang.
//!
//! Starts the example `quadratic`, which cargo builds with the tests, with the `mpirun` of the MPI
//! that it was built with ($MPIRUN, or the one beside $MPICC, or `mpirun`). Skipped, with a line that says so, where
//! there is none.

#![cfg(feature = "mpi")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod quadratic;
mod suite;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The job must have ended by then.
const SOON: Duration = Duration::from_secs(10);

fn example() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(|deps| deps.parent()).unwrap();
    let program = profile.join("examples").join("quadratic");
    // `cargo test --test mpi` alone does not build it.
    assert!(program.exists(), "build the example `quadratic` first, in the profile of this test");
    program
}

/// The launcher that fits the build: $MPIRUN, or the one that goes by $MPICC's suffix.
fn launcher() -> String {
    let fitting = || Some(std::env::var("MPICC").ok()?.replace("mpicc", "mpirun"));
    std::env::var("MPIRUN").ok().or_else(fitting).unwrap_or_else(|| "mpirun".into())
}

/// Name of its MPI; empty when there is no launcher.
fn library() -> String {
    let output = Command::new(launcher()).arg("--version").stderr(Stdio::null()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    match text {
        Ok(text) if text.contains("Open MPI") => "Open MPI".into(),
        Ok(text) if text.contains("HYDRA") => "MPICH".into(),
        Ok(_) => "MPI".into(),
        Err(_) => String::new(),
    }
}

/// A line in the log of the tests, whether they pass or not: standard error itself is not captured.
fn tell(text: &str) {
    let mut log = std::io::stderr();
    writeln!(log, "{text}").unwrap();
}

fn mpirun(ranks: usize, arguments: &[&str]) -> Option<Command> {
    let library = library();
    if library.is_empty() {
        tell(&format!("skipped: no {} on this machine", launcher()));
        return None;
    }
    let mut command = Command::new(launcher());
    command.args(["-n", &ranks.to_string()]);
    if library == "Open MPI" {
        command.args(["--oversubscribe", "--bind-to", "none"]);
    }
    command
        .arg(example())
        .args(arguments)
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Some(command)
}

/// Runs to the end, or kills it after a while: a hang is a failure, not a stuck test.
fn finish(mut child: Child, within: Duration) -> (Output, Duration) {
    let start = Instant::now();
    let read = |stream: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            stream.unwrap().read_to_end(&mut text).unwrap();
            text
        })
    };
    let stdout = read(child.stdout.take().map(|s| Box::new(s) as Box<dyn Read + Send>));
    let stderr = read(child.stderr.take().map(|s| Box::new(s) as Box<dyn Read + Send>));
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > within {
            child.kill().unwrap();
            panic!("mpirun was still running after {within:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let took = start.elapsed();
    (Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }, took)
}

fn run(ranks: usize, arguments: &[&str], within: Duration) -> Option<(bool, String, Duration)> {
    let child = mpirun(ranks, arguments)?.spawn().unwrap();
    let (output, took) = finish(child, within);
    let text =
        [output.stdout, output.stderr].map(|part| String::from_utf8_lossy(&part).into_owned());
    Some((output.status.success(), text.concat(), took))
}

/// The suite that `tests/machine` runs in one process.
#[test]
fn the_suite_holds_over_mpi() {
    let cases = suite::cases();
    let (start, number) = (Instant::now(), cases.len());
    for case in &cases {
        let ranks = case.workers.len();
        let argument = format!("case={}", case.name);
        let Some((success, text, _)) = run(ranks, &[&argument], Duration::from_secs(60)) else {
            return;
        };
        assert!(success, "{}: {text}", case.name);
        let mut ended: Vec<_> = text.lines().filter_map(suite::Ended::parse).collect();
        ended.sort_by_key(|(rank, _)| *rank);
        let ended: Vec<_> = ended.into_iter().map(|(_, ended)| ended).collect();
        assert_eq!(ended.len(), ranks, "{}: {text}", case.name);
        case.check(&ended);
    }
    let seconds = start.elapsed().as_secs();
    tell(&format!("{number} cases over {} with 2, 3 and 4 ranks in {seconds} s", library()));
}

/// `tests/allocations.rs` counts for nodes of one process.
#[test]
fn a_round_over_mpi_allocates_nothing() {
    for (mode, wire) in [
        ("sync", "wire=f32"),
        ("sync", "wire=bf16"),
        ("hogwild", "wire=f32"),
        ("local-sgd", "wire=f32"),
    ] {
        let Some((success, text, _)) = run(2, &["count", mode, wire], Duration::from_secs(60))
        else {
            return;
        };
        assert!(success, "{text}");
        let line = text.lines().find(|line| line.contains("allocations")).unwrap();
        println!("{mode}, {wire}: {line}");
        let count: f64 = line.split_once(' ').unwrap().0.parse().unwrap();
        assert!(count < 0.5, "{mode}, {wire}: {line}");
    }
}

#[test]
fn sync_twice_gives_the_same_bits() {
    for wire in ["wire=f32", "wire=bf16", "wire=fp16"] {
        let mut sums = Vec::new();
        for _ in 0..2 {
            let arguments = ["sync", "workers=2", wire];
            let Some((success, text, _)) = run(3, &arguments, Duration::from_secs(60)) else {
                return;
            };
            assert!(success, "{text}");
            sums.push(
                text.split_once("checksum ").unwrap().1.split(' ').next().unwrap().to_owned(),
            );
        }
        assert_eq!(sums[0], sums[1], "{wire}");
    }
}

fn fails(arguments: &[&str], wanted: &[&str]) {
    for ranks in [2, 3] {
        let mut all = vec!["iters=100000", "compute=2"];
        all.extend(arguments);
        let Some((success, text, took)) = run(ranks, &all, Duration::from_secs(60)) else { return };
        assert!(!success, "{text}");
        assert!(took < SOON, "took {took:?}: {text}");
        for part in wanted {
            assert!(text.contains(part), "no {part:?} in: {text}");
        }
    }
}

#[test]
fn a_panic_in_one_rank_ends_all() {
    let wanted = ["rank 1 (host ", "device ", "iteration 2", "forward", "index out of bounds"];
    fails(&["sync", "panic=1@20"], &wanted);
    fails(&["hogwild", "workers=2", "panic=1@20"], &wanted);
}

#[test]
fn an_error_in_a_reader_ends_all() {
    let wanted = ["rank 0 (host ", "reader 0, iteration", "read: records.ldb: checksum mismatch"];
    fails(&["sync", "reader=0@50"], &wanted);
    fails(&["hogwild", "reader=0@50"], &wanted);
}

#[test]
fn a_stuck_device_elsewhere_does_not_keep_the_job() {
    fails(&["sync", "stuck=0@5", "error=1@5"], &["rank 1 (host ", "loss is NaN"]);
}

#[test]
fn a_rank_with_another_net_is_named() {
    fails(&["sync", "othernet=1"], &["rank 1 (host ", "net or solver differs from rank 0's"]);
}

/// The ranks below a process: MPICH's launcher has one more process between.
fn ranks_below(launcher: u32) -> Vec<u32> {
    let stat = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let parent = |pid: u32| -> Option<u32> {
        stat(pid).rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let below = |pid: u32| {
        std::iter::successors(parent(pid), |pid| parent(*pid)).any(|pid| pid == launcher)
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let mut found: Vec<u32> = all
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| stat(*pid).contains("(quadratic)") && below(*pid))
        .collect();
    found.sort_unstable();
    found
}

/// The processes of a job's ranks, when they have been training for a while.
fn training(mpirun: &Child, ranks: usize) -> Vec<u32> {
    let mut found = Vec::new();
    let start = Instant::now();
    while found.len() < ranks && start.elapsed() < SOON {
        std::thread::sleep(Duration::from_millis(100));
        found = ranks_below(mpirun.id());
    }
    std::thread::sleep(Duration::from_millis(1500));
    found
}

#[test]
fn a_killed_rank_ends_all() {
    for mode in ["sync", "hogwild"] {
        let Some(mut command) = mpirun(3, &[mode, "iters=1000000", "compute=5"]) else { return };
        let child = command.spawn().unwrap();
        let ranks = training(&child, 3);
        let killed = Command::new("kill").args(["-9", &ranks[1].to_string()]).status().unwrap();
        assert!(killed.success());
        let (output, took) = finish(child, Duration::from_secs(60));
        assert!(!output.status.success());
        assert!(took < SOON, "took {took:?}");
        for rank in ranks {
            let stat = std::fs::read_to_string(format!("/proc/{rank}/stat")).unwrap_or_default();
            let gone = stat.is_empty() || stat.contains(") Z ");
            assert!(gone, "rank process {rank} is still there: {stat}");
        }
    }
}

#[test]
fn a_rank_that_stops_answering_is_named_and_ends_the_job() {
    let Some(mut command) = mpirun(3, &["hogwild", "iters=1000000", "compute=5", "stall=1"]) else {
        return;
    };
    let child = command.spawn().unwrap();
    let ranks = training(&child, 3);
    let stopped = Command::new("kill").args(["-STOP", &ranks[1].to_string()]).status().unwrap();
    assert!(stopped.success());
    let (output, took) = finish(child, Duration::from_secs(60));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(took < 2 * SOON, "took {took:?}");
    assert!(text.contains("rank 1 has been silent for 1 s"), "{text}");
    assert!(text.contains("rank 1 (host ") && text.contains("has not been heard for"), "{text}");
}

/// Seconds of CPU that a process has used.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

/// All ranks but the slow one do nothing but wait for it, with an exchange open.
#[test]
fn a_waiting_rank_burns_less_than_a_tenth_of_a_core() {
    for mode in ["sync", "ssp", "local-sgd"] {
        let arguments = [mode, "iters=1000000", "slow=1@400"];
        let Some(mut command) = mpirun(2, &arguments) else { return };
        let child = command.spawn().unwrap();
        let ranks = training(&child, 2);
        let busy = || ranks.iter().map(|rank| cpu_seconds(*rank)).collect::<Vec<f64>>();
        let (start, before) = (Instant::now(), busy());
        std::thread::sleep(Duration::from_secs(4));
        let (seconds, after) = (start.elapsed().as_secs_f64(), busy());
        // Not SIGKILL: the ranks must be ended, too.
        let ended = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(ended.success());
        drop(finish(child, Duration::from_secs(60)));
        let share: Vec<f64> = before.iter().zip(&after).map(|(b, a)| (a - b) / seconds).collect();
        tell(&format!("{mode}, {}: ranks use {share:.3?} of a core while one is slow", library()));
        assert!(share.iter().all(|share| *share < 0.1), "{mode}: {share:?}");
    }
}

#[test]
fn without_mpirun_mpi_is_not_needed_and_a_single_rank_works() {
    for arguments in [&["sync"][..], &["hogwild", "workers=2"], &["sync", "launch=mpi"]] {
        if arguments.contains(&"launch=mpi") && mpirun(1, &[]).is_none() {
            return;
        }
        let output = Command::new(example())
            .args(arguments)
            .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
            .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("rank 0 finished 40"), "{text}");
        let transport = if arguments.contains(&"launch=mpi") { "M" } else { "solo" };
        assert!(text.contains(transport), "{text}");
    }
}
