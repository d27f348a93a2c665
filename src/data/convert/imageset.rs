//! `convert_imageset [FLAGS] ROOTFOLDER/ LISTFILE DB_NAME`.
//!
//! Keys are `%08d_name` with the number of the line (after shuffling); values are a `Datum` of
//! planes, blue first, or with `-encoded` of a compressed file.

use std::path::{Path, PathBuf};

use caffe_proto::{Datum, Message};

use crate::data::image::{Colour, Format, ImageProblem, Raster};
use crate::data::list::{self, Entry, file, read_picture};
use crate::data::order::Order;
use crate::data::{Backend, DataError, RecordProblem, Writer};

use super::wrong;

/// What to convert and how.
#[derive(Debug, Clone)]
pub struct Imageset {
    /// Put before each path of the list.
    pub root: String,
    /// Lines of path, space, label.
    pub list: PathBuf,
    /// The database to make.
    pub output: PathBuf,
    /// Its kind.
    pub backend: Backend,
    /// One channel instead of three.
    pub grey: bool,
    /// Takes the lines in an order drawn with this seed.
    pub shuffle: Option<u64>,
    /// Height and width to bring images to.
    pub size: Option<[usize; 2]>,
    /// Refuses images of differing size.
    pub check_size: bool,
    /// Whether and how images are stored compressed.
    pub encoding: Encoding,
}

/// How images are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As pixels.
    None,
    /// As this format.
    As(Format),
    /// As the format that the file's name ends with.
    AsNamed,
}

/// What happens meanwhile.
#[derive(Debug)]
pub enum Step {
    /// The list holds so many images.
    Listed(usize),
    /// An image could not be read and is left out, as Caffe does.
    LeftOut(DataError),
    /// So many records are written.
    Written(u64),
}

/// Steps of [`Step::Written`].
const EVERY: u64 = 1000;

impl Imageset {
    /// Converts; returns the number of records. `tell` is told what happens.
    ///
    /// # Errors
    /// The errors of [`list::read`]; [`DataError::Image`] with `check_size`; [`DataError::Input`]
    /// when no image at all could be read; [`DataError::Exists`]; whatever the disk refuses.
    pub fn convert(&self, mut tell: impl FnMut(Step)) -> Result<u64, DataError> {
        let entries = list::read(&self.list)?;
        tell(Step::Listed(entries.len()));
        let mut writer = Writer::create(&self.output, self.backend)?;
        let (mut first, mut written) = (None, 0);
        for number in 0..entries.len() as u64 {
            let entry = &entries[self.line(number, entries.len() as u64) as usize];
            let (shape, datum) = match self.datum(entry) {
                Ok(made) => made,
                Err(problem) => {
                    tell(Step::LeftOut(self.bad_image(entry, problem)));
                    continue;
                }
            };
            let batch = *first.get_or_insert(shape);
            if self.check_size && shape != batch {
                let problem = RecordProblem::Differs { image: shape, batch };
                return Err(self.bad_image(entry, problem));
            }
            let key = format!("{number:08}_{}", entry.name);
            writer.put(key.as_bytes(), &datum.encode_to_vec())?;
            written += 1;
            if written % EVERY == 0 {
                tell(Step::Written(written));
            }
        }
        if written == 0 {
            let reason = format!("none of its {} images could be read", entries.len());
            return Err(wrong(&self.list, reason));
        }
        writer.finish()
    }

    /// The line whose image gets this number.
    fn line(&self, number: u64, lines: u64) -> u64 {
        match self.shuffle {
            Some(seed) => Order::Shuffled { seed }.record(number, lines),
            None => number,
        }
    }

    /// The shape of an image and its record.
    fn datum(&self, entry: &Entry) -> Result<([usize; 3], Datum), RecordProblem> {
        let picture = read_picture(&file(&self.root, &entry.name))?;
        let colour = if self.grey { Colour::Grey } else { Colour::Bgr };
        let raster = picture.decode(colour)?;
        let raster = match self.size {
            Some([height, width]) => raster.resize(height, width),
            None => raster,
        };
        let datum = match self.format(entry)? {
            None => plain(&raster),
            // Caffe stores a file that has the format already as it is, also when -gray says
            // otherwise.
            Some(format) if self.size.is_none() && picture.format() == format => {
                encoded(picture.into_bytes())
            }
            Some(format) => encoded(raster.encode(format)?.into()),
        };
        Ok((raster.shape(), Datum { label: Some(entry.label), ..datum }))
    }

    fn format(&self, entry: &Entry) -> Result<Option<Format>, ImageProblem> {
        match self.encoding {
            Encoding::None => Ok(None),
            Encoding::As(format) => Ok(Some(format)),
            Encoding::AsNamed => {
                let extension = Path::new(&entry.name).extension().and_then(|e| e.to_str());
                let format = extension.and_then(Format::of_extension);
                format.map(Some).ok_or(ImageProblem::Foreign("the name tells no format"))
            }
        }
    }

    fn bad_image(&self, entry: &Entry, problem: RecordProblem) -> DataError {
        DataError::Image {
            list: self.list.clone(),
            line: entry.line,
            file: file(&self.root, &entry.name),
            problem,
        }
    }
}

fn plain(raster: &Raster) -> Datum {
    let [channels, height, width] = raster.shape().map(|side| Some(side as i32));
    let data = Some(raster.planes().into());
    Datum { channels, height, width, data, encoded: Some(false), ..Datum::default() }
}

fn encoded(file: bytes::Bytes) -> Datum {
    Datum { data: Some(file), encoded: Some(true), ..Datum::default() }
}
