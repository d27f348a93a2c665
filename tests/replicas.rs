//! Data and results over many replicas, with the real program: every record once per epoch, test
//! scores that do not depend on the number of replicas, merged statistics, what banner and snapshot
//! say, and 16 bits on the wire. Ranks are uneven: two workers on one, one on the other.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use caffe::snapshot::Sidecar;
use caffe_proto::{NetParameter, model_from_file};

const TRAIN_RECORDS: u64 = 400;
const MODES: [&str; 4] = ["--mode=sync", "--mode=hogwild", "--mode=ssp", "--mode=local-sgd"];

/// A folder with databases, net and solver.
struct Job {
    folder: tempfile::TempDir,
}

impl Job {
    fn new(batch: usize, solver: &str, layers: &str) -> Job {
        let folder = tempfile::tempdir().unwrap();
        caffe::data::synthetic::write_synthetic(folder.path(), TRAIN_RECORDS, 100, 5).unwrap();
        let job = Job { folder };
        let data = |phase: &str, set: &str, batch: usize| {
            format!(
                "layer {{ name: 'data' type: 'Data' top: 'data' top: 'label' include {{ phase: {phase} }}
                 transform_param {{ scale: 0.0078125 }}
                 data_param {{ source: '{}' batch_size: {batch} backend: LEVELDB }} }}\n",
                job.path(&format!("cifar10_{set}_leveldb")).display()
            )
        };
        let head = "layer { name: 'ip' type: 'InnerProduct' bottom: 'x' top: 'ip'
               inner_product_param { num_output: 10 weight_filler { type: 'xavier' } } }
             layer { name: 'accuracy' type: 'Accuracy' bottom: 'ip' bottom: 'label' top: 'accuracy'
               include { phase: TEST } }
             layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }";
        let net = data("TRAIN", "train", batch) + &data("TEST", "test", 10) + layers + head;
        std::fs::write(job.path("net.prototxt"), net).unwrap();
        let solver = format!(
            "net: '{}' momentum: 0.9 lr_policy: 'fixed' random_seed: 3 snapshot_prefix: '{}' {solver}",
            job.path("net.prototxt").display(),
            job.path("snap").display()
        );
        std::fs::write(job.path("solver.prototxt"), solver).unwrap();
        job
    }

    /// One pooling layer, then the classifier.
    fn plain(batch: usize, solver: &str) -> Job {
        let pool = "layer { name: 'pool' type: 'Pooling' bottom: 'data' top: 'x'
             pooling_param { pool: AVE kernel_size: 4 stride: 4 } }\n";
        Job::new(batch, solver, pool)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Trains with so many workers on each rank; the log of a good end.
    fn train(&self, workers: &[usize], flags: &[&str]) -> String {
        let program = env!("CARGO_BIN_EXE_caffe");
        let solver = format!("--solver={}", self.path("solver.prototxt").display());
        let own = |workers: usize| {
            let workers = format!("--workers={workers}");
            let mut all = vec![program.to_owned(), "train".into(), solver.clone()];
            all.extend([workers, "--threads=1".into()]);
            all.extend(flags.iter().map(|flag| (*flag).to_owned()));
            all
        };
        let mut command = Command::new("mpirun");
        if let [alone] = workers {
            command = Command::new(program);
            command.args(&own(*alone)[1..]);
        } else {
            command.args(["--oversubscribe", "--bind-to", "none"]);
            for (rank, workers) in workers.iter().enumerate() {
                command.args((rank > 0).then_some(":")).args(["-n", "1"]).args(own(*workers));
            }
        }
        command.envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")]);
        let output = command.output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{workers:?} {flags:?}:\n{log}");
        log
    }

    fn model(&self, iter: usize) -> NetParameter {
        model_from_file(self.path(&format!("snap_iter_{iter}.caffemodel"))).unwrap().0
    }

    /// The values of a layer's blobs.
    fn blobs(&self, iter: usize, layer: &str) -> Vec<Vec<f32>> {
        let model = self.model(iter);
        let layer = model.layer.iter().find(|l| l.name() == layer).unwrap();
        layer.blobs.iter().map(|blob| blob.data.clone()).collect()
    }
}

fn mpi() -> bool {
    let there = cfg!(feature = "mpi") && Command::new("mpirun").arg("--version").output().is_ok();
    if !there {
        println!("skipped: no mpirun, or built without MPI");
    }
    there
}

#[test]
fn every_record_is_trained_on_once_per_epoch_over_all_replicas() {
    if !mpi() {
        return;
    }
    // 3 replicas × 12 records × 26 iterations: two epochs of 400 and 136 more, and no epoch ends with
    // a batch.
    let job = Job::plain(12, "base_lr: 0.001 max_iter: 26 snapshot_after_train: false");
    for (mode, shuffle) in MODES.into_iter().zip([false, true, false, true]) {
        let list = job.path(mode);
        let folder = format!("--log-records={}", list.display());
        let flags = [mode, &folder, if shuffle { "--shuffle" } else { "--stall-timeout=100" }];
        job.train(&[2, 1], &flags);
        let mut tickets = BTreeMap::new();
        for replica in 0..3 {
            let path = list.join(format!("records-replica-{replica}.txt"));
            for line in std::fs::read_to_string(path).unwrap().lines() {
                let mut words = line.split(' ').map(str::to_owned);
                let ticket: u64 = words.next().unwrap().parse().unwrap();
                let keys: Vec<String> = words.collect();
                assert_eq!(keys.len(), 12);
                assert!(tickets.insert(ticket, keys).is_none(), "{mode}: ticket {ticket} twice");
            }
        }
        assert!(tickets.keys().copied().eq(0..78), "{mode}: {:?}", tickets.keys());
        // In order of tickets, each run of 400 keys holds every record once.
        let keys: Vec<String> = tickets.into_values().flatten().collect();
        assert_eq!(keys.len(), 936);
        let mut epochs = keys.chunks(TRAIN_RECORDS as usize).map(|epoch| {
            let mut epoch = epoch.to_vec();
            epoch.sort_unstable();
            epoch.dedup();
            epoch
        });
        let (first, second, rest) =
            (epochs.next().unwrap(), epochs.next().unwrap(), epochs.next().unwrap());
        assert_eq!((first.len(), second.len(), rest.len()), (400, 400, 136), "{mode}");
        assert_eq!(first, second, "{mode}");
        assert_eq!(keys[..400] == keys[400..800], !shuffle, "{mode}");
    }
}

