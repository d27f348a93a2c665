//! A solver's prototxt, upgraded.
#![no_main]

use caffe_proto::{SolverParameter, text, upgrade};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(mut solver) = text::parse::<SolverParameter>("solver", text) {
        let _ = upgrade::upgrade_solver(&mut solver);
    }
});
