//! A record of a database, and the image in it.
#![no_main]

use caffe::data::datum::Labelled;
use caffe::data::image::Colour;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(record) = Labelled::parse(bytes.to_vec().into(), Colour::Bgr) else { return };
    if record.image.shape().iter().product::<usize>() < 1 << 24 {
        let _ = record.image.image();
    }
});
