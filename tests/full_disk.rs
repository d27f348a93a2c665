//! Snapshots where the disk is full or may not be written: the run ends with code 1 and one message
//! that names the file, the snapshot before is what it was, and nothing half-written is left.
//!
//! As root a file system of a few megabytes in memory is mounted for it; elsewhere, or where mounting
//! is not allowed, a limit on the size of files stands in.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const NET: &str = "
layer { name: 'in' type: 'DummyData' top: 'data' top: 'label'
        dummy_data_param { shape { dim: 4 dim: 100 } shape { dim: 4 }
                           data_filler { type: 'gaussian' } data_filler { value: 1 } } }
layer { name: 'ip' type: 'InnerProduct' bottom: 'data' top: 'ip'
        inner_product_param { num_output: 500 weight_filler { type: 'xavier' } } }
layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }";

/// Bytes of the small file system; a snapshot (weights and a history) takes 400 KB.
const DISK: &str = "size=2m";

/// A folder that is a file system of its own while this lives.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: &Path) -> Option<Mounted> {
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(at).output();
        mount.is_ok_and(|output| output.status.success()).then(|| Mounted(at.to_owned()))
    }

    fn read_only(&self) {
        let mount = Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0).output().unwrap();
        assert!(mount.status.success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

struct Job {
    folder: tempfile::TempDir,
    snapshots: PathBuf,
}

impl Job {
    fn new() -> Job {
        let folder = tempfile::tempdir().unwrap();
        let snapshots = folder.path().join("snapshots");
        fs::create_dir(&snapshots).unwrap();
        fs::write(folder.path().join("net.prototxt"), NET).unwrap();
        Job { folder, snapshots }
    }

    /// `caffe train` to `max_iter` with a snapshot every five, behind `wrap`.
    fn train(&self, max_iter: u32, format: &str, resume: Option<&Path>, wrap: &[&str]) -> Output {
        let solver = self.folder.path().join("solver.prototxt");
        let text = format!(
            "net: '{}' base_lr: 0.01 lr_policy: 'fixed' momentum: 0.9 max_iter: {max_iter} snapshot: 5 \
             snapshot_prefix: '{}' snapshot_format: {format} solver_mode: CPU",
            self.folder.path().join("net.prototxt").display(),
            self.snapshots.join("snap").display()
        );
        fs::write(&solver, text).unwrap();
        let words = wrap.iter().copied().chain([env!("CARGO_BIN_EXE_caffe"), "train"]);
        let words: Vec<&str> = words.collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg("--threads=1").arg("-solver").arg(solver);
        if let Some(state) = resume {
            command.arg("-snapshot").arg(state);
        }
        command.output().unwrap()
    }

    fn good(&self, max_iter: u32, format: &str, resume: Option<&Path>) {
        let output = self.train(max_iter, format, resume, &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Names and contents of the snapshots' folder.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let entries = fs::read_dir(&self.snapshots).unwrap().map(Result::unwrap);
        let read = |e: fs::DirEntry| {
            (e.file_name().to_string_lossy().into_owned(), fs::read(e.path()).unwrap())
        };
        entries.map(read).collect()
    }
}

/// Code 1 and one error line, which is returned.
#[track_caller]
fn fails(output: &Output) -> String {
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    let errors: Vec<&str> = log.lines().filter(|line| line.starts_with('E')).collect();
    assert_eq!(errors.len(), 1, "{log}");
    errors[0].to_owned()
}

#[test]
fn a_full_disk_ends_the_run_and_spoils_nothing() {
    for (format, ending) in [("BINARYPROTO", ""), ("HDF5", ".h5")] {
        if format == "HDF5" && !cfg!(feature = "hdf5") {
            println!("skipped: built without HDF5");
            continue;
        }
        let job = Job::new();
        let disk = Mounted::new(&job.snapshots);
        job.good(5, format, None);
        let before = job.files();
        let state = job.snapshots.join(format!("snap_iter_5.solverstate{ending}"));
        assert!(state.exists() && before.len() >= 2, "{:?}", before.keys());

        let filling = job.snapshots.join("filling");
        let output = match &disk {
            Some(_) => {
                fill(&filling);
                job.train(10, format, Some(&state), &[])
            }
            None => {
                println!("no file system of our own here: a limit of 100 KB a file stands in");
                let limit = "trap '' XFSZ; ulimit -f 200; exec \"$@\"";
                job.train(10, format, Some(&state), &["sh", "-c", limit, "sh"])
            }
        };
        let message = fails(&output);
        let file = format!("snap_iter_10.caffemodel{ending}");
        let place = job.snapshots.join(&file).display().to_string();
        assert!(message.contains(&place), "{message}");
        let said = ["No space left", "too large"].iter().any(|why| message.contains(why));
        assert!(said, "{message}");
        let _ = fs::remove_file(&filling);
        assert_eq!(job.files().keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
        assert!(job.files() == before, "the snapshot before has changed");
        // With room again the run goes on where it stood.
        job.good(10, format, Some(&state));
        assert!(job.snapshots.join(file).exists());
    }
}

/// Leaves no room for a snapshot.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    let block = [0u8; 4096];
    while file.write_all(&block).is_ok() {}
    // Some 64 KB: files can be begun, but not finished.
    let full = file.metadata().unwrap().len();
    file.set_len(full.saturating_sub(64 << 10)).unwrap();
}

#[test]
fn a_folder_that_may_not_be_written_is_told_before_training() {
    let job = Job::new();
    job.good(5, "BINARYPROTO", None);
    let before = job.files();
    let disk = Mounted::new(&job.snapshots);
    match &disk {
        Some(disk) => disk.read_only(),
        None => fs::set_permissions(&job.snapshots, fs::Permissions::from_mode(0o555)).unwrap(),
    }
    if disk.is_none() && fs::write(job.snapshots.join("probe"), "").is_ok() {
        println!("skipped: root may write anywhere, and mounting is not allowed");
        return;
    }
    let output = job.train(10, "BINARYPROTO", None, &[]);
    let message = fails(&output);
    assert!(message.contains(&job.snapshots.display().to_string()), "{message}");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!log.contains("Iteration 0"), "it was told after training had begun: {log}");
    drop(disk);
    let _ = fs::set_permissions(&job.snapshots, fs::Permissions::from_mode(0o755));
    assert!(job.files() == before);
}
