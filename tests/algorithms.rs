//! One choice of convolution algorithms for a job: its first replica measures, all others compute by what
//! it found, on the same node and on others, and so does a run that resumes. The real program on simulated
//! libraries, whose measured times differ from try to try and which write down what is tried and computed.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use caffe::device::cuda::algorithms::{Direction, Table};
use caffe::snapshot::{Sidecar, SidecarWriter};
use caffe_proto::model_from_file;
use serde_json::{Value, json};

const LAYERS: &str = "
layer { name: 'conv1' type: 'Convolution' bottom: 'data' top: 'conv1'
  convolution_param { num_output: 4 kernel_size: 3 stride: 2 weight_filler { type: 'xavier' } } }
layer { name: 'relu' type: 'ReLU' bottom: 'conv1' top: 'conv1' }
layer { name: 'conv2' type: 'Convolution' bottom: 'conv1' top: 'conv2'
  convolution_param { num_output: 6 kernel_size: 3 group: 2 weight_filler { type: 'xavier' } } }
layer { name: 'ip' type: 'InnerProduct' bottom: 'conv2' top: 'ip'
  inner_product_param { num_output: 10 weight_filler { type: 'xavier' } } }
layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }
";

/// What the net asks for: forward in training and test of both layers, their weights' gradients, and
/// conv2's.
const ASKED: usize = 7;

/// A folder with databases, net and solver.
struct Job {
    folder: tempfile::TempDir,
    environment: Vec<(&'static str, OsString)>,
}

/// Who computed or tried: process and handle of cuDNN.
type Who = (String, String);

/// What the libraries were asked for, by description of the correlation.
#[derive(Default)]
struct Seen {
    tried: BTreeMap<String, Vec<Who>>,
    /// With the algorithms' numbers.
    computed: BTreeMap<String, BTreeSet<(Who, usize)>>,
}

impl Seen {
    /// The one algorithm that each correlation was computed by, whoever did.
    fn algorithms(&self) -> BTreeMap<String, usize> {
        let one = |(of, by): (&String, &BTreeSet<(Who, usize)>)| {
            let numbers: BTreeSet<usize> = by.iter().map(|(_, number)| *number).collect();
            assert_eq!(numbers.len(), 1, "{of}: {by:?}");
            (of.clone(), *numbers.first().unwrap())
        };
        self.computed.iter().map(one).collect()
    }

    fn computed_by(&self) -> BTreeSet<&Who> {
        self.computed.values().flatten().map(|(who, _)| who).collect()
    }

    fn tried_by(&self) -> BTreeSet<&Who> {
        self.tried.values().flatten().collect()
    }

