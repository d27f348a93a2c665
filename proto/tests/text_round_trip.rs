//! Printed messages parse back equal: all files at hand, and random messages of all types.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;

use caffe_proto::{
    BlobProtoVector, Datum, NetParameter, SolverParameter, SolverState, descriptors,
    text::{CaffeMessage, parse, print},
};
use common::{Random, corpus, is_solver, random_message};

fn round_trip<T: CaffeMessage + PartialEq>(origin: &str, message: &T) {
    let text = print(message);
    let back: T = parse(origin, &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    // Compared as bytes, for which a NaN is equal to itself.
    assert_eq!(back.encode_to_vec(), message.encode_to_vec(), "{origin}\n{text}");
    assert_eq!(print(&back), text);
}

#[test]
fn files_print_and_parse_back() {
    for path in corpus() {
        let (origin, text) = (path.display().to_string(), fs::read_to_string(&path).unwrap());
        if is_solver(&path) {
            round_trip::<SolverParameter>(&origin, &parse(&origin, &text).unwrap());
        } else {
            round_trip::<NetParameter>(&origin, &parse(&origin, &text).unwrap());
        }
    }
}

fn random_round_trips<T: CaffeMessage + PartialEq>(seed: u64, count: usize) {
    let desc = descriptors().get_message_by_name(&T::full_name()).unwrap();
    let mut random = Random(seed);
    for i in 0..count {
        let rarity = 1 + i % 12;
        let message: T = random_message(&mut random, &desc, rarity).transcode_to().unwrap();
        round_trip(&format!("{} {seed}.{i}", T::NAME), &message);
    }
}

#[test]
fn random_messages_print_and_parse_back() {
    random_round_trips::<NetParameter>(1, 200);
    random_round_trips::<SolverParameter>(2, 200);
    random_round_trips::<SolverState>(3, 200);
    random_round_trips::<Datum>(4, 400);
    random_round_trips::<BlobProtoVector>(5, 200);
}

#[test]
fn the_style_is_caffes() {
    let text = r#"name: "style"
layer {
  name: "conv1"
  type: "Convolution"
  bottom: "data"
  top: "conv1"
  param {
    lr_mult: 1
  }
  param {
    lr_mult: 2
    decay_mult: 0
  }
  include {
    phase: TRAIN
    stage: "a"
    stage: "b"
  }
  convolution_param {
    num_output: 20
    pad: 1
    pad: 2
    weight_filler {
      type: "gaussian"
      std: 0.0001
    }
    bias_filler {
      type: "constant"
      value: 1e-05
    }
    engine: CAFFE
  }
}
"#;
    assert_eq!(print(&parse::<NetParameter>("style", text).unwrap()), text);
}
