//! A net's prototxt, upgraded, printed and read again.
#![no_main]

use caffe_proto::{NetParameter, text, upgrade};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(mut net) = text::parse::<NetParameter>("net", text) else { return };
    if upgrade::upgrade_net(&mut net).is_ok() {
        let printed = text::print(&net);
        assert!(text::parse::<NetParameter>("printed", &printed).is_ok(), "{printed}");
    }
});
