//! `caffe doctor` and `caffe trace` on the command line.

use std::process::Command;

use crate::support::{Folder, fails, launched, mpirun, run, text};

fn solver(folder: &Folder, source: &str, prefix: &str) -> String {
    let net = format!(
        "layer {{ name: 'data' type: 'Data' top: 'data' top: 'label' \
         data_param {{ source: '{source}' batch_size: 2 backend: LEVELDB }} }}"
    );
    let net = folder.write("net.prototxt", net);
    let text =
        format!("train_net: '{net}' snapshot: 5 snapshot_prefix: '{prefix}' lr_policy: 'fixed'");
    folder.write("solver.prototxt", text)
}

#[test]
fn doctor_finds_a_good_job_good() {
    let folder = Folder::new();
    let solver = solver(&folder, &folder.database(5), &folder.name("out/snap"));
    let output = run(&["doctor", &format!("--solver={solver}")]);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{out}");
    for what in ["processor", "memory bandwidth", "oneDNN", "HDF5", "MPI", "snapshots"] {
        assert!(out.lines().any(|line| line.contains(what)), "no {what} in\n{out}");
    }
    assert!(out.contains("LevelDB ") && out.contains("2 records read"), "{out}");
    assert!(!out.contains("bad "), "{out}");
}

#[test]
fn doctor_names_what_is_bad_with_the_fix() {
    let folder = Folder::new();
    let solver = solver(&folder, &folder.name("nowhere"), "/proc/none/snap");
    let output = run(&["doctor", &format!("--solver={solver}")]);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{out}");
    let bad: Vec<&str> = out.lines().filter(|line| line.starts_with("bad ")).collect();
    assert_eq!(bad.len(), 2, "{out}");
    assert!(bad[0].contains("nowhere") && bad[1].contains("snapshot_prefix"), "{out}");
    let fixes = out.lines().filter(|line| line.trim_start().starts_with('→')).count();
    assert!(fixes >= 2, "{out}");
}

#[test]
fn doctor_looks_at_ranks_clocks_and_link() {
    let Some(mut command) = mpirun(2) else { return };
    let output = command.arg("doctor").output().unwrap();
    let out = text(&output.stdout);
    println!("{out}");
    assert!(output.status.success(), "{out}{}", text(&output.stderr));
    for part in ["threads: ", "ranks", "clocks", "rank 1 ", "GB/s (sums over all ranks)"] {
        assert!(out.contains(part), "no {part} in\n{out}");
    }
}

/// What `doctor` prints; `None`, with a printed line, on a machine of one core.
fn unpinned() -> Option<String> {
    let out = text(&run(&["doctor"]).stdout);
    if out.contains(" 1 open to this process") {
        println!("skipped: one core");
        return None;
    }
    assert!(!out.contains("pinned to one core"), "{out}");
    Some(out)
}

#[test]
fn doctor_warns_of_a_process_that_is_pinned_to_one_core() {
    let own = Command::new("taskset").args(["-cp", &std::process::id().to_string()]).output();
    let Ok(own) = own else {
        println!("skipped: no taskset");
        return;
    };
    if unpinned().is_none() {
        return;
    }
    // "pid 123's current affinity list: 0-3": the first of those that this process may use.
    let list = text(&own.stdout);
    let first = list.rsplit(": ").next().unwrap().split(['-', ',']).next().unwrap().trim();
    let mut command = launched(&format!("taskset -c {first}")).unwrap();
    let output = command.arg("doctor").output().unwrap();
    let out = text(&output.stdout);
    assert!(output.status.success(), "a warning is no failure: {out}");
    let warning = out.lines().position(|l| l.starts_with("warn  binding")).expect(&out);
    let (said, fix) = (out.lines().nth(warning).unwrap(), out.lines().nth(warning + 1).unwrap());
    assert!(said.contains(" 1 open to this process"), "{out}");
    assert!(said.contains("pinned to one core"), "{out}");
    assert!(fix.contains("taskset") && fix.contains("--cpus-per-task"), "{out}");
}

#[test]
fn doctor_warns_of_the_binding_that_open_mpi_gives_to_one_rank() {
    let Some(mut command) = launched("mpirun -n 1") else { return };
    let mut nproc = Command::new("mpirun");
    nproc.args(["-n", "1", "env", "-u", "OMP_NUM_THREADS", "nproc"]);
    nproc.envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")]);
    let bound = text(&nproc.output().unwrap().stdout);
    if unpinned().is_none() || bound.trim() != "1" {
        println!("skipped: this mpirun leaves a rank {} hardware threads", bound.trim());
        return;
    }
    let out = text(&command.arg("doctor").output().unwrap().stdout);
    assert!(out.contains("warn  binding") && out.contains("mpirun --bind-to none"), "{out}");
}

#[test]
fn trace_says_what_it_needs() {
    let folder = Folder::new();
    let message = fails(&["trace", "report", &folder.name("")]);
    assert!(message.contains("holds no trace-rank-N.json"), "{message}");
    let message = fails(&["trace", "merge", &folder.name("")]);
    assert!(message.contains("-o FILE"), "{message}");
    let file = folder.write("trace-rank-0.json", "{\"traceEvents\": []}");
    let message = fails(&["trace", "plot", &file, &folder.name("picture.gif")]);
    assert!(message.contains(".svg"), "{message}");
    let message = fails(&["trace", "report", &file]);
    assert!(message.contains("does not say which rank"), "{message}");
}
