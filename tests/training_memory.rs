//! Memory of a whole training run: the real program with its actors, reading a LevelDB, over ten
//! thousand iterations. (Sources alone: `memory.rs`; calls of the allocator: `allocations.rs`.)
#![allow(clippy::unwrap_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// What a running process has in memory, bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn ten_thousand_iterations_take_no_more_memory_than_two_thousand() {
    let folder = tempfile::tempdir().unwrap();
    caffe::data::synthetic::write_synthetic(folder.path(), 500, 1, 5).unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let net = format!(
        "layer {{ name: 'in' type: 'Data' top: 'data' top: 'label'
           transform_param {{ scale: 0.0078125 mirror: true crop_size: 28 }}
           data_param {{ source: '{}' batch_size: 8 backend: LEVELDB }} }}
         layer {{ name: 'pool' type: 'Pooling' bottom: 'data' top: 'pool'
           pooling_param {{ pool: AVE kernel_size: 4 stride: 4 }} }}
         layer {{ name: 'ip' type: 'InnerProduct' bottom: 'pool' top: 'ip'
           inner_product_param {{ num_output: 10 weight_filler {{ type: 'xavier' }} }} }}
         layer {{ name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }}",
        path("cifar10_train_leveldb")
    );
    std::fs::write(path("net.prototxt"), net).unwrap();
    let solver = format!(
        "net: '{}' base_lr: 0.001 momentum: 0.9 lr_policy: 'fixed' max_iter: 10000 display: 100 \
         snapshot_after_train: false solver_mode: CPU",
        path("net.prototxt")
    );
    std::fs::write(path("solver.prototxt"), solver).unwrap();
    for flags in [&["--shuffle"][..], &["--workers=2"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_caffe"))
            .args(["train", "--threads=2", "-solver", &path("solver.prototxt")])
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut early, mut late) = (0, 0);
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            // Some hundred iterations early: the process must still be there to be asked.
            if early == 0 && line.contains("Iteration 2000 ") {
                early = resident(child.id());
            } else if late == 0 && line.contains("Iteration 9000 ") {
                late = resident(child.id());
            }
        }
        assert!(child.wait().unwrap().success());
        println!("{flags:?}: {early} bytes after 2,000 iterations, {late} after 9,000");
        assert!(early > 1 << 20 && late > 1 << 20, "{early} {late}");
        let grown = late.saturating_sub(early);
        assert!(grown < 4 << 20, "{flags:?}: {grown} bytes more");
    }
}