#[test]
fn test_scores_do_not_depend_on_the_number_of_replicas() {
    if !mpi() {
        return;
    }
    // No iteration, so all test the same weights; 7 batches do not divide among 2 or 3.
    let job = Job::plain(8, "base_lr: 0.01 max_iter: 0 test_iter: 7 test_interval: 5");
    let scores = |workers: &[usize], mode: &str| -> Vec<String> {
        let log = job.train(workers, &[mode, "--exact"]);
        let tail = |line: &str| Some(line.split_once("Test net output")?.1.to_owned());
        log.lines().filter_map(tail).collect()
    };
    let one = scores(&[1], MODES[0]);
    assert_eq!(one.len(), 2, "{one:?}");
    assert_eq!(one, scores(&[2, 1], MODES[0]));
    assert_eq!(one, scores(&[3], MODES[1]));
    assert_eq!(one, scores(&[1, 1], MODES[2]));
}

#[test]
fn statistics_of_batch_normalisation_are_the_mean_over_replicas() {
    if !mpi() {
        return;
    }
    let net = "layer { name: 'bn' type: 'BatchNorm' bottom: 'data' top: 'x'
         batch_norm_param { moving_average_fraction: 0.5 } }\n";
    // Nothing is learnt, so a batch gives the same statistics wherever it is computed.
    let one = Job::new(10, "base_lr: 0 max_iter: 3 snapshot: 1", net);
    one.train(&[1], &["--mode=sync"]);
    let mut alone = Vec::new();
    let mut before = vec![vec![0.0; 3], vec![0.0; 3], vec![0.0]];
    for iter in 1..=3 {
        // Each step: s ← ½ s + what this batch gives.
        let now = one.blobs(iter, "bn");
        let given = |(now, before): (&Vec<f32>, &Vec<f32>)| -> Vec<f32> {
            now.iter().zip(before).map(|(now, before)| now - 0.5 * before).collect()
        };
        alone.push(now.iter().zip(&before).map(given).collect::<Vec<_>>());
        before = now;
    }
    for mode in [MODES[0], MODES[3]] {
        let three = Job::new(10, "base_lr: 0 max_iter: 1", net);
        three.train(&[2, 1], &[mode]);
        for (blob, merged) in three.blobs(1, "bn").iter().enumerate() {
            for (i, merged) in merged.iter().enumerate() {
                let mean = alone.iter().map(|one| one[blob][i]).sum::<f32>() / 3.0;
                assert!((mean - merged).abs() <= 1e-5 * mean.abs().max(0.1), "{mean} {merged}");
            }
        }
    }
}

#[test]
fn banner_and_snapshot_say_what_batch_and_rate_meant() {
    if !mpi() {
        return;
    }
    let job = Job::plain(12, "base_lr: 0.01 max_iter: 4");
    let flags = ["--mode=sync", "--batch=global", "--lr-scaling=linear", "--wire=bf16"];
    let log = job.train(&[2, 1], &flags);
    let said = "batch 4 per replica (--batch=global), 12 records per iteration; lr 0.03 at iteration 0 \
                (--lr-scaling=linear: x 3; --warmup-iters=0)";
    assert!(log.contains(said), "{log}");
    assert!(log.contains("ranks send each other bf16"), "{log}");
    let sidecar = Sidecar::read(&job.path("snap_iter_4.resume")).unwrap();
    assert_eq!((sidecar.batch, sidecar.replicas), (4, 3));
    let meaning = sidecar.meaning.unwrap();
    assert_eq!((&*meaning.batch_of, meaning.records_per_iter), ("global", 12));
    assert_eq!((&*meaning.lr_scaling, meaning.lr_factor), ("linear", 3.0));
    assert!((meaning.lr - 0.03).abs() < 1e-6 && meaning.wire == "bf16");
}

#[test]
fn sixteen_bits_on_the_wire_learn_the_same_and_resume_exactly() {
    if !mpi() {
        return;
    }
    let weights = |job: &Job| job.blobs(12, "ip").concat();
    let run = |flags: &[&str]| {
        let job = Job::plain(10, "base_lr: 0.01 max_iter: 12 snapshot: 6");
        let mut all = vec!["--mode=sync"];
        all.extend(flags);
        job.train(&[1, 1], &all);
        (weights(&job), job)
    };
    let (exact, _) = run(&[]);
    for wire in ["--wire=bf16", "--wire=fp16"] {
        let (rounded, job) = run(&[wire]);
        let far = exact.iter().zip(&rounded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far > 0.0 && far < 1e-2, "{wire}: {far} from f32");
        let state = format!("--snapshot={}", job.path("snap_iter_6.solverstate").display());
        job.train(&[1, 1], &["--mode=sync", wire, &state]);
        assert!(weights(&job) == rounded, "{wire}: resumed at 6 and undisturbed differ");
    }
}
