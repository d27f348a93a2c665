//! cifar10_quick on a generated LevelDB, for benches that measure whole runs.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use caffe::data::Backend;

/// cifar10_quick without tests and snapshots, on a generated set.
pub fn prepare(folder: &Path, iterations: usize) -> std::path::PathBuf {
    caffe::data::synthetic::write_synthetic(folder, 2000, 100, 1).unwrap();
    let database = folder.join("cifar10_train_leveldb");
    caffe::data::convert::compute_mean(&database, Backend::LevelDb)
        .unwrap()
        .0
        .write(&folder.join("mean"))
        .unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/cifar10");
    let net = std::fs::read_to_string(root.join("cifar10_quick_train_test.prototxt")).unwrap();
    let net = net
        .replace("examples/cifar10/cifar10_train_leveldb", &database.display().to_string())
        .replace("examples/cifar10/mean.binaryproto", &folder.join("mean").display().to_string());
    std::fs::write(folder.join("net.prototxt"), net).unwrap();
    let solver = format!(
        "net: '{}' base_lr: 0.001 momentum: 0.9 weight_decay: 0.004 lr_policy: 'fixed' \
         max_iter: {iterations} random_seed: 1 snapshot_after_train: false snapshot_prefix: '{}'",
        folder.join("net.prototxt").display(),
        folder.join("out").display()
    );
    std::fs::write(folder.join("solver.prototxt"), solver).unwrap();
    folder.join("solver.prototxt")
}

/// The middle value.
pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
