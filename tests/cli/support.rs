//! Running the program, and folders of small inputs for it.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

pub fn caffe() -> Command {
    Command::new(env!("CARGO_BIN_EXE_caffe"))
}

pub fn run<A: AsRef<OsStr>>(args: &[A]) -> Output {
    caffe().args(args).output().unwrap()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command line that has to succeed; returns standard output and the log.
#[track_caller]
pub fn succeeds<A: AsRef<OsStr>>(args: &[A]) -> (String, String) {
    let output = run(args);
    let (out, log) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{log}");
    (out, log)
}

/// Runs a command line that has to fail: code 1 and one E-line. Returns the message.
#[track_caller]
pub fn fails<A: AsRef<OsStr>>(args: &[A]) -> String {
    let output = run(args);
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(log.lines().filter(|l| l.starts_with('E')).count(), 1, "{log}");
    let error = log.lines().skip_while(|l| !l.starts_with('E')).collect::<Vec<_>>().join("\n");
    assert!(error.contains("] "), "{error}");
    error.split_once("] ").map(|(_, message)| message.to_owned()).unwrap_or_default()
}

/// The program under `mpirun`; `None`, with a printed line, where there is none or this build cannot
/// use it.
pub fn mpirun(ranks: usize) -> Option<Command> {
    launched(&format!("mpirun -n {ranks} --oversubscribe --bind-to none"))
}

/// The program started by another one; as [`mpirun`].
pub fn launched(launcher: &str) -> Option<Command> {
    let mut words = launcher.split_whitespace();
    let program = words.next().unwrap();
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there || (program == "mpirun" && !cfg!(feature = "mpi")) {
        println!("skipped: no {program}, or built without MPI");
        return None;
    }
    let mut command = Command::new(program);
    command
        .args(words)
        .arg(caffe().get_program())
        .envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")]);
    Some(command)
}

/// Splits a command line at its spaces.
pub fn line(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

pub struct Folder(pub tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn name(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), content).unwrap();
        self.name(name)
    }

    /// Everything in it, hidden or not.
    pub fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// A pair of idx files: `n` images of 2 × 2, all pixels of image i being i, its label i mod 10.
    pub fn idx(&self, n: u8) -> [String; 2] {
        let mut images = vec![0, 0, 8, 3, 0, 0, 0, n, 0, 0, 0, 2, 0, 0, 0, 2];
        let mut labels = vec![0, 0, 8, 1, 0, 0, 0, n];
        for i in 0..n {
            images.extend([i; 4]);
            labels.push(i % 10);
        }
        [self.write("images", images), self.write("labels", labels)]
    }

    /// A database of `n` such images.
    pub fn database(&self, n: u8) -> String {
        let [images, labels] = self.idx(n);
        let database = self.name("db");
        succeeds(&["convert_mnist_data", "-backend=leveldb", &images, &labels, &database]);
        database
    }
}
