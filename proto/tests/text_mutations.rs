//! Damaged texts: the parser neither panics nor hangs, every error can be shown, and what it reads
//! is what prost-reflect's own parser reads.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::{
    fs,
    time::{Duration, Instant},
};

use caffe_proto::{
    Message, NetParameter, SolverParameter, descriptors,
    text::{self, CaffeMessage, Fault, LayerLines},
};
use common::{Random, corpus, is_solver};
use prost_reflect::DynamicMessage;

const MUTANTS: usize = 6000;

/// Pieces that mean something to the parser.
const PIECES: [&str; 40] = [
    "{",
    "}",
    "<",
    ">",
    "[",
    "]",
    ":",
    ",",
    ";",
    "-",
    "\"",
    "'",
    "\\",
    "#",
    "\n",
    "\r\n",
    "\t",
    "/",
    ".",
    "0",
    "07",
    "0x",
    "0x1F",
    "1e",
    "1e5",
    ".5",
    "2.f",
    "-1",
    "99999999999",
    "inf",
    "nan",
    "true",
    "TRAIN",
    "layer",
    "layers {",
    "name: 'x'",
    "param < >",
    "é",
    "\u{feff}",
    "\u{0}",
];

fn mutant(random: &mut Random, base: &str) -> String {
    let mut text: Vec<char> = base.chars().collect();
    // Short texts, so that single faults matter and thousands of them are quick.
    let start = random.below(text.len());
    let mut text: Vec<char> = if random.below(4) == 0 {
        text.split_off(start).into_iter().take(400).collect()
    } else {
        text.into_iter().take(1500).collect()
    };
    for _ in 0..1 + random.below(3) {
        let at = random.below(text.len() + 1);
        let to = (at + random.below(6)).min(text.len());
        match random.below(5) {
            0 => drop(text.drain(at..to)),
            1 => drop(text.splice(at..at, random.pick(&PIECES).chars())),
            2 => drop(text.splice(at..to, random.pick(&PIECES).chars())),
            3 => text.truncate(at),
            _ => {
                let copy: Vec<char> = text[at..(at + 30).min(text.len())].to_vec();
                let there = random.below(text.len() + 1);
                drop(text.splice(there..there, copy));
            }
        }
    }
    text.into_iter().collect()
}

/// Parses with our parser and with prost-reflect's and compares. Answers whether ours read it.
fn compare<T: CaffeMessage>(text: &str) -> bool {
    let begun = Instant::now();
    let ours = text::parse::<T>("mutant", text);
    assert!(begun.elapsed() < Duration::from_secs(2), "slow on {text:?}");
    let desc = descriptors().get_message_by_name(&T::full_name()).unwrap();
    let theirs = DynamicMessage::parse_text_format(desc, text)
        .map(|message| message.transcode_to::<T>().unwrap());
    match (&ours, &theirs) {
        (Ok(ours), Ok(theirs)) => {
            assert_eq!(ours.encode_to_vec(), theirs.encode_to_vec(), "{text}");
        }
        (Ok(_), Err(theirs)) => {
            // What C++ protobuf reads and prost-reflect does not.
            let known = ["whitespace is required", "invalid string character", "a message value"];
            let reason = theirs.to_string();
            assert!(known.iter().any(|k| reason.contains(k)), "{reason}\n{text}");
        }
        (Err(ours), Ok(_)) => {
            // What C++ protobuf refuses and prost-reflect does not.
            let known =
                matches!(ours.fault(), Fault::UnknownEnumValue { .. } | Fault::MissingField { .. });
            assert!(known, "{ours}\n{text}");
        }
        (Err(_), Err(_)) => {}
    }
    if let Err(error) = &ours {
        assert!(error.line() <= text.matches('\n').count() + 1);
        assert!(error.to_string().contains('^'));
    }
    ours.is_ok()
}

#[test]
fn damaged_texts_are_refused_or_read_but_never_break_the_parser() {
    let mut bases =
        vec![(false, "name: 'n'\nlayer { name: 'a' type: 'ReLU' loss_weight: 1.5 }".into())];
    bases.extend(corpus().iter().map(|p| (is_solver(p), fs::read_to_string(p).unwrap())));
    let mut random = Random(20);
    let mut read = 0;
    for _ in 0..MUTANTS {
        let (solver, base) = random.pick(&bases);
        let text = mutant(&mut random, base);
        let accepted = if *solver {
            compare::<SolverParameter>(&text)
        } else {
            compare::<NetParameter>(&text)
        };
        read += usize::from(accepted);
        let lines = LayerLines::scan(&text);
        if let (true, false, Ok(net)) =
            (accepted, solver, text::parse::<NetParameter>("mutant", &text))
        {
            let layers = net.layer.len() + net.layers.len();
            assert_eq!((0..layers + 1).filter_map(|i| lines.get(i)).count(), layers, "{text}");
        }
    }
    // Both outcomes must be common, or the test tests little.
    assert!((MUTANTS / 20..MUTANTS * 19 / 20).contains(&read), "{read} of {MUTANTS} were read");
}

#[test]
fn deep_nesting_ends() {
    let text = "layer { ".repeat(100_000);
    assert!(text::parse::<NetParameter>("deep", &text).is_err());
    assert!(LayerLines::scan(&text).get(0).is_some());
}

#[test]
fn a_long_list_is_read_in_linear_time() {
    let text = format!("layer {{ loss_weight: [{}1] }}", "0.5, ".repeat(300_000));
    let begun = Instant::now();
    let net = text::parse::<NetParameter>("long", &text).unwrap();
    assert_eq!(net.layer[0].loss_weight.len(), 300_001);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(net.encoded_len() > 1_200_000);
}
