//! JPEG through libjpeg-turbo.

use turbojpeg::{Colorspace, Compressor, Decompressor, Image, PixelFormat, Subsamp};

use super::{Format, Header, ImageProblem, Raster};

/// Scans of a progressive image; a file with more is made to keep decoders busy.
const MOST_SCANS: u32 = 500;

/// OpenCV's default.
const QUALITY: i32 = 95;

/// Complaints of the library about files that are all there, and that every viewer shows.
const HARMLESS: [&str; 4] = [
    "extraneous bytes before marker",
    "unknown JFIF revision number",
    "Unknown Adobe color transform code",
    "Invalid SOS parameters for sequential JPEG",
];

pub(super) fn header(bytes: &[u8]) -> Result<Header, ImageProblem> {
    let header = Decompressor::new().and_then(|mut d| d.read_header(bytes)).map_err(damaged)?;
    let channels = if header.colorspace == Colorspace::Gray { 1 } else { 3 };
    Ok(Header { format: Format::Jpeg, height: header.height, width: header.width, channels })
}

/// Decodes into one channel or three.
pub(super) fn decode(
    bytes: &[u8],
    [channels, height, width]: [usize; 3],
) -> Result<Raster, ImageProblem> {
    let mut decoder = Decompressor::new().map_err(damaged)?;
    decoder.set_scan_limit(MOST_SCANS).map_err(damaged)?;
    let colours = decoder.read_header(bytes).map_err(damaged)?.colorspace;
    let inks = matches!(colours, Colorspace::CMYK | Colorspace::YCCK);
    let format = match (inks, channels) {
        (true, _) => PixelFormat::CMYK,
        (false, 1) => PixelFormat::GRAY,
        (false, _) => PixelFormat::BGR,
    };
    let pitch = width * format.size();
    let mut pixels = vec![0; pitch * height];
    let image = Image { pixels: pixels.as_mut_slice(), width, pitch, height, format };
    match decoder.decompress(bytes, image) {
        Ok(()) => {}
        Err(problem) if HARMLESS.iter().any(|known| problem.to_string().contains(known)) => {}
        Err(problem) => return Err(damaged(problem)),
    }
    if inks {
        pixels = from_inks(&pixels, channels);
    }
    Ok(Raster { height, width, channels, pixels })
}

pub(super) fn encode(raster: &Raster) -> Result<Vec<u8>, ImageProblem> {
    let (format, subsamp) = match raster.channels {
        1 => (PixelFormat::GRAY, Subsamp::Gray),
        3 => (PixelFormat::BGR, Subsamp::Sub2x2),
        _ => (PixelFormat::BGRA, Subsamp::Sub2x2),
    };
    let Raster { height, width, .. } = *raster;
    let pitch = width * format.size();
    let image = Image { pixels: raster.pixels.as_slice(), width, pitch, height, format };
    let encode = || {
        let mut encoder = Compressor::new()?;
        encoder.set_quality(QUALITY)?;
        encoder.set_subsamp(subsamp)?;
        encoder.compress_to_vec(image)
    };
    encode().map_err(|problem| ImageProblem::Unwritable {
        format: Format::Jpeg,
        reason: problem.to_string(),
    })
}

/// Cyan, magenta, yellow and black, stored inverted as Adobe does, to blue, green, red or to grey;
/// both as OpenCV rounds them.
fn from_inks(pixels: &[u8], channels: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(pixels.len() / 4 * channels);
    for inks in pixels.chunks_exact(4) {
        let black = i32::from(inks[3]);
        let [red, green, blue] =
            [0, 1, 2].map(|i| black - (((255 - i32::from(inks[i])) * black) >> 8));
        match channels {
            1 => out.push(((blue * 1868 + green * 9617 + red * 4899 + (1 << 13)) >> 14) as u8),
            _ => out.extend([blue as u8, green as u8, red as u8]),
        }
    }
    out
}

fn damaged(problem: turbojpeg::Error) -> ImageProblem {
    let reason = match problem {
        turbojpeg::Error::TurboJpegError(reason) => reason,
        other => other.to_string(),
    };
    ImageProblem::Damaged { format: Format::Jpeg, reason }
}