    /// One replica has tried everything once, and all of so many computed by what it found.
    fn is_of_one(&self, replicas: usize) {
        assert_eq!(self.tried.len(), ASKED, "{:?}", self.tried);
        assert!(self.tried.values().all(|who| who.len() == 1), "{:?}", self.tried);
        assert_eq!(self.tried_by().len(), 1);
        assert_eq!(self.computed_by().len(), replicas);
        assert!(self.tried.keys().eq(self.algorithms().keys()));
    }
}

impl Job {
    /// `None` where there are no such devices.
    fn new() -> Option<Job> {
        let environment = common::cuda::environment()?;
        let folder = tempfile::tempdir().unwrap();
        caffe::data::synthetic::write_synthetic(folder.path(), 40, 20, 5).unwrap();
        let job = Job { folder, environment };
        let data = |phase: &str, set: &str, batch: usize| {
            format!(
                "layer {{ name: 'data' type: 'Data' top: 'data' top: 'label' include {{ phase: {phase} }}
                 transform_param {{ scale: 0.0078125 crop_size: 12 }}
                 data_param {{ source: '{}' batch_size: {batch} backend: LEVELDB }} }}\n",
                job.path(&format!("cifar10_{set}_leveldb")).display()
            )
        };
        let net = data("TRAIN", "train", 4) + &data("TEST", "test", 5) + LAYERS;
        std::fs::write(job.path("net.prototxt"), net).unwrap();
        let solver = format!(
            "net: '{}' base_lr: 0.05 momentum: 0.9 lr_policy: 'fixed' random_seed: 3 display: 1 max_iter: 6
             test_iter: 2 test_interval: 3 snapshot: 3 snapshot_prefix: '{}'",
            job.path("net.prototxt").display(),
            job.path("snap").display()
        );
        std::fs::write(job.path("solver.prototxt"), solver).unwrap();
        Some(job)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Trains on so many ranks with these settings of the libraries, in which `RANK` stands for the rank;
    /// the log, and what the libraries were asked for.
    fn train(&self, ranks: usize, flags: &[&str], settings: &[(&str, &str)]) -> (String, Seen) {
        let trace = self.path("convolutions");
        drop(std::fs::remove_file(&trace));
        let mut script = String::new();
        for (name, value) in settings {
            let value = value.replace("RANK", "${OMPI_COMM_WORLD_RANK:-0}");
            script += &format!("export {name}=\"{value}\"\n");
        }
        script += &format!("exec {} \"$@\"\n", env!("CARGO_BIN_EXE_caffe"));
        let program = self.path("program.sh");
        std::fs::write(&program, script).unwrap();
        let mut command = Command::new(if ranks == 1 { "sh" } else { "mpirun" });
        if ranks > 1 {
            command.args(["-n", &ranks.to_string(), "--oversubscribe", "--bind-to", "none", "sh"]);
        }
        let output = command
            .arg(&program)
            .args(["train", "--threads=1"])
            .arg(format!("--solver={}", self.path("solver.prototxt").display()))
            .args(flags)
            .envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")])
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("SIMULATED_CUDA_CONVOLUTIONS", &trace)
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{flags:?} {settings:?}:\n{log}");
        assert!(!log.contains(common::cuda::VIOLATION), "{flags:?} {settings:?}:\n{log}");
        (log, Self::seen(&std::fs::read_to_string(&trace).unwrap_or_default()))
    }

    fn seen(trace: &str) -> Seen {
        let mut seen = Seen::default();
        for line in trace.lines() {
            let [process, handle, what, of] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("{line}");
            };
            let (who, of) = ((process.to_owned(), handle.to_owned()), of.to_owned());
            match what.parse() {
                Ok(number) => drop(seen.computed.entry(of).or_default().insert((who, number))),
                Err(_) => seen.tried.entry(of).or_default().push(who),
            }
        }
        seen
    }

    /// Goes on from the snapshot of iteration 3.
    fn resume(&self, flags: &[&str], settings: &[(&str, &str)]) -> (String, Seen) {
        let state = format!("--snapshot={}", self.path("snap_iter_3.solverstate").display());
        self.train(1, &[&["--gpu=0", &state], flags].concat(), settings)
    }

    /// Weights after the last iteration.
    fn weights(&self) -> Vec<f32> {
        let (model, _) = model_from_file(self.path("snap_iter_6.caffemodel")).unwrap();
        model.layer.iter().flat_map(|l| &l.blobs).flat_map(|blob| blob.data.clone()).collect()
    }

    fn sidecar(&self) -> PathBuf {
        self.path("snap_iter_3.resume")
    }

    /// Puts another table into the snapshot of iteration 3.
    fn rewrite(&self, table: Option<Value>) {
        let mut sidecar = Sidecar::read(&self.sidecar()).unwrap();
        sidecar.algorithms = table;
        let mut writer = SidecarWriter::create(&self.sidecar(), &sidecar).unwrap();
        for history in &sidecar.histories {
            writer.history(history).unwrap();
        }
        writer.close(sidecar.sums.unwrap()).unwrap().finish().unwrap();
    }
}

