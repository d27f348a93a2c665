//! Compressed images: JPEG and PNG, as OpenCV reads them for Caffe.
//!
//! A [`Picture`] is a file whose header has been looked at: its size is known (and refused when it
//! is absurd) before anything is decoded. [`Picture::decode`] gives a [`Raster`] of interleaved
//! bytes, blue first; [`Raster::resize`] brings it to size and [`Raster::planes`] into the order of
//! a blob. JPEG goes through libjpeg-turbo, so pixels are those of every program that uses it.
//!
//! Not applied: EXIF orientation (Caffe's OpenCV did not), colour profiles, gamma.
//!
//! ```no_run
//! use caffe::data::image::{Colour, Picture};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let file = std::fs::read("cat.jpg")?;
//! let cat = Picture::inspect(file.into())?.decode(Colour::Bgr)?.resize(256, 256);
//! println!("{} blue values", cat.planes().len() / 3);
//! # Ok(())
//! # }
//! ```

mod jpeg;
mod png;
mod raster;
mod resize;

use bytes::Bytes;

pub use raster::Raster;

/// Pixels of the largest image that is decoded.
pub const MOST_PIXELS: usize = 100_000_000;

/// What an image's colours become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Colour {
    /// What the file has: one channel, three, or four with transparency.
    #[default]
    Native,
    /// Three channels: blue, green, red. Transparency is dropped.
    Bgr,
    /// One channel.
    Grey,
}

/// A file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JPEG.
    Jpeg,
    /// PNG.
    Png,
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
        })
    }
}

impl Format {
    /// The format that a file name's ending stands for (`jpg`, `jpeg`, `png`, in any case).
    pub fn of_extension(extension: &str) -> Option<Self> {
        match extension.to_ascii_lowercase().as_str() {
            "jpg" | "jpeg" => Some(Self::Jpeg),
            "png" => Some(Self::Png),
            _ => None,
        }
    }
}

/// Why an image cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageProblem {
    /// Neither JPEG nor PNG.
    #[error("{0}; only JPEG and PNG images are read")]
    Foreign(&'static str),
    /// More than [`MOST_PIXELS`].
    #[error("the image has {height} x {width} pixels; above 100 megapixels nothing is decoded")]
    TooLarge {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
    /// The decoder gave up.
    #[error("the {format} is damaged: {reason}")]
    Damaged {
        /// What it is.
        format: Format,
        /// The decoder's message.
        reason: String,
    },
    /// Sixteen bits a value where the file's own format was asked for.
    #[error(
        "the PNG has 16 bits a value and bytes are wanted; set force_color or force_gray, which keep the upper 8"
    )]
    SixteenBits,
    /// The encoder gave up.
    #[error("the image cannot be written as {format}: {reason}")]
    Unwritable {
        /// What was wanted.
        format: Format,
        /// The encoder's message.
        reason: String,
    },
}

/// A compressed image whose header has been read.
#[derive(Debug, Clone)]
pub struct Picture {
    bytes: Bytes,
    header: Header,
}

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    format: Format,
    height: usize,
    width: usize,
    /// Channels of [`Colour::Native`].
    channels: usize,
}

impl Picture {
    /// Reads the header of the image file `bytes`.
    ///
    /// # Errors
    /// [`ImageProblem::Foreign`], [`ImageProblem::TooLarge`], [`ImageProblem::Damaged`].
    pub fn inspect(bytes: Bytes) -> Result<Self, ImageProblem> {
        let header = match *bytes {
            [0xff, 0xd8, ..] => jpeg::header(&bytes)?,
            [0x89, b'P', b'N', b'G', ..] => png::header(&bytes)?,
            _ => return Err(ImageProblem::Foreign(foreign(&bytes))),
        };
        let Header { height, width, .. } = header;
        match height.checked_mul(width) {
            Some(pixels) if pixels <= MOST_PIXELS => Ok(Self { bytes, header }),
            _ => Err(ImageProblem::TooLarge { height, width }),
        }
    }

    /// (channels, height, width) after decoding.
    pub fn shape(&self, colour: Colour) -> [usize; 3] {
        let channels = match colour {
            Colour::Native => self.header.channels,
            Colour::Bgr => 3,
            Colour::Grey => 1,
        };
        [channels, self.header.height, self.header.width]
    }

    /// The file.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Its file format.
    pub fn format(&self) -> Format {
        self.header.format
    }

    /// Decodes all of it.
    ///
    /// # Errors
    /// [`ImageProblem::Damaged`], [`ImageProblem::SixteenBits`].
    pub fn decode(&self, colour: Colour) -> Result<Raster, ImageProblem> {
        match self.header.format {
            Format::Jpeg => jpeg::decode(&self.bytes, self.shape(colour)),
            Format::Png => png::decode(&self.bytes, colour),
        }
    }
}

impl Raster {
    /// Compresses it: JPEG with OpenCV's default quality of 95 and halved colour resolution, or PNG.
    ///
    /// # Errors
    /// [`ImageProblem::Unwritable`].
    pub fn encode(&self, format: Format) -> Result<Vec<u8>, ImageProblem> {
        match format {
            Format::Jpeg => jpeg::encode(self),
            Format::Png => png::encode(self),
        }
    }
}

/// What a file that is neither JPEG nor PNG seems to be.
fn foreign(bytes: &[u8]) -> &'static str {
    match bytes {
        [] => "the image is empty",
        [b'B', b'M', ..] => "it seems to be a BMP",
        [b'G', b'I', b'F', b'8', ..] => "it seems to be a GIF",
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => "it seems to be a TIFF",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "it seems to be a WebP",
        [b'P', b'1'..=b'6', ..] => "it seems to be a PBM, PGM or PPM",
        _ => "it begins like no image format",
    }
}
