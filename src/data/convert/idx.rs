//! MNIST's idx form, plain or gzipped: a big-endian magic number (0x803 for images, 0x801 for labels),
//! the sizes, then bytes. Source: the description on <http://yann.lecun.com/exdb/mnist/>.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;

use crate::data::DataError;

use super::wrong;

const IMAGES: u32 = 0x803;
const LABELS: u32 = 0x801;
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// An image wider or higher than this is taken for a damaged header.
const LARGEST_SIDE: u32 = 1 << 14;

/// A file of images and the file of their labels, being read.
pub(super) struct Pair<'a> {
    pixels: Idx<'a>,
    classes: Idx<'a>,
    /// Number of images.
    pub(super) count: u32,
    /// Height of an image.
    pub(super) rows: u32,
    /// Width of an image.
    pub(super) columns: u32,
}

impl<'a> Pair<'a> {
    /// Opens both and reads their headers.
    ///
    /// # Errors
    /// [`DataError::Input`] for a wrong magic number, counts that differ, sizes that are none;
    /// [`DataError::Io`].
    pub(super) fn open(images: &'a Path, labels: &'a Path) -> Result<Self, DataError> {
        let mut pixels = Idx::open(images, IMAGES)?;
        let mut classes = Idx::open(labels, LABELS)?;
        let (count, label_count) = (pixels.number()?, classes.number()?);
        if count != label_count {
            let reason =
                format!("holds {label_count} labels for {count} images of `{}`", images.display());
            return Err(wrong(labels, reason));
        }
        let (rows, columns) = (pixels.number()?, pixels.number()?);
        if count == 0 || ![rows, columns].iter().all(|side| (1..=LARGEST_SIDE).contains(side)) {
            return Err(wrong(images, format!("holds {count} images of {rows} x {columns}")));
        }
        Ok(Self { pixels, classes, count, rows, columns })
    }

    /// The next image and its label.
    ///
    /// # Errors
    /// [`DataError::Input`] where a file is cut short; [`DataError::Io`].
    pub(super) fn record(&mut self) -> Result<(Bytes, u8), DataError> {
        let image = self.pixels.bytes(self.rows as usize * self.columns as usize)?;
        Ok((image, self.classes.bytes(1)?[0]))
    }

    /// After the last record.
    ///
    /// # Errors
    /// [`DataError::Input`] where a file goes on; [`DataError::Io`].
    pub(super) fn end(mut self) -> Result<(), DataError> {
        self.pixels.end()?;
        self.classes.end()
    }
}

/// One idx file being read.
struct Idx<'a> {
    path: &'a Path,
    reader: Box<dyn Read>,
}

impl<'a> Idx<'a> {
    fn open(path: &'a Path, magic: u32) -> Result<Self, DataError> {
        let read = |source| DataError::io("read", path, source);
        let mut file = BufReader::with_capacity(1 << 20, File::open(path).map_err(read)?);
        let gzipped = file.fill_buf().map_err(read)?.starts_with(&GZIP);
        let reader: Box<dyn Read> = match gzipped {
            true => Box::new(BufReader::new(MultiGzDecoder::new(file))),
            false => Box::new(file),
        };
        let mut idx = Self { path, reader };
        let found = idx.number()?;
        if found != magic {
            let kind = if magic == IMAGES { "image" } else { "label" };
            let hint = match found {
                IMAGES => "; it holds images: are the two files swapped?",
                LABELS => "; it holds labels: are the two files swapped?",
                _ => "",
            };
            let reason =
                format!("begins with {found:#010x}, an idx {kind} file with {magic:#010x}{hint}");
            return Err(wrong(path, reason));
        }
        Ok(idx)
    }

    fn number(&mut self) -> Result<u32, DataError> {
        let mut number = [0; 4];
        self.fill(&mut number)?;
        Ok(u32::from_be_bytes(number))
    }

    fn bytes(&mut self, n: usize) -> Result<Bytes, DataError> {
        let mut bytes = vec![0; n];
        self.fill(&mut bytes)?;
        Ok(bytes.into())
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<(), DataError> {
        self.reader.read_exact(into).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => {
                wrong(self.path, "is cut short: fewer bytes than its header promises")
            }
            _ => DataError::io("read", self.path, source),
        })
    }

    /// Also makes a gzip reader compare its checksum, which stands behind the last byte.
    fn end(&mut self) -> Result<(), DataError> {
        let mut extra = [0];
        match self.reader.read(&mut extra) {
            Ok(0) => Ok(()),
            Ok(_) => Err(wrong(self.path, "is longer than its header promises")),
            Err(source) => Err(DataError::io("read", self.path, source)),
        }
    }
}
