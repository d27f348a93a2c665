//! PNG through the `png` crate.

use std::io::Cursor;

use png::{BitDepth, ColorType, Decoder, Encoder, Transformations};

use super::{Colour, Format, Header, ImageProblem, MOST_PIXELS, Raster};

pub(super) fn header(bytes: &[u8]) -> Result<Header, ImageProblem> {
    let mut decoder = Decoder::new(Cursor::new(bytes));
    let info = decoder.read_header_info().map_err(|e| damaged(&e))?;
    let (height, width) = (info.height as usize, info.width as usize);
    if height.saturating_mul(width) > MOST_PIXELS {
        // The decoder, asked for more, would make room for a row first.
        return Ok(Header { format: Format::Png, height, width, channels: 3 });
    }
    // Whether a palette holds transparent colours stands further on in the file.
    let reader = decoder.read_info().map_err(|e| damaged(&e))?;
    let info = reader.info();
    let see_through = info.trns.is_some()
        || matches!(info.color_type, ColorType::GrayscaleAlpha | ColorType::Rgba);
    let channels = match info.color_type {
        _ if see_through => 4,
        ColorType::Grayscale => 1,
        _ => 3,
    };
    Ok(Header { format: Format::Png, height, width, channels })
}

pub(super) fn decode(bytes: &[u8], colour: Colour) -> Result<Raster, ImageProblem> {
    let mut decoder = Decoder::new(Cursor::new(bytes));
    // Palettes, small bit depths and transparent colours become plain values; of 16 bits the upper
    // 8 are kept, as libpng's png_set_strip_16 does for OpenCV.
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(|e| damaged(&e))?;
    if reader.info().bit_depth == BitDepth::Sixteen && colour == Colour::Native {
        return Err(ImageProblem::SixteenBits);
    }
    let size = reader.output_buffer_size().unwrap_or(0);
    let mut pixels = vec![0; size];
    let frame = reader.next_frame(&mut pixels).map_err(|e| damaged(&e))?;
    reader.finish().map_err(|e| damaged(&e))?;
    let pixels = convert(pixels, frame.color_type, colour);
    let (height, width) = (frame.height as usize, frame.width as usize);
    let channels = pixels.len() / (height * width).max(1);
    Ok(Raster { height, width, channels, pixels })
}

pub(super) fn encode(raster: &Raster) -> Result<Vec<u8>, ImageProblem> {
    let (kind, rgb) = match raster.channels {
        1 => (ColorType::Grayscale, raster.pixels.clone()),
        3 => (ColorType::Rgb, swapped(&raster.pixels, 3)),
        _ => (ColorType::Rgba, swapped(&raster.pixels, 4)),
    };
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&mut out, raster.width as u32, raster.height as u32);
    encoder.set_color(kind);
    encoder.set_depth(BitDepth::Eight);
    let written = encoder.write_header().and_then(|mut writer| {
        writer.write_image_data(&rgb)?;
        writer.finish()
    });
    match written {
        Ok(()) => Ok(out),
        Err(problem) => {
            Err(ImageProblem::Unwritable { format: Format::Png, reason: problem.to_string() })
        }
    }
}

/// From the channels of the file (red first) to those wanted (blue first).
fn convert(pixels: Vec<u8>, from: ColorType, colour: Colour) -> Vec<u8> {
    use ColorType::{Grayscale, GrayscaleAlpha, Rgba};
    let n = from.samples();
    let grey = matches!(from, Grayscale | GrayscaleAlpha);
    match colour {
        Colour::Native if from == Grayscale => pixels,
        Colour::Grey if from == Grayscale => pixels,
        Colour::Grey if grey => pixels.chunks_exact(n).map(|pixel| pixel[0]).collect(),
        Colour::Grey => pixels.chunks_exact(n).map(luminance).collect(),
        Colour::Native if from == GrayscaleAlpha => {
            pixels.chunks_exact(2).flat_map(|p| [p[0], p[0], p[0], p[1]]).collect()
        }
        Colour::Native if from == Rgba => swapped(&pixels, 4),
        _ if grey => pixels.chunks_exact(n).flat_map(|p| [p[0]; 3]).collect(),
        _ => pixels.chunks_exact(n).flat_map(|p| [p[2], p[1], p[0]]).collect(),
    }
}

/// 0.299 red + 0.587 green + 0.114 blue in 15 bits, as in libpng's png_set_rgb_to_gray.
fn luminance(pixel: &[u8]) -> u8 {
    let [red, green, blue] = [0, 1, 2].map(|i| u32::from(pixel[i]));
    ((red * 9798 + green * 19235 + blue * 3735 + (1 << 14)) >> 15) as u8
}

/// Red and blue exchanged in pixels of `n` bytes.
fn swapped(pixels: &[u8], n: usize) -> Vec<u8> {
    let mut out = pixels.to_vec();
    out.chunks_exact_mut(n).for_each(|pixel| pixel.swap(0, 2));
    out
}

fn damaged(problem: &png::DecodingError) -> ImageProblem {
    ImageProblem::Damaged { format: Format::Png, reason: problem.to_string() }
}
