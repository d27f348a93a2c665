//! A record of a database.
#![no_main]

use caffe::data::datum::Image;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = Image::decode(bytes.to_vec().into());
});