/// Two ranks where there is an Open MPI and this build can use it; else two nodes of one process.
fn two_nodes() -> (usize, &'static str) {
    let version = Command::new("mpirun").arg("--version").output();
    let open = version.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).contains("Open MPI"));
    if cfg!(feature = "mpi") && open {
        return (2, "--nodes=1");
    }
    println!("no ranks: no Open MPI's mpirun, or built without MPI");
    (1, "--nodes=2")
}

fn settled(measured: usize, restored: usize) -> String {
    format!("algorithms of cuDNN: {measured} measured, {restored} restored from the snapshot, in ")
}

#[test]
fn the_replicas_of_a_node_compute_by_what_the_first_has_measured() {
    let Some(job) = Job::new() else { return };
    let alone = ["0", "1"].map(|times| {
        let (log, seen) = job.train(1, &["--gpu=0"], &[("SIMULATED_CUDA_TIMES", times)]);
        assert_eq!(log.matches(&settled(ASKED, 0)).count(), 1, "{log}");
        seen.is_of_one(1);
        seen.algorithms()
    });
    // Who measures again chooses others, whatever it is for.
    assert_eq!(alone[0].len(), alone[1].len());
    assert!(alone[0].iter().zip(&alone[1]).all(|(a, b)| a.0 == b.0 && a.1 != b.1), "{alone:?}");
    for flags in [
        &["--gpu=0,0", "--mode=sync"][..],
        &["--gpu=0,1,0", "--mode=hogwild"],
        &["--gpu=0,1", "--mode=local-sgd", "--precision=bf16"],
    ] {
        let (log, seen) = job.train(1, flags, &[("SIMULATED_CUDA_TIMES", "0")]);
        seen.is_of_one(flags[0].matches(',').count() + 1);
        assert_eq!(log.matches(&settled(ASKED, 0)).count(), 1, "{log}");
        assert!(!log.contains("for itself"), "{log}");
    }
}

#[test]
fn so_do_those_of_other_nodes() {
    let Some(job) = Job::new() else { return };
    // Each rank would measure other times.
    let settings = [("SIMULATED_CUDA_TIMES", "RANK")];
    let (ranks, nodes) = two_nodes();
    for (ranks, nodes, gpus, replicas) in
        [(ranks, nodes, "--gpu=0,0", 4), (1, "--nodes=2", "--gpu=0", 2)]
    {
        let (log, seen) = job.train(ranks, &[gpus, nodes, "--mode=sync"], &settings);
        seen.is_of_one(replicas);
        assert_eq!(log.matches(&settled(ASKED, 0)).count(), 1, "{log}");
        assert!(!log.contains("for itself"), "{log}");
    }
}

#[test]
fn a_rank_on_another_device_measures_for_itself_and_says_so() {
    let Some(job) = Job::new() else { return };
    let (ranks @ 2, _) = two_nodes() else { return };
    for (other, words) in [
        ([("SIMULATED_CUDA_NAME", "GPU number RANK")], "GPU number 1"),
        ([("SIMULATED_CUDNN_VERSION", "9110RANK")], "cuDNN 9.11.1"),
    ] {
        let (log, seen) = job.train(ranks, &["--gpu=0", "--mode=sync"], &other);
        let said: Vec<&str> = log.lines().filter(|line| line.contains("for itself")).collect();
        assert_eq!(said.len(), 1, "{log}");
        let parts = ["rank 1: replica 1 has measured 7 algorithms", words, ", replica 0 is on "];
        assert!(parts.iter().all(|part| said[0].contains(part)), "{said:?}");
        assert_eq!((seen.tried_by().len(), seen.tried.len()), (2, ASKED));
        assert!(seen.tried.values().all(|who| who.len() == 2));
    }
}

