//! `docs/caffe-compatibility.md` has a line for everything there is: each layer type with its
//! parameters, each command with its flags, each field of Caffe's messages.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::process::Command;

use caffe::layers::LAYERS;

const PAGE: &str = include_str!("../docs/caffe-compatibility.md");

/// What `caffe … --help` prints.
fn help(command: &[&str]) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_caffe"));
    let output = program.args(command).arg("--help").output().unwrap();
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The names in the list of commands.
fn commands() -> Vec<String> {
    let text = help(&[]);
    let list = text.split_once("Commands:\n").unwrap().1;
    let lines = list.lines().take_while(|line| line.starts_with("  "));
    // Continuations of a description are indented further.
    let first = lines.filter(|line| !line.starts_with("   "));
    first.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn every_layer_type_has_a_line_with_its_state() {
    let states = ["as is", "differs: ", "not yet: "];
    for def in LAYERS {
        let line = PAGE.lines().find(|l| l.starts_with(&format!("| `{}` |", def.type_name)));
        let Some(line) = line else { panic!("no line for {}", def.type_name) };
        let state = line.trim_end_matches(" |").rsplit("| ").next().unwrap();
        assert!(states.iter().any(|known| state.starts_with(known)), "{line}");
    }
}

#[test]
fn every_command_and_every_flag_of_it_is_named() {
    let commands = commands();
    assert!(commands.len() > 10, "{commands:?}");
    for command in &commands {
        assert!(PAGE.contains(&format!("`caffe {command}`")), "caffe {command}");
    }
    let mut missing = Vec::new();
    for command in ["train", "test", "time", "convert_imageset", "compute_image_mean"] {
        let text = help(&[command]);
        let flags = text.lines().filter_map(|line| line.trim().split_once("--"));
        let flags = flags.filter(|(before, _)| before.is_empty() || before.starts_with('-'));
        for flag in flags.filter_map(|(_, line)| line.split([' ', '=']).next()) {
            if !PAGE.contains(&format!("`-{flag}`")) && !PAGE.contains(&format!("`--{flag}`")) {
                missing.push(format!("--{flag} of caffe {command}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_field_of_caffes_messages_is_named() {
    let path = common::shared().join("reference/caffe-proto-fields.tsv");
    let Ok(table) = std::fs::read_to_string(&path) else {
        println!("skipped: no table {} (CAFFE_SHARED names its folder)", path.display());
        return;
    };
    // Old messages are upgraded as a whole; messages of messages are named by their own fields.
    let old = ["V0LayerParameter", "V1LayerParameter", "BlobProtoVector"];
    let (mut seen, mut missing) = (0, Vec::new());
    for row in table.lines().skip(1) {
        let columns: Vec<&str> = row.split('\t').collect();
        let (message, field, kind) = (columns[0], columns[1], columns[3]);
        if old.iter().any(|m| message.starts_with(m)) || kind == "enum" || field.ends_with("_param")
        {
            continue;
        }
        seen += 1;
        if !PAGE.contains(&format!("`{field}`")) {
            missing.push(format!("{message}.{field}"));
        }
    }
    assert!(seen > 250, "{seen} rows");
    assert!(missing.is_empty(), "{missing:?}");
}
