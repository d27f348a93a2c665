//! The program as its users meet it: the real binary, its exit codes and what it says.
//!
//! Here: words on the command line and the commands that only tell something. `converters`, `nets`:
//! the commands that work, `tools`: Caffe's tools under their own names,
//! `cuda`: CUDA's libraries, `doctor`: what is wrong and what bound a run, `net_tools`: those that
//! look at nets and logs, `emulated`: jobs on emulated devices, `plan`: what a job would do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod converters;
mod cuda;
mod doctor;
mod emulated;
mod images;
mod net_tools;
mod nets;
mod plan;
mod support;
mod tools;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use support::{Folder, caffe, fails, line, run, succeeds, text};

const COMMANDS: [&str; 26] = [
    "train",
    "test",
    "time",
    "plan",
    "device_query",
    "doctor",
    "layers",
    "convert_imageset",
    "convert_cifar_data",
    "convert_mnist_data",
    "convert_mnist_siamese_data",
    "compute_image_mean",
    "extract_features",
    "classification",
    "net",
    "parse_log",
    "blackbox",
    "trace",
    "plot",
    "db",
    "generate_data",
    "export",
    "import",
    "upgrade_net_proto_text",
    "upgrade_net_proto_binary",
    "upgrade_solver_proto_text",
];

#[test]
fn every_command_explains_itself() {
    let (help, _) = succeeds(&["--help"]);
    for command in COMMANDS {
        assert!(help.contains(command), "{command} is not in\n{help}");
        let (long, log) = succeeds(&[command, "--help"]);
        assert!(long.contains("Usage: caffe ") && long.contains("Examples:"), "{long}");
        assert_eq!(log, "");
        for spelling in
            [format!("{command} -help"), format!("help {command}"), format!("{command} -h")]
        {
            assert_eq!(succeeds(&line(&spelling)).0, long, "{spelling}");
        }
    }
    let (version, _) = succeeds(&["--version"]);
    assert!(version.starts_with(concat!("caffe ", env!("CARGO_PKG_VERSION"))), "{version}");
}

#[test]
fn without_a_command_the_help_is_shown_and_the_exit_code_is_1() {
    let output = caffe().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("Usage: caffe"));
    assert!(output.stdout.is_empty());
}

#[test]
fn all_spellings_of_a_flag_reach_the_command() {
    for spelling in [
        "train -solver no-such.prototxt",
        "train --solver=no-such.prototxt",
        "train -solver=no-such.prototxt",
        "train --solver no-such.prototxt",
        "-solver no-such.prototxt train",
        "train -solver no-such.prototxt -level -1 -stage a,b -sigint_effect stop",
        "train --solver=no-such.prototxt --sighup-effect=none -sigint_effect snapshot",
        "train -solver no-such.prototxt --mode=sync --workers=2 --threads=2 --readers=2",
        "train -solver no-such.prototxt --batch=global --exact --noexact --trace=t --trace_layers",
        "train -logtostderr -solver no-such.prototxt -weights a,b -gpu=",
    ] {
        let message = fails(&line(spelling));
        assert!(
            message.contains("no-such.prototxt") && message.contains("no such file"),
            "{message}"
        );
    }
}

