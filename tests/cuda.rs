//! Training on CUDA devices with the real program. There is no GPU where this is tested: CUDA's libraries are
//! simulated (`tests/simulated_cuda`), everything around them is real.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use caffe::data::{Backend, Database, Writer};
use caffe::snapshot::Sidecar;
use caffe_proto::{Datum, Message, model_from_file};

/// A folder with databases, net and solver.
struct Job {
    folder: tempfile::TempDir,
    /// What makes a device in software of `--gpu`.
    environment: Vec<(&'static str, OsString)>,
}

const LAYERS: &str = "
layer { name: 'conv' type: 'Convolution' bottom: 'data' top: 'conv'
  convolution_param { num_output: 6 kernel_size: 5 stride: 2 weight_filler { type: 'xavier' } } }
layer { name: 'norm' type: 'BatchNorm' bottom: 'conv' top: 'conv' }
layer { name: 'scale' type: 'Scale' bottom: 'conv' top: 'conv' scale_param { bias_term: true } }
layer { name: 'relu' type: 'ReLU' bottom: 'conv' top: 'conv' }
layer { name: 'pool' type: 'Pooling' bottom: 'conv' top: 'pool'
  pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: 'lrn' type: 'LRN' bottom: 'pool' top: 'lrn' lrn_param { local_size: 3 alpha: 0.01 } }
layer { name: 'drop' type: 'Dropout' bottom: 'lrn' top: 'lrn' dropout_param { dropout_ratio: 0.2 } }
layer { name: 'ip' type: 'InnerProduct' bottom: 'lrn' top: 'ip'
  inner_product_param { num_output: 10 weight_filler { type: 'xavier' } } }
layer { name: 'accuracy' type: 'Accuracy' bottom: 'ip' bottom: 'label' top: 'accuracy' include { phase: TEST } }
layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }
";

/// For many runs.
const SMALL: &str = "
layer { name: 'ip1' type: 'InnerProduct' bottom: 'data' top: 'ip1'
  inner_product_param { num_output: 6 weight_filler { type: 'xavier' } } }
layer { name: 'relu' type: 'ReLU' bottom: 'ip1' top: 'ip1' }
layer { name: 'ip2' type: 'InnerProduct' bottom: 'ip1' top: 'ip2'
  inner_product_param { num_output: 10 weight_filler { type: 'xavier' } } }
layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip2' bottom: 'label' top: 'loss' }
";

impl Job {
    /// `None` where there is no such device.
    fn new(layers: &str) -> Option<Job> {
        let environment = common::cuda::environment()?;
        let folder = tempfile::tempdir().unwrap();
        caffe::data::synthetic::write_synthetic(folder.path(), 64, 20, 5).unwrap();
        let job = Job { folder, environment };
        let data = |phase: &str, set: &str, batch: usize| {
            format!(
                "layer {{ name: 'data' type: 'Data' top: 'data' top: 'label' include {{ phase: {phase} }}
                 transform_param {{ scale: 0.0078125 }}
                 data_param {{ source: '{}' batch_size: {batch} backend: LEVELDB }} }}\n",
                job.path(&format!("cifar10_{set}_leveldb")).display()
            )
        };
        let net = data("TRAIN", "train", 8) + &data("TEST", "test", 10) + layers;
        std::fs::write(job.path("net.prototxt"), net).unwrap();
        let solver = format!(
            "net: '{}' base_lr: 0.01 momentum: 0.9 weight_decay: 0.001 lr_policy: 'fixed' random_seed: 3
             display: 1 max_iter: 6 test_iter: 2 test_interval: 3 snapshot_prefix: '{}'",
            job.path("net.prototxt").display(),
            job.path("snap").display()
        );
        std::fs::write(job.path("solver.prototxt"), solver).unwrap();
        Some(job)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn caffe(&self, arguments: &[&str]) -> Output {
        let output = Command::new(env!("CARGO_BIN_EXE_caffe"))
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!log.contains(common::cuda::VIOLATION), "{arguments:?}:\n{log}");
        output
    }

    /// Changes a file.
    fn edit(&self, name: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{name} has no `{from}`");
        std::fs::write(self.path(name), text.replace(from, to)).unwrap();
    }

    fn train(&self, flags: &[&str]) -> Result<String, String> {
        let solver = format!("--solver={}", self.path("solver.prototxt").display());
        let mut arguments = vec!["train", solver.as_str(), "--threads=1"];
        arguments.extend(flags);
        let output = self.caffe(&arguments);
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(log) } else { Err(log) }
    }

    /// Trains; the weights after the last iteration, statistics included.
    fn weights(&self, flags: &[&str]) -> Vec<f32> {
        let log = self.train(flags).unwrap_or_else(|log| panic!("{flags:?}:\n{log}"));
        let device = flags.iter().any(|flag| flag.starts_with("--gpu"));
        assert_eq!(log.contains("on GPU 0"), device, "{log}");
        let (model, _) = model_from_file(self.path("snap_iter_6.caffemodel")).unwrap();
        model.layer.iter().flat_map(|l| &l.blobs).flat_map(|blob| blob.data.clone()).collect()
    }
}

