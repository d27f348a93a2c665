//! JPEG and PNG beside OpenCV: the answers in `fixtures/images` were made by `fixtures/make.py`.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::PathBuf;

use caffe::data::image::{Colour, Format, ImageProblem, Picture, Raster};

fn fixture(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images");
    fs::read(folder.join(name)).unwrap()
}

fn inspect(bytes: Vec<u8>) -> Result<Picture, ImageProblem> {
    Picture::inspect(bytes.into())
}

fn decode(name: &str, colour: Colour) -> Raster {
    inspect(fixture(name)).unwrap().decode(colour).unwrap()
}

/// The largest difference between a decoded fixture and OpenCV's answer.
#[track_caller]
fn differs(name: &str, colour: Colour) -> u8 {
    let suffix = match colour {
        Colour::Native => "native",
        Colour::Bgr => "colour",
        Colour::Grey => "grey",
    };
    let (got, wanted) = (decode(name, colour), fixture(&format!("{name}.{suffix}")));
    assert_eq!([got.height, got.width], [11, 14], "{name}");
    assert_eq!(got.pixels.len(), wanted.len(), "{name} {suffix}");
    assert_eq!(inspect(fixture(name)).unwrap().shape(colour), got.shape(), "{name} {suffix}");
    got.pixels.iter().zip(&wanted).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn every_kind_of_image_decodes_as_in_opencv() {
    let all = [Colour::Native, Colour::Bgr, Colour::Grey];
    for name in [
        "colour.jpg",
        "progressive.jpg",
        "grey.jpg",
        "inks.jpg",
        "colour.png",
        "grey.png",
        "alpha.png",
        "bits.png",
        "palette.png",
    ] {
        for colour in all {
            // What a PNG's colours weigh in grey is a matter of rounding between libraries.
            let allowed = u8::from(name.ends_with("png") && colour == Colour::Grey);
            let found = differs(name, colour);
            assert!(found <= allowed, "{name} {colour:?}: differs by {found}");
        }
    }
    for name in ["sixteen.png", "sixteen_colour.png"] {
        for colour in [Colour::Bgr, Colour::Grey] {
            let found = differs(name, colour);
            assert!(found <= 1, "{name} {colour:?}: differs by {found}");
        }
        let native = inspect(fixture(name)).unwrap().decode(Colour::Native);
        assert_eq!(native, Err(ImageProblem::SixteenBits));
    }
}

#[test]
fn resizing_is_opencvs_within_a_grey_level() {
    for [height, width] in [[22, 28], [7, 9], [5, 31], [1, 1], [33, 3]] {
        let wanted = fixture(&format!("resize_{height}x{width}"));
        let got = decode("colour.png", Colour::Bgr).resize(height, width);
        assert_eq!((got.height, got.width, got.pixels.len()), (height, width, wanted.len()));
        let most = got.pixels.iter().zip(&wanted).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(most <= 1, "{height} x {width}: differs by {most}");
    }
}

#[test]
fn planes_are_the_channels() {
    let raster = decode("colour.png", Colour::Bgr);
    let planes = raster.planes();
    let four = decode("alpha.png", Colour::Native);
    for (raster, planes) in [(&raster, planes), (&four, four.planes())] {
        let plane = raster.height * raster.width;
        for (i, &value) in raster.pixels.iter().enumerate() {
            let (place, channel) = (i / raster.channels, i % raster.channels);
            assert_eq!(planes[channel * plane + place], value);
        }
    }
}

#[test]
fn what_is_encoded_decodes_again() {
    for name in ["colour.png", "grey.png", "alpha.png"] {
        let raster = decode(name, Colour::Native);
        let png = raster.encode(Format::Png).unwrap();
        assert_eq!(inspect(png).unwrap().decode(Colour::Native).unwrap(), raster);
        let jpeg = inspect(raster.encode(Format::Jpeg).unwrap()).unwrap();
        assert_eq!((jpeg.format(), jpeg.shape(Colour::Bgr)), (Format::Jpeg, [3, 11, 14]));
        jpeg.decode(Colour::Bgr).unwrap();
    }
}

#[test]
fn absurd_and_foreign_images_are_refused_before_decoding() {
    let mut png = fixture("colour.png");
    // IHDR: width and height at bytes 16 and 20, then a checksum over type and content.
    png[16..24].copy_from_slice(&[0, 0, 0x75, 0x30, 0, 0, 0x75, 0x30]);
    let checksum = flate2::Crc::new();
    let mut checksum = checksum;
    checksum.update(&png[12..29]);
    png[29..33].copy_from_slice(&checksum.sum().to_be_bytes());
    let error = inspect(png).unwrap_err();
    assert_eq!(error, ImageProblem::TooLarge { height: 30_000, width: 30_000 });
    let mut jpeg = fixture("grey.jpg");
    let frame = jpeg.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].copy_from_slice(&[0x75, 0x30, 0x75, 0x30]);
    assert!(matches!(inspect(jpeg).unwrap_err(), ImageProblem::TooLarge { .. }));
    for (bytes, wanted) in [
        (&b""[..], "the image is empty"),
        (b"BM______", "seems to be a BMP"),
        (b"GIF89a", "seems to be a GIF"),
        (b"hello", "begins like no image"),
    ] {
        assert!(inspect(bytes.to_vec()).unwrap_err().to_string().contains(wanted));
    }
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    for name in ["colour.jpg", "progressive.jpg", "colour.png", "palette.png", "inks.jpg"] {
        let whole = fixture(name);
        let pixels = |bytes: Vec<u8>| inspect(bytes)?.decode(Colour::Bgr);
        for cut in 0..whole.len() - 2 {
            // A progressive JPEG or the last bytes of a PNG may be missing unnoticed; nothing else.
            let late = cut + 16 > whole.len();
            let cut = pixels(whole[..cut].to_vec());
            assert!(late || cut.is_err(), "{name}");
        }
        for at in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                let _ = pixels(bytes);
            }
        }
    }
}

#[test]
fn a_photograph_with_bytes_between_markers_is_still_read() {
    // libjpeg complains about these, and every viewer shows the image.
    let mut jpeg = fixture("colour.jpg");
    let end = jpeg.len() - 2;
    jpeg.splice(end..end, [0x12, 0x34]);
    let got = inspect(jpeg).unwrap().decode(Colour::Bgr).unwrap();
    assert_eq!(got, decode("colour.jpg", Colour::Bgr));
}