#[test]
fn a_rank_where_a_measured_algorithm_does_not_work_measures_for_itself_and_says_so() {
    let Some(job) = Job::new() else { return };
    let (ranks @ 2, _) = two_nodes() else { return };
    // Rank 0 finds number 1 for everything, which rank 1 lacks.
    let settings = [("SIMULATED_CUDNN_LACKS", "RANK")];
    let (log, seen) = job.train(ranks, &["--gpu=0", "--mode=sync"], &settings);
    let said: Vec<&str> = log.lines().filter(|line| line.contains("for itself")).collect();
    assert_eq!(said.len(), 1, "{log}");
    assert!(said[0].contains("rank 1: replica 1 has measured 7 algorithms"), "{said:?}");
    let why = ["the recorded algorithm 1 for the forward pass of ", "; and 6 more"];
    assert!(why.iter().all(|part| said[0].contains(part)), "{said:?}");
    assert!(seen.tried.values().all(|who| who.len() == 2));
}

#[test]
fn a_resumed_run_computes_by_what_was_measured_before() {
    let Some(job) = Job::new() else { return };
    // So that another choice shows in the weights.
    let shaken = |times| [("SIMULATED_CUDA_TIMES", times), ("SIMULATED_CUDA_SHAKE", "1e-3")];
    let (_, before) = job.train(1, &["--gpu=0"], &shaken("0"));
    let whole = job.weights();
    let (log, seen) = job.resume(&[], &shaken("1"));
    assert!(log.contains(&settled(0, ASKED)), "{log}");
    assert!(seen.tried.is_empty() && seen.algorithms() == before.algorithms());
    assert!(job.weights() == whole, "a resumed run has other weights");
    // Two replicas, of which the second hears it.
    let (log, seen) = job.resume(&["--gpu=0,1", "--mode=sync"], &shaken("1"));
    assert!(log.contains(&settled(0, ASKED)), "{log}");
    assert!(seen.tried.is_empty() && seen.algorithms() == before.algorithms());
    // On the CPU nobody asks.
    let state = format!("--snapshot={}", job.path("snap_iter_3.solverstate").display());
    let (log, _) = job.train(1, &[&state], &[]);
    assert!(!log.contains("algorithms of cuDNN"), "{log}");

    // As from a snapshot of an earlier version.
    let table = Sidecar::read(&job.sidecar()).unwrap().algorithms.unwrap();
    job.rewrite(None);
    let (log, seen) = job.resume(&[], &shaken("1"));
    assert!(log.contains(&settled(ASKED, 0)), "{log}");
    assert!(seen.algorithms() != before.algorithms() && job.weights() != whole);
    // What the net does not ask for is not in the way.
    job.rewrite(Some(table));
    let net = std::fs::read_to_string(job.path("net.prototxt")).unwrap();
    let larger = net.replace("batch_size: 5", "batch_size: 10");
    std::fs::write(job.path("net.prototxt"), larger).unwrap();
    let (log, _) = job.resume(&[], &shaken("0"));
    assert!(log.contains(&settled(2, ASKED - 2)), "{log}");
}

#[test]
fn another_device_library_or_precision_measures_anew_and_says_so() {
    let Some(job) = Job::new() else { return };
    job.train(1, &["--gpu=0"], &[]);
    let snapshot = std::fs::read(job.sidecar()).unwrap();
    for (flags, settings, was, is) in [
        (&[][..], ("SIMULATED_CUDA_NAME", "Another GPU"), "Simulated GPU", "Another GPU"),
        (&[], ("SIMULATED_CUDNN_VERSION", "91002"), "cuDNN 9.10.0", "cuDNN 9.10.2"),
        (&["--precision=tf32"], ("RANK", "0"), "in f32", "in tf32"),
    ] {
        std::fs::write(job.sidecar(), &snapshot).unwrap();
        let (log, seen) = job.resume(flags, &[settings]);
        assert!(log.contains(&settled(ASKED, 0)), "{log}");
        assert_eq!(seen.tried.len(), ASKED);
        let line = log.lines().find(|line| line.contains("were measured on")).unwrap();
        let (theirs, ours) = line.split_once("; this is ").unwrap();
        assert!(theirs.contains(was) && ours.contains(is) && ours.contains("anew"), "{line}");
    }
}