fn assert_near(ours: &[f32], theirs: &[f32], allowed: f32) {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let off = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off <= allowed * largest, "{off} of {largest}");
}

#[test]
fn a_device_learns_what_the_cpu_learns() {
    let Some(job) = Job::new(LAYERS) else { return };
    let cpu = job.weights(&[]);
    assert_near(&job.weights(&["--gpu=0"]), &cpu, 1e-3);
}

/// The same records with floats in place of bytes.
fn as_floats(path: &Path) {
    let bytes = path.with_extension("bytes");
    std::fs::rename(path, &bytes).unwrap();
    let mut cursor = Database::open(&bytes, Backend::LevelDb).unwrap().cursor().unwrap();
    let mut writer = Writer::create(path, Backend::LevelDb).unwrap();
    while let Some(record) = cursor.next_record().unwrap() {
        let mut datum = Datum::decode(record.value).unwrap();
        datum.float_data = datum.data.take().unwrap().iter().map(|&b| f32::from(b)).collect();
        writer.put(&record.key, &datum.encode_to_vec()).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn bytes_and_floats_of_one_value_train_the_same_weights() {
    let Some(job) = Job::new(LAYERS) else { return };
    let net = job.path("net.prototxt");
    let text = std::fs::read_to_string(&net).unwrap();
    let transform = "scale: 0.0078125 crop_size: 27 mirror: true mean_value: 99";
    std::fs::write(&net, text.replace("scale: 0.0078125", transform)).unwrap();
    let mut weights = Vec::new();
    for (form, said) in [("bytes", "records are bytes"), ("floats", "records come as floats")] {
        if form == "floats" {
            for set in ["train", "test"] {
                as_floats(&job.path(&format!("cifar10_{set}_leveldb")));
            }
        }
        let log = job.train(&["--gpu=0"]).unwrap();
        assert!(log.contains(&format!("layer `data`: {said}")), "{log}");
        weights.push(job.weights(&["--gpu=0"]));
    }
    assert!(weights[0] == weights[1]);
    assert!(!job.train(&[]).unwrap().contains("layer `data`: records"), "on the CPU nobody asks");
}

#[test]
fn two_devices_in_sync_are_one() {
    let Some(job) = separate_records() else { return };
    let one = job.weights(&["--gpu=0", "--mode=sync"]);
    let two = job.weights(&["--gpu=0,0", "--mode=sync", "--batch=global"]);
    assert_near(&two, &one, 1e-4);
}

#[test]
fn different_devices_add_gradients_up_among_themselves() {
    let Some(job) = Job::new(LAYERS) else { return };
    for mode in ["sync", "local-sgd"] {
        let mode = format!("--mode={mode}");
        // One device twice goes by way of the host.
        let host = job.weights(&["--gpu=0,0", &mode]);
        assert_eq!(job.weights(&["--gpu=0,1", &mode]), host);
        let log = job.train(&["--gpu=0,1", &mode]).unwrap();
        assert!(log.contains("they add their gradients up by NCCL"), "{log}");
    }
    let log = job.train(&["--gpu=0,1", "--mode=hogwild"]).unwrap();
    assert!(!log.contains("NCCL"), "{log}");
}

#[test]
fn tf32_is_near_and_not_the_same() {
    let Some(job) = Job::new(LAYERS) else { return };
    let exact = job.weights(&["--gpu=0"]);
    let rounded = job.weights(&["--gpu=0", "--precision=tf32"]);
    assert_near(&rounded, &exact, 0.05);
    assert!(rounded != exact, "factors were not rounded");
}

#[test]
fn a_job_that_does_not_fit_is_refused_before_its_first_iteration() {
    let Some(mut job) = Job::new(LAYERS) else { return };
    let log = job.train(&["--gpu=0"]).unwrap();
    let (_, forecast) = log.split_once(" MB taken, ").unwrap();
    let forecast: u64 = forecast.split_once(" MB forecast").unwrap().0.parse().unwrap();
    for (megabytes, fits) in [(forecast + 1, true), (forecast - 1, false)] {
        let bytes = (megabytes * 1_000_000).to_string();
        job.environment.push(("SIMULATED_CUDA_MEMORY", bytes.into()));
        match job.train(&["--gpu=0"]) {
            Ok(log) => assert!(fits, "{log}"),
            Err(log) => {
                assert!(!fits && log.contains("MB free, but the job needs"), "{log}");
                assert!(!log.contains("Iteration 0"), "{log}");
            }
        }
    }
}

#[test]
fn devices_are_told_of() {
    let Some(job) = Job::new(LAYERS) else { return };
    let output = job.caffe(&["device_query"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("Simulated GPU") && text.contains(simulated_cuda::LIBRARY), "{text}");
}

#[test]
fn it_makes_no_difference_which_stream_comes_first() {
    let Some(mut job) = Job::new(LAYERS) else { return };
    let late = ["--gpu=0", "--gpu=0,1"].map(|gpu| job.weights(&[gpu, "--mode=sync"]));
    job.environment.push(("SIMULATED_CUDA_ORDER", "others".into()));
    let others = ["--gpu=0", "--gpu=0,1"].map(|gpu| job.weights(&[gpu, "--mode=sync"]));
    assert!(late == others, "a stream does not wait for what it needs");
}

#[test]
fn exactly_means_algorithms_that_repeat_their_sums() {
    let Some(mut job) = Job::new(LAYERS) else { return };
    // By how much sums are off whose order is not fixed.
    let mut run = |shake: &str, flags: &[&str]| {
        job.environment.push(("SIMULATED_CUDA_SHAKE", shake.into()));
        job.weights(&[&["--gpu=0"], flags].concat())
    };
    assert!(run("0", &[]) != run("1e-5", &[]), "nothing was shaken");
    assert!(run("0", &["--exact"]) == run("1e-5", &["--exact"]));
}

#[test]
fn two_devices_in_hogwild_end_well() {
    let Some(job) = Job::new(LAYERS) else { return };
    assert!(job.weights(&["--gpu=0,0", "--mode=hogwild"]).iter().all(|w| w.is_finite()));
}

/// Without the layers that make a batch more than the sum of its records.
fn separate_records() -> Option<Job> {
    let layers: Vec<&str> = LAYERS.lines().filter(|l| !l.contains("BatchNorm")).collect();
    Job::new(&layers.join("\n"))
}

#[test]
fn two_devices_in_bf16_are_one_and_near_the_cpu() {
    let Some(job) = separate_records() else { return };
    let cpu = job.weights(&["--mode=sync"]);
    let one = job.weights(&["--gpu=0", "--mode=sync", "--precision=bf16"]);
    let two = job.weights(&["--gpu=0,0", "--mode=sync", "--batch=global", "--precision=bf16"]);
    // Six steps, whose gradients are off by a few roundings of 2^-8 each.
    assert_near(&one, &cpu, 1e-2);
    assert_near(&two, &one, 1e-2);
    assert!(one != cpu, "bf16 computes in f32");
    assert!(job.weights(&["--gpu=0,0", "--precision=bf16"]).iter().all(|w| w.is_finite()));
}

/// The loss scale in the snapshot after so many iterations.
fn scale_at(job: &Job, iter: u64) -> f32 {
    let sidecar = Sidecar::read(&job.path(&format!("snap_iter_{iter}.resume"))).unwrap();
    sidecar.loss_scale.unwrap().scale
}

#[test]
fn an_overflow_drops_the_update_everywhere_and_halves_the_scale() {
    let Some(job) = Job::new(SMALL) else { return };
    // The weights that training begins with.
    job.edit("solver.prototxt", "base_lr: 0.01", "base_lr: 0");
    let start = job.weights(&["--gpu=0"]);
    job.edit("solver.prototxt", "base_lr: 0", "base_lr: 0.01");
    // No scale above 1 keeps gradients of such a loss within half precision.
    job.edit("net.prototxt", "top: 'loss' }", "top: 'loss' loss_weight: 1e9 }");
    let fp16 = |flags: &[&str]| job.weights(&[&["--precision=fp16"], flags].concat());
    for flags in [
        &["--gpu=0"][..],
        &["--gpu=0,0", "--mode=sync"],
        // By NCCL.
        &["--gpu=0,1", "--mode=sync", "--on-nan=skip"],
        &["--gpu=0,0", "--mode=local-sgd", "--exchange-every=2"],
    ] {
        assert!(fp16(flags) == start, "{flags:?}: an update was made");
        assert_eq!(scale_at(&job, 6), 65536.0 / 64.0, "{flags:?}");
    }
    // In hogwild each replica takes some of the twelve tickets.
    assert!(fp16(&["--gpu=0,0", "--mode=hogwild"]) == start, "an update was made");
    let scale = scale_at(&job, 6);
    assert!((16.0..65536.0).contains(&scale), "{scale}");
    fp16(&["--gpu=0,0", "--mode=sync"]);

    // Resumed, it goes on from there.
    job.edit("solver.prototxt", "max_iter: 6", "max_iter: 8");
    let state = format!("--snapshot={}", job.path("snap_iter_6.solverstate").display());
    let log = job.train(&["--gpu=0,0", "--mode=sync", "--precision=fp16", &state]).unwrap();
    assert!(log.contains("the loss scale is 512 from now on"), "{log}");
    assert!(log.contains("in fp16") && log.contains("loss scale dynamic"), "{log}");
    assert_eq!(scale_at(&job, 8), 256.0);

    // At its end, what overflows is the net's own fault.
    job.edit("solver.prototxt", "max_iter: 8", "max_iter: 40");
    for flags in [&["--gpu=0"][..], &["--gpu=0,1", "--mode=sync"]] {
        let log = job.train(&[&["--precision=fp16"], flags].concat()).unwrap_err();
        assert!(log.contains("the loss scale is 1 from now on"), "{log}");
        assert!(log.contains("--on-nan=stop"), "{log}");
    }
}

#[test]
fn fp16_trains_and_16_bits_are_for_devices() {
    let Some(job) = separate_records() else { return };
    let cpu = job.weights(&["--mode=sync"]);
    let fixed = "--loss-scale=128";
    assert_near(&job.weights(&["--gpu=0", "--precision=fp16", fixed]), &cpu, 5e-3);
    let two = ["--gpu=0,0", "--mode=sync", "--batch=global", "--precision=fp16", fixed];
    assert_near(&job.weights(&two), &cpu, 5e-3);
    // A scale that f32 needs not is taken out all the same.
    assert_near(&job.weights(&["--loss-scale=1000"]), &cpu, 1e-4);
    let log = job.train(&["--precision=bf16"]).unwrap_err();
    assert!(log.contains("--precision=bf16 is for GPUs"), "{log}");
    let model = format!("--model={}", job.path("net.prototxt").display());
    for command in ["time", "test"] {
        let weights = format!("--weights={}", job.path("snap_iter_6.caffemodel").display());
        let flags = [command, &model, &weights, "--gpu=0", "--iterations=1", "--precision=fp16"];
        let output = job.caffe(&flags);
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && log.contains("in fp16"), "{log}");
    }
}

#[test]
fn test_and_time_run_on_a_device() {
    let Some(job) = Job::new(LAYERS) else { return };
    job.weights(&[]);
    let model = format!("--model={}", job.path("net.prototxt").display());
    let weights = format!("--weights={}", job.path("snap_iter_6.caffemodel").display());
    let accuracy = |flags: &[&str]| {
        let mut arguments = vec!["test", model.as_str(), weights.as_str(), "--iterations=2"];
        arguments.extend(flags);
        let output = job.caffe(&arguments);
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{log}");
        let line = log.lines().rfind(|line| line.contains("accuracy = ")).unwrap().to_owned();
        line.split("accuracy = ").nth(1).unwrap().to_owned()
    };
    assert_eq!(accuracy(&["--gpu=0"]), accuracy(&[]));
    let output = job.caffe(&["time", &model, "--gpu=0", "--iterations=1"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn test_and_time_refuse_what_does_not_fit_before_they_begin() {
    let Some(mut job) = Job::new(LAYERS) else { return };
    job.weights(&[]);
    let model = format!("--model={}", job.path("net.prototxt").display());
    let weights = format!("--weights={}", job.path("snap_iter_6.caffemodel").display());
    let run = |job: &Job, command: &str| {
        let output =
            job.caffe(&[command, model.as_str(), weights.as_str(), "--iterations=1", "--gpu=0"]);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for command in ["test", "time"] {
        let (_, log) = run(&job, command);
        let (_, forecast) = log.split_once("The net needs ").unwrap();
        let forecast: u64 = forecast.split_once(" MB (").unwrap().0.parse().unwrap();
        for (megabytes, fits) in [(forecast + 1, true), (forecast - 1, false)] {
            let bytes = (megabytes * 1_000_000).to_string();
            job.environment.push(("SIMULATED_CUDA_MEMORY", bytes.into()));
            let (ran, log) = run(&job, command);
            assert_eq!(ran, fits, "{command}: {log}");
            assert_eq!(log.contains("MB free, but the job needs"), !fits, "{command}: {log}");
        }
        job.environment.retain(|(name, _)| *name != "SIMULATED_CUDA_MEMORY");
    }
}

#[test]
fn workers_and_devices_must_agree() {
    let Some(job) = Job::new(LAYERS) else { return };
    let log = job.train(&["--gpu=0,0", "--workers=3"]).unwrap_err();
    assert!(log.contains("--gpu names 2 device(s) for 3 workers"), "{log}");
    let log = job.train(&["--gpu=0", "--device=emulated:total=1ms"]).unwrap_err();
    assert!(log.contains("do not go together"), "{log}");
}
