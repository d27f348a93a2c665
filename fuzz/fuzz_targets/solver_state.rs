//! A solverstate.
#![no_main]

use std::path::Path;

use caffe_proto::{SolverState, files};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = files::decode::<SolverState>(Path::new("state"), bytes);
});