#[test]
fn what_is_wrong_on_a_command_line_is_said_in_one_line() {
    for (args, needle) in [
        ("trian -solver x", "unknown command `trian`; did you mean `train`?"),
        ("-solver x", "no command"),
        ("train -slover x", "no flag `-slover`; did you mean `-solver`?"),
        ("train -iterations 5", "belongs to `caffe test`, `caffe time`"),
        ("train -log_dir x", "standard error"),
        ("train", "`caffe train` needs --solver <FILE>"),
        ("train -solver", "`-solver` needs a value"),
        ("train -solver x y", "has no use for `y`"),
        (
            "train -solver x --mode=asynk",
            "--mode is one of sync, hogwild, ssp, local-sgd, not `asynk`",
        ),
        ("train -solver x -sigint_effect stp", "did you mean `stop`?"),
        ("train -solver x --batch=all", "replica, global"),
        ("train -solver x --workers=0", "--workers cannot be `0`"),
        ("train -solver x --threads=many", "--threads cannot be `many`"),
        ("train -solver x --exact=perhaps", "true or false"),
        ("train -solver x -gpu first", "-gpu takes `all` or numbers"),
        ("test -model no-such", "no-such: no such file"),
        ("test -model x -weights y -iterations 0", "-iterations must be at least 1"),
        ("test -model no-such -weights y", "no-such: no such file"),
        ("time -model no-such", "no-such: no such file"),
        ("time -model x -phase BOTH", "--phase is one of TRAIN, TEST"),
        ("layers Covnolution", "unknown layer type `Covnolution`"),
        ("convert_cifar_data", "needs <INPUT_FOLDER>, <OUTPUT_FOLDER>"),
        ("convert_cifar_data a b rocksdb", "use leveldb or lmdb"),
        ("convert_mnist_data a b c -backend rocksdb", "use leveldb or lmdb"),
        ("convert_mnist_data no-such b c", "cannot read `no-such`"),
        ("compute_image_mean no-such", "`no-such`: there is no such database"),
        ("compute_image_mean no-such -backend=lmdb", "`no-such` is not an LMDB"),
        ("db stat no-such", "`no-such`: there is no such database"),
        ("db copy no-such", "`no-such`: there is no such database"),
        ("db look x", "stat, verify, copy, shard"),
        ("convert_imageset a no-such c", "cannot read `no-such`"),
        ("convert_imageset a b c -resize_width=3", "go together"),
        ("convert_imageset a b c -encode_type=bmp", "png or jpg"),
        ("generate_data x --train=0", "--train cannot be `0`"),
        ("help trian", "did you mean `train`?"),
    ] {
        let message = fails(&line(args));
        assert!(message.contains(needle), "{args}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn arguments_that_are_not_utf8_are_no_reason_to_panic() {
    let odd = OsStr::from_bytes(b"\xff\xfe");
    assert!(fails(&[odd]).contains("unknown command"));
    assert!(fails(&["train".as_ref(), "-solver".as_ref(), odd]).contains("no such file"));
    fails(&["train".as_ref(), "-mode".as_ref(), odd]);
    fails(&["layers".as_ref(), odd]);
}

#[test]
fn faults_of_a_prototxt_are_shown_with_their_place() {
    let folder = Folder::new();
    let solver = folder.write("solver.prototxt", "net: 'x'\nbase_lr: 0.1\nmax_itr: 10\n");
    let message = fails(&["train", "-solver", &solver]);
    assert!(message.contains("solver.prototxt:3:1"), "{message}");
    assert!(message.contains("   3 | max_itr: 10") && message.contains("| ^^^^^^^"), "{message}");
    assert!(message.contains("did you mean `max_iter`?"), "{message}");

    let net = folder.write("net.prototxt", "layer { name: 'a' type: 'RelU' }\n");
    let message = fails(&["time", "-model", &net]);
    assert!(
        message.contains("net.prototxt:1") && message.contains("did you mean `ReLU`?"),
        "{message}"
    );

    let solver = folder.write("bare.prototxt", "base_lr: 0.1 lr_policy: 'fixed' max_iter: 1\n");
    assert!(fails(&["train", "-solver", &solver]).contains("must name one train net"));
}

#[test]
fn a_gpu_that_is_not_there_is_refused_and_what_there_is_is_named() {
    let folder = Folder::new();
    let solver = folder.write("s.prototxt", "net: 'no-such-net' solver_mode: GPU base_lr: 1\n");
    let message = fails(&["train", "-solver", &solver, "-gpu", "99"]);
    assert!(message.contains("CUDA") || message.contains("there is no GPU 99"), "{message}");
    let message = fails(&["test", "-model", "x", "-weights", "y", "-gpu", "99"]);
    assert!(message.contains("CUDA") || message.contains("there is no GPU 99"), "{message}");
    // A solver file that says GPU is taken as it is.
    let output = run(&["train", "-solver", &solver]);
    let log = text(&output.stderr);
    let warning = log.lines().find(|l| l.starts_with('W')).unwrap_or_default();
    assert!(warning.contains("solver_mode is GPU"), "{log}");
    assert!(log.contains("no-such-net"), "{log}");
}

#[test]
fn device_query_tells_what_there_is() {
    let (out, _) = succeeds(&["device_query"]);
    for label in ["Processor:", "Cores open to this process:", "Vector extensions:", "oneDNN:"] {
        assert!(out.contains(label), "{label} is not in\n{out}");
    }
    assert!(
        out.contains("no CUDA driver found (looked for libcuda.so") || out.contains("CUDA driver:")
    );
    if out.contains("Device id:") {
        println!("skipped: this machine has a GPU");
        return;
    }
    assert!(fails(&["device_query", "-gpu", "all"]).starts_with("-gpu all: "));
}

#[test]
fn layers_lists_and_describes() {
    let (list, _) = succeeds(&["layers"]);
    assert!(list.lines().any(|l| l.starts_with("ReLU ")), "{list}");
    let (data, _) = succeeds(&["layers", "Data"]);
    assert!(data.contains("bottoms   0") && data.contains("data_param {"), "{data}");
    assert!(data.contains("  mirror: bool, default false"), "{data}");
    assert!(fails(&["layers", "Relu"]).contains("did you mean `ReLU`?"));
}

#[test]
fn a_reader_that_closes_the_pipe_is_no_error() {
    for args in [&["layers"][..], &["--help"], &["device_query"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = caffe().args(args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    }
    if let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") {
        let output = caffe().arg("layers").stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("cannot write to standard output"));
    }
}
