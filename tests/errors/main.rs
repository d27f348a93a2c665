//! What the program says about bad input, word for word.
//!
//! `cases/NAME.txt` holds a command line behind `$ ` and the message that must come of it; the other
//! files of `cases/` are what these command lines name. Every command must end with exit code 1 and
//! that one message, and leave the folder as it is. `UPDATE_GOLDEN=1 cargo test --test errors` writes
//! what the program says today into the files: read the difference before you commit it.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use caffe::layers::LAYERS;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errors/cases")
}

/// The files of the folder with this extension, in order of their names.
fn files(extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder()).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    files.sort();
    files
}

/// Every file below the folder, with its size.
fn inventory(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(inventory(&path)),
            false => all.push((path.clone(), path.metadata().unwrap().len())),
        }
    }
    all.sort();
    all
}

/// Runs a command line that has to fail; returns what it says, or how it misbehaved.
fn message_of(line: &str) -> Result<String, String> {
    let mut words = line.split_whitespace();
    assert_eq!(words.next(), Some("caffe"), "a case must call `caffe`: {line}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_caffe"));
    let output = command.args(words).current_dir(folder()).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let errors = log.lines().filter(|l| l.starts_with('E')).count();
    let from = log.lines().position(|l| l.starts_with('E'));
    match (output.status.code(), errors, from) {
        (Some(1), 1, Some(from)) if !log.contains("panicked") => {
            let message: Vec<&str> = log.lines().skip(from).collect();
            let message = message.join("\n");
            let (_, message) = message.split_once("] ").ok_or(log.clone())?;
            Ok(format!("{message}\n"))
        }
        (code, ..) => Err(format!("exit code {code:?}, {errors} error lines:\n{log}")),
    }
}

#[test]
fn bad_input_is_answered_with_one_clear_message() {
    let before = inventory(&folder());
    let update = env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for file in files("txt") {
        let text = fs::read_to_string(&file).unwrap();
        let (command, wanted) = text.split_once('\n').unwrap_or((&text, ""));
        let said = match message_of(command.strip_prefix("$ ").unwrap_or(command)) {
            Ok(message) => message,
            Err(misbehaviour) => {
                wrong.push(format!("{command}\n{misbehaviour}"));
                continue;
            }
        };
        if update {
            fs::write(&file, format!("{command}\n{said}")).unwrap();
        } else if said != wanted {
            wrong.push(format!("{command}\nsays    {said}instead {wanted}"));
        }
    }
    assert!(update || inventory(&folder()) == before, "a command changed {}", folder().display());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Layers at whose bottoms a net can be wrong: all of them.
#[test]
fn every_layer_type_has_a_case() {
    let nets: String = files("prototxt").iter().map(|p| fs::read_to_string(p).unwrap()).collect();
    let known = |kind: &str| nets.contains(&format!("type: \"{kind}\""));
    let missing: Vec<_> = LAYERS.iter().map(|d| d.type_name).filter(|t| !known(t)).collect();
    assert!(missing.is_empty(), "no net with wrong bottoms for {missing:?}");
}