#[test]
fn a_recorded_algorithm_that_does_not_serve_is_an_event() {
    let Some(job) = Job::new() else { return };
    job.train(1, &["--gpu=0"], &[]);
    let json = Sidecar::read(&job.sidecar()).unwrap().algorithms.unwrap();
    let table = Table::read(&json).unwrap();
    assert_eq!(table.records.len(), ASKED);
    let first =
        |direction| table.records.iter().position(|r| r.wanted.direction == direction).unwrap();
    let (forward, back) = (first(Direction::Forward), first(Direction::Back));
    for (place, field, number, why) in [
        (forward, "algorithm", 4, "NOT_SUPPORTED"),
        (back, "algorithm", 99, "none of this number"),
        (forward, "algorithm", 7, "it works in 3072 MB of 256"),
        (back, "arithmetic", 9, "none of this number"),
    ] {
        let mut json = json.clone();
        json["records"][place][field] = json!(number);
        job.rewrite(Some(json));
        let (log, seen) = job.resume(&[], &[]);
        assert!(log.contains(&settled(1, ASKED - 1)), "{log}");
        let said: Vec<&str> = log.lines().filter(|line| line.contains("does not serve")).collect();
        assert_eq!(said.len(), 1, "{log}");
        assert!(said[0].contains("measured anew") && said[0].contains(why), "{said:?}");
        assert_eq!(seen.tried.len(), 1);
    }
}

#[test]
fn a_table_that_is_none_fails_no_resume() {
    let Some(job) = Job::new() else { return };
    job.train(1, &["--gpu=0"], &[]);
    let table = Sidecar::read(&job.sidecar()).unwrap().algorithms.unwrap();
    let of = table["of"].clone();
    let mut half = table.clone();
    half["records"][0] = json!({ "wanted": "what?" });
    half["records"][1]["wanted"]["shape"]["groups"] = json!(0);
    for (damaged, restored) in [
        (json!("table"), 0),
        (json!({ "of": "me", "records": [] }), 0),
        (json!({ "of": of, "records": [] }), 0),
        (half, ASKED - 2),
    ] {
        let unreadable = restored == 0 && damaged["of"] != of;
        job.rewrite(Some(damaged));
        let (log, _) = job.resume(&[], &[]);
        assert!(log.contains(&settled(ASKED - restored, restored)), "{log}");
        assert_eq!(log.contains("cannot be read: all are measured anew"), unreadable, "{log}");
    }
}

#[test]
fn exactly_nothing_is_measured_and_nothing_recorded() {
    let Some(job) = Job::new() else { return };
    let weights = ["0", "1"].map(|times| {
        let settings = [("SIMULATED_CUDA_TIMES", times), ("SIMULATED_CUDA_SHAKE", "1e-3")];
        let (log, seen) = job.train(1, &["--gpu=0,0", "--mode=sync", "--exact"], &settings);
        assert!(!log.contains("algorithms of cuDNN"), "{log}");
        assert!(seen.tried.is_empty(), "{:?}", seen.tried);
        assert_eq!(seen.algorithms().len(), ASKED);
        assert_eq!(Sidecar::read(&job.sidecar()).unwrap().algorithms, None);
        job.weights()
    });
    assert!(weights[0] == weights[1]);
}

#[test]
fn exactly_an_algorithm_that_only_a_guess_names_is_not_taken() {
    let Some(job) = Job::new() else { return };
    let settings = [("SIMULATED_CUDNN_LACKS", "0")];
    let (_, seen) = job.train(1, &["--gpu=0", "--exact"], &settings);
    assert_eq!(seen.algorithms().len(), ASKED);
}
