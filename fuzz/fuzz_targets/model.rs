//! A caffemodel, upgraded, and its weights.
#![no_main]

use std::path::Path;

use caffe::export::Weights;
use caffe_proto::{NetParameter, files, upgrade};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut net) = files::decode::<NetParameter>(Path::new("model"), bytes) else { return };
    if upgrade::upgrade_net(&mut net).is_ok() {
        let _ = Weights::of_model(&net);
    }
});
