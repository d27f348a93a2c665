//! The three upgrade tools: what they write, what they say, what they refuse.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Output};

use caffe_proto::{NetParameter, SolverParameter, read_binary_file, read_text_file, text};

fn caffe(command: &str, from: &Path, to: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_caffe")).arg(command).args([from, to]).output().unwrap()
}

/// Runs a tool that has to succeed, and returns its log.
fn log_of(command: &str, from: &Path, to: &Path) -> String {
    let output = caffe(command, from, to);
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{log}");
    log
}

#[test]
fn a_net_of_2013_is_written_as_one_of_today() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old.prototxt"), folder.path().join("new.prototxt"));
    let v0 = "layers { layer { name: 'pad' type: 'padding' pad: 2 } bottom: 'x' top: 'p' }
              layers { layer { name: 'c' type: 'conv' num_output: 8 kernelsize: 5 } bottom: 'p' top: 'c' }
              input: 'x' input_dim: [1, 3, 8, 8]";
    std::fs::write(&old, v0).unwrap();
    let log = log_of("upgrade_net_proto_text", &old, &new);
    assert!(log.contains("1 layer of the oldest form"), "{log}");
    let wrote = format!("Wrote upgraded NetParameter text proto to {}", new.display());
    assert!(log.contains(&wrote), "{log}");
    let expected: NetParameter = text::parse(
        "expected",
        "layer { name: 'input' type: 'Input' top: 'x'
                 input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
         layer { name: 'c' type: 'Convolution' bottom: 'x' top: 'c'
                 convolution_param { num_output: 8 kernel_size: 5 pad: 2 } }",
    )
    .unwrap();
    assert_eq!(read_text_file::<NetParameter>(&new).unwrap(), expected);

    // The net in its new form is left as it is, and told so.
    let again = folder.path().join("again.prototxt");
    let log = log_of("upgrade_net_proto_text", &new, &again);
    assert!(log.contains("File already in latest proto format: "), "{log}");
    assert_eq!(std::fs::read(&new).unwrap(), std::fs::read(&again).unwrap());
}

#[test]
fn models_and_solvers_are_upgraded_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let v1: NetParameter =
        text::parse("v1", "layers { name: 'ip' type: INNER_PRODUCT blobs { data: 1 data: 2 } }")
            .unwrap();
    caffe_proto::write_binary_file_atomic(path("old.caffemodel"), &v1).unwrap();
    let log = log_of("upgrade_net_proto_binary", &path("old.caffemodel"), &path("new.caffemodel"));
    assert!(log.contains("Wrote upgraded NetParameter binary proto to "), "{log}");
    let new: NetParameter = read_binary_file(path("new.caffemodel")).unwrap();
    assert_eq!((new.layer[0].r#type(), &new.layer[0].blobs), ("InnerProduct", &v1.layers[0].blobs));

    std::fs::write(path("old_solver"), "net: 'n' base_lr: 0.1 solver_type: ADAGRAD").unwrap();
    let log = log_of("upgrade_solver_proto_text", &path("old_solver"), &path("new_solver"));
    assert!(log.contains("Wrote upgraded SolverParameter text proto to "), "{log}");
    let solver: SolverParameter = read_text_file(path("new_solver")).unwrap();
    assert_eq!(
        (solver.r#type(), solver.solver_type, solver.snapshot_prefix.as_ref()),
        ("AdaGrad", None, None)
    );
}

#[test]
fn what_is_no_net_is_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    std::fs::write(&old, "layers { layer { name: 'x' type: 'warp' } }").unwrap();
    for (command, words) in [
        ("upgrade_net_proto_text", "Failed to parse input text file as NetParameter: "),
        ("upgrade_net_proto_binary", "Failed to parse input binary file as NetParameter: "),
        ("upgrade_solver_proto_text", "Failed to parse input text file as SolverParameter: "),
    ] {
        let output = caffe(command, &old, &new);
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.contains(words) && log.contains("old"), "{log}");
        assert!(!new.exists());
    }
}
