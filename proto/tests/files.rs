//! Files on disk: what is wrong with one is said, and none is ever left half-written.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use caffe_proto::{
    BlobProto, BlobShape, FileError, LayerParameter, Message, NetParameter, SolverState, files,
    net_from_file, read_binary_file, read_text_file, write_binary_file_atomic, write_file_atomic,
    write_text_file_atomic,
};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn put(folder: &TempDir, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn model() -> NetParameter {
    let blob = BlobProto {
        shape: Some(BlobShape { dim: vec![2, 3] }),
        data: vec![1.0, -2.5, 0.0, f32::MIN_POSITIVE, 4.0, 5.0],
        ..Default::default()
    };
    let layer = LayerParameter {
        name: Some("ip".into()),
        r#type: Some("InnerProduct".into()),
        blobs: vec![blob; 2],
        ..Default::default()
    };
    NetParameter { name: Some("model".into()), layer: vec![layer; 3], ..Default::default() }
}

fn error(path: &Path) -> String {
    let error = read_binary_file::<NetParameter>(path).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with(&path.display().to_string()), "{text}");
    text
}

#[test]
fn what_is_written_is_read() {
    let folder = folder();
    let model = model();
    let binary = folder.path().join("m.caffemodel");
    write_binary_file_atomic(&binary, &model).unwrap();
    assert_eq!(read_binary_file::<NetParameter>(&binary).unwrap(), model);
    assert_eq!(fs::read(&binary).unwrap(), model.encode_to_vec());
    let text = folder.path().join("m.prototxt");
    write_text_file_atomic(&text, &model).unwrap();
    assert_eq!(read_text_file::<NetParameter>(&text).unwrap(), model);
    assert_eq!(names(&folder), ["m.caffemodel", "m.prototxt"]);
}

fn names(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_failed_write_leaves_the_old_file_and_no_other() {
    let folder = folder();
    // A folder that is not empty cannot be replaced by a file.
    fs::create_dir(folder.path().join("taken")).unwrap();
    put(&folder, "taken/inside", "x");
    let error = write_file_atomic(folder.path().join("taken"), b"new").unwrap_err();
    assert!(matches!(error, FileError::Write { .. }), "{error}");
    assert_eq!(names(&folder), ["taken"]);
    let error = write_file_atomic(folder.path().join("absent/file"), b"new").unwrap_err();
    assert!(error.to_string().contains("cannot write"), "{error}");
    let old = put(&folder, "file", "old");
    write_file_atomic(&old, b"new").unwrap();
    assert_eq!(fs::read(&old).unwrap(), b"new");
    assert_eq!(names(&folder), ["file", "taken"]);
}

#[test]
fn a_left_over_temporary_file_is_in_nobodys_way() {
    let folder = folder();
    let pid = std::process::id();
    for n in 0..64 {
        put(&folder, &format!(".file.{pid}.{n}.tmp"), "half");
    }
    write_file_atomic(folder.path().join("file"), b"whole").unwrap();
    assert_eq!(fs::read(folder.path().join("file")).unwrap(), b"whole");
}

#[test]
fn a_relative_name_without_folder_can_be_written() {
    // The only test of this file that looks at the working directory: cargo sets it to the crate.
    let name = format!("tests-files-{}.tmp", std::process::id());
    write_file_atomic(&name, b"here").unwrap();
    assert_eq!(fs::read(&name).unwrap(), b"here");
    fs::remove_file(&name).unwrap();
}

#[test]
fn missing_files_are_called_by_name() {
    let folder = folder();
    let text = error(&folder.path().join("no.caffemodel"));
    assert!(text.contains("no such file"), "{text}");
    let error = net_from_file("no/such.prototxt").unwrap_err().to_string();
    assert!(error.contains("relative to the working directory, which is /"), "{error}");
    let error = read_text_file::<NetParameter>(folder.path()).unwrap_err();
    assert!(matches!(error, FileError::Read { .. }), "{error}");
}

#[test]
fn a_file_cut_anywhere_is_an_error_or_ends_between_fields() {
    let folder = folder();
    let model = model();
    let bytes = model.encode_to_vec();
    let path = folder.path().join("cut.caffemodel");
    let mut whole = Vec::new();
    for length in 0..bytes.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        match read_binary_file::<NetParameter>(&path) {
            Ok(_) => whole.push(length),
            Err(FileError::Empty { .. }) => assert_eq!(length, 0),
            Err(FileError::Damaged { fault, .. }) => assert!(fault.offset < length, "{fault}"),
            Err(other) => panic!("{other}"),
        }
    }
    // Behind the name, and behind the first and the second layer.
    assert_eq!(whole.len(), 3, "{whole:?}");
}

#[test]
fn damage_is_located() {
    let folder = folder();
    let bytes = model().encode_to_vec();
    let text = error(&put(&folder, "cut", &bytes[..bytes.len() - 5]));
    assert!(text.contains("field `layer`"), "{text}");
    assert!(text.contains("bytes, but "), "{text}");
    // The type of the first layer becomes invalid UTF-8.
    let at = bytes.windows(5).position(|w| w == b"Inner").unwrap();
    let mut bad = bytes.clone();
    bad[at] = 0xff;
    let text = error(&put(&folder, "utf8", &bad));
    assert!(text.contains(&format!("at byte {}, field `layer.type`", at - 2)), "{text}");
    // Three floats and a half.
    let blob = [0x2a, 14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let error = read_binary_file::<BlobProto>(put(&folder, "blob", blob)).unwrap_err();
    assert!(matches!(error, FileError::Damaged { .. }), "{error}");
}

#[test]
fn files_of_other_kinds_are_recognised() {
    let folder = folder();
    let state = SolverState { iter: Some(7), learned_net: Some("x".into()), ..Default::default() };
    let cases: [(&[u8], &str); 8] = [
        (b"", "the file is empty; a NetParameter was expected"),
        (b"\x89HDF\r\n\x1a\nxxxxxxxx", "an HDF5 file"),
        (b"PK\x03\x04xxxxxxxxx", "a zip archive"),
        (b"name: \"net\"\nlayer { }\n", "text (a prototxt?)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>404</html>", "this is text"),
        (&state.encode_to_vec(), "wire type 0 where the field has 2"),
        // Field 15, which a net does not have.
        (&[0x78, 1, 0x78, 2], "a message of another type"),
    ];
    for (bytes, expected) in cases {
        let text = error(&put(&folder, "foreign", bytes));
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn a_binary_file_is_no_prototxt() {
    let folder = folder();
    let path = put(&folder, "latin", b"name: 'a'\n# caf\xe9\n");
    let error = read_text_file::<NetParameter>(&path).unwrap_err().to_string();
    assert!(error.contains(":2: not UTF-8 text (byte 15)"), "{error}");
    let path = put(&folder, "hdf5", b"\x89HDF\r\n\x1a\n");
    let error = files::read_text_file::<NetParameter>(&path).unwrap_err().to_string();
    assert!(error.contains("expected prototxt text, but this is an HDF5 file"), "{error}");
}

#[test]
fn a_text_error_names_file_and_line() {
    let folder = folder();
    let path = put(&folder, "bad.prototxt", "name: 'a'\nlayerr { }\n");
    let error = net_from_file(&path).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}:2:1: ", path.display())), "{error}");
    assert!(error.ends_with("did you mean `layer`?"), "{error}");
}
