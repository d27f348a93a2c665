//! `caffe doctor` and `caffe trace` on the command line.

use crate::support::{Folder, fails, run, text};

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
#[cfg(feature = "mpi")]
fn doctor_looks_at_ranks_clocks_and_link() {
    use std::process::Command;
    if Command::new("mpirun").arg("--version").output().is_err() {
        println!("skipped: no mpirun on this machine");
        return;
    }
    let output = Command::new("mpirun")
        .args(["-n", "2", "--oversubscribe", "--bind-to", "none"])
        .arg(crate::support::caffe().get_program())
        .arg("doctor")
        .envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")])
        .output()
        .unwrap();
    let out = text(&output.stdout);
    println!("{out}");
    assert!(output.status.success(), "{out}{}", text(&output.stderr));
    for part in ["threads: ", "ranks", "clocks", "rank 1 ", "GB/s (sums over all ranks)"] {
        assert!(out.contains(part), "no {part} in\n{out}");
    }
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
