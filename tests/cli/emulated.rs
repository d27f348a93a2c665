//! Jobs on emulated devices, and several nodes in one process.

use std::fs;

use crate::support::{Folder, fails, line, succeeds};

/// Half a million parameters in two layers, and a solver for so many iterations.
pub fn job(folder: &Folder, iterations: u32) -> (String, String) {
    let net = "name: 'two' \
        layer { name: 'data' type: 'DummyData' top: 'data' top: 'label' dummy_data_param { \
          shape { dim: 4 dim: 500 } shape { dim: 4 dim: 1 } } } \
        layer { name: 'a' type: 'InnerProduct' bottom: 'data' top: 'a' inner_product_param { \
          num_output: 1000 weight_filler { type: 'xavier' } } } \
        layer { name: 'b' type: 'InnerProduct' bottom: 'a' top: 'b' inner_product_param { \
          num_output: 300 weight_filler { type: 'xavier' } } } \
        layer { name: 'loss' type: 'EuclideanLoss' bottom: 'b' bottom: 'b' top: 'loss' }";
    fs::write(folder.path("net.prototxt"), net).unwrap();
    let net = folder.name("net.prototxt");
    let solver = format!(
        "net: '{net}' base_lr: 0.01 lr_policy: 'fixed' max_iter: {iterations} random_seed: 1 \
         display: 4"
    );
    fs::write(folder.path("solver.prototxt"), solver).unwrap();
    (net, folder.name("solver.prototxt"))
}

/// The number that follows `before` in a log.
fn after(log: &str, before: &str) -> f64 {
    let rest = log.split_once(before).unwrap_or_else(|| panic!("no `{before}` in\n{log}")).1;
    let digits = rest.trim_start().split(|c: char| !(c.is_ascii_digit() || c == '.')).next();
    digits.unwrap().parse().unwrap_or_else(|_| panic!("no number after `{before}` in\n{log}"))
}

#[test]
fn an_emulated_job_runs_and_tells_its_speed_in_every_mode() {
    let folder = Folder::new();
    let (_, solver) = job(&folder, 12);
    for mode in ["sync", "hogwild", "ssp", "local-sgd"] {
        let (_, log) = succeeds(&line(&format!(
            "train --solver={solver} --mode={mode} --exchange-every=3 --nodes=3 --workers=2 \
             --dilate=2 --device=emulated:total=15ms,jitter=1%,slow=1:1.5 \
             --link=latency=20us,bandwidth=10Gb/s"
        )));
        assert!(log.contains("replica 1 is 1.5 times slower"), "{log}");
        let speedup = after(&log, "] speed-up");
        // A busy machine makes it slower; nothing makes it faster than all replicas.
        assert!(speedup > 0.1 && speedup < 6.3, "{mode}: {log}");
        assert_eq!(after(&log, "dilated"), 2.0, "{log}");
        assert!(after(&log, "compute and") >= 0.0 && after(&log, "host:") >= 0.0, "{log}");
    }
}

#[test]
fn an_emulated_job_needs_no_database() {
    let folder = Folder::new();
    let net = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/googlenet/train_val.prototxt");
    let solver =
        format!("net: '{net}' base_lr: 0.01 lr_policy: 'fixed' max_iter: 8 random_seed: 1");
    fs::write(folder.path("solver.prototxt"), solver).unwrap();
    let (_, log) = succeeds(&line(&format!(
        "train --solver={} --mode=sync --nodes=2 --dilate=1 --device=emulated:total=40ms",
        folder.name("solver.prototxt")
    )));
    assert!(after(&log, "] speed-up") > 0.1, "{log}");
}

#[test]
fn dilation_is_chosen_when_it_is_not_given() {
    let folder = Folder::new();
    let (_, solver) = job(&folder, 8);
    let flags = "--mode=sync --nodes=2 --device=emulated:total=5ms";
    let (_, log) = succeeds(&line(&format!("train --solver={solver} {flags}")));
    assert!(after(&log, "dilated") >= 1.0, "{log}");
}

#[test]
fn real_replicas_train_on_several_nodes_of_one_process() {
    let folder = Folder::new();
    let (_, solver) = job(&folder, 8);
    let flags = "--mode=sync --nodes=2 --workers=2 --threads=1 --link=latency=50us";
    let (_, log) = succeeds(&line(&format!("train --solver={solver} {flags}")));
    assert!(log.contains("4 replicas on 2 ranks"), "{log}");
    assert!(log.contains("all 4 replica(s) hold weights"), "{log}");
    assert!(log.contains("emulated link: latency 50.000 us"), "{log}");
}

#[test]
fn what_is_wrong_with_an_emulation_is_said_in_one_line() {
    let folder = Folder::new();
    let (_, solver) = job(&folder, 12);
    fs::write(
        folder.path("other.json"),
        r#"{"net":"x","layers":[{"name":"a","forward_ms":1,"backward_ms":1}]}"#,
    )
    .unwrap();
    let other = folder.name("other.json");
    for (flags, says) in [
        ("--link=latency=3", "a unit, such as 1.5us"),
        ("--link=speed=3", "known are latency"),
        ("--device=gpu", "is no device"),
        ("--device=emulated:slow=1", "REPLICA:FACTOR"),
        ("--device=emulated:/nowhere.json", "/nowhere.json"),
        ("--device=emulated:slow=7:2", "replicas 0 to 0"),
        ("--dilate=2", "belongs to --device=emulated"),
        ("--dilate=0 --device=emulated", "1 to 10000"),
    ] {
        let message = fails(&line(&format!("train --solver={solver} {flags}")));
        assert!(message.contains(says), "{flags}: {message}");
    }
    let message = fails(&line(&format!("train --solver={solver} --device=emulated:{other}")));
    assert!(message.contains("has no layer `b`"), "{message}");
}
