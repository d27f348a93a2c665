//! The arrows between crates and modules, as `docs/ARCHITECTURE.md` states them.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Files under `folder` that contain `word` outside comments.
fn naming(folder: &str, word: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join(folder), &mut files);
    assert!(!files.is_empty(), "{folder} holds no source");
    let names = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(word))
    };
    files
        .iter()
        .filter(|p| names(p))
        .map(|p| p.strip_prefix(root).unwrap().display().to_string())
        .collect()
}

#[test]
fn only_trainer_and_command_line_know_the_actors() {
    let outside: Vec<String> = naming("src", "caffe_actors")
        .into_iter()
        .filter(|f| !f.starts_with("src/trainer/") && !f.starts_with("src/cmd/"))
        // The crate's error type carries the fault that ended a job.
        .filter(|f| f != "src/error.rs")
        .collect();
    assert!(outside.is_empty(), "{outside:?}");
}

#[test]
fn actors_know_nothing_of_ours() {
    for word in ["caffe_proto", "caffe::"] {
        assert_eq!(naming("actors/src", word), Vec::<String>::new(), "{word}");
    }
}

#[test]
fn proto_knows_nothing_of_ours() {
    for word in ["caffe_actors", "caffe::"] {
        assert_eq!(naming("proto/src", word), Vec::<String>::new(), "{word}");
    }
}

#[test]
fn the_engine_calls_no_mpi() {
    assert_eq!(naming("src", "mpi::"), Vec::<String>::new());
}
