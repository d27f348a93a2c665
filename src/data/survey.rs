//! Looking at every record of a database: `caffe db stat` and `caffe db verify`.

use std::collections::BTreeMap;
use std::path::Path;

use super::datum::Labelled;
use super::image::Colour;
use super::{Backend, DataError, Database, Record};

/// What a database holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Number of records.
    pub records: u64,
    /// Bytes of all values.
    pub bytes: u64,
    /// The shortest and the longest value.
    pub sizes: Option<[usize; 2]>,
    /// The first and the last key.
    pub keys: Option<[Vec<u8>; 2]>,
    /// How many images have which shape (channels, height, width).
    pub shapes: BTreeMap<[usize; 3], u64>,
    /// How many have which label.
    pub labels: BTreeMap<i32, u64>,
    /// How many are JPEG or PNG.
    pub encoded: u64,
    /// How many could not be used.
    pub bad: u64,
}

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Shapes and labels.
    Headers,
    /// Every image is decoded.
    Pixels,
}

/// Surveys the database at `path`. `bad` is told of each record that cannot be used, with its key.
///
/// # Errors
/// A database that cannot be read on; records that cannot be used are no error.
pub fn survey(
    path: &Path,
    backend: Backend,
    look: Look,
    mut bad: impl FnMut(DataError),
) -> Result<Survey, DataError> {
    let mut cursor = Database::open(path, backend)?.cursor()?;
    let mut survey = Survey::default();
    while let Some(record) = cursor.next_record()? {
        survey.count(&record);
        let looked = Labelled::parse(record.value, Colour::Native).and_then(|content| {
            if look == Look::Pixels {
                content.image.image()?;
            }
            Ok(content)
        });
        match looked {
            Ok(content) => survey.note(&content),
            Err(problem) => {
                survey.bad += 1;
                let key = record.key.escape_ascii().to_string();
                bad(DataError::Record { path: path.to_owned(), key, problem });
            }
        }
    }
    Ok(survey)
}

impl Survey {
    fn count(&mut self, record: &Record) {
        let size = record.value.len();
        self.records += 1;
        self.bytes += size as u64;
        let [least, most] = self.sizes.unwrap_or([size; 2]);
        self.sizes = Some([least.min(size), most.max(size)]);
        let key = record.key.to_vec();
        match &mut self.keys {
            Some([_, last]) => *last = key,
            None => self.keys = Some([key.clone(), key]),
        }
    }

    fn note(&mut self, content: &Labelled) {
        *self.shapes.entry(content.image.shape()).or_default() += 1;
        *self.labels.entry(content.label).or_default() += 1;
        self.encoded += u64::from(content.image.is_encoded());
    }
}
