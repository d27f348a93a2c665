//! The face of [`super`] over libhdf5.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use caffe_proto::files::Pending;
use hdf5_metno as h5;
use hdf5_metno::types::{FixedAscii, FixedUnicode, TypeDescriptor, VarLenAscii, VarLenUnicode};

use super::check_signature;
use crate::{Error, Result, bail, ensure};

/// Bytes that a text in a file takes, whatever its length: Linux knows no longer path.
const TEXT: usize = 4096;

/// Deepest nesting of groups that is looked into; links may form circles.
const DEPTH: usize = 16;

/// Most values of one dataset: Caffe counts them in an `int`.
const MOST: usize = i32::MAX as usize;

fn refused(path: &Path, what: &str, e: &h5::Error) -> Error {
    Error::Invalid(format!("{}: {what}: {e}", path.display()))
}

/// How files are opened that nobody changes, or nobody else knows: without locks, which many
/// network file systems do not have and any child process would inherit.
fn unlocked() -> h5::FileBuilder {
    let mut options = h5::File::with_options();
    options.with_access_plist(|plist| plist.file_locking(false));
    options
}

/// An HDF5 file, open for reading.
pub struct Reader {
    file: h5::File,
    path: PathBuf,
}

impl Reader {
    /// Opens a file.
    ///
    /// # Errors
    /// A file that is missing, empty, of another kind, truncated or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        check_signature(path)?;
        let what = "damaged or truncated HDF5 file; copy or download it again";
        let file = unlocked().open(path).map_err(|e| refused(path, what, &e))?;
        Ok(Reader { file, path: path.to_owned() })
    }

    /// Whether there is such a dataset.
    pub fn has(&self, name: &str) -> bool {
        self.file.dataset(name).is_ok()
    }

    /// Extents of a dataset.
    ///
    /// # Errors
    /// No dataset of this name; the message names those there are.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.dataset(name)?.shape())
    }

    /// Extents and values of a dataset of numbers of any kind.
    ///
    /// # Errors
    /// No such dataset, one that holds no numbers, or a damaged file.
    pub fn floats(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let dataset = self.dataset(name)?;
        let shape = dataset.shape();
        let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        ensure!(
            count.is_some_and(|n| n <= MOST),
            "{}: dataset `{name}` has shape {shape:?}, more values than Caffe can count",
            self.path.display()
        );
        let what = format!("dataset `{name}` cannot be read");
        let values = dataset.read_raw().map_err(|e| refused(&self.path, &what, &e))?;
        Ok((shape, values))
    }

    /// A whole number: a dataset of one value.
    ///
    /// # Errors
    /// No such dataset, or one that holds something else.
    pub fn integer(&self, name: &str) -> Result<i64> {
        let dataset = self.dataset(name)?;
        let what = format!("dataset `{name}` holds no whole number");
        if dataset.size() != 1 {
            bail!("{}: {what}, but {} values", self.path.display(), dataset.size());
        }
        let values = dataset.read_raw().map_err(|e| refused(&self.path, &what, &e))?;
        Ok(values.first().copied().unwrap_or(0))
    }

    /// A text: a dataset of one string of any kind.
    ///
    /// # Errors
    /// No such dataset, or one that holds something else.
    pub fn text(&self, name: &str) -> Result<String> {
        let dataset = self.dataset(name)?;
        let what = format!("dataset `{name}` holds no text");
        let refuse = |e: &h5::Error| refused(&self.path, &what, e);
        let kind = dataset.dtype().and_then(|t| t.to_descriptor()).map_err(|e| refuse(&e))?;
        let text = match kind {
            TypeDescriptor::FixedAscii(n) if n <= TEXT => {
                dataset.read_scalar::<FixedAscii<TEXT>>().map(|t| lossy(t.as_bytes()))
            }
            TypeDescriptor::FixedUnicode(n) if n <= TEXT => {
                dataset.read_scalar::<FixedUnicode<TEXT>>().map(|t| lossy(t.as_bytes()))
            }
            TypeDescriptor::VarLenAscii => {
                dataset.read_scalar::<VarLenAscii>().map(|t| lossy(t.as_bytes()))
            }
            TypeDescriptor::VarLenUnicode => {
                dataset.read_scalar::<VarLenUnicode>().map(|t| lossy(t.as_bytes()))
            }
            other => bail!("{}: {what}, but {other}", self.path.display()),
        };
        text.map_err(|e| refuse(&e))
    }

    /// Paths, relative to `group`, of all datasets under it and under the groups in it.
    ///
    /// # Errors
    /// No such group, or a damaged file.
    pub fn datasets(&self, group: &str) -> Result<Vec<String>> {
        let what = format!("there is no group `{group}`");
        let root = self.file.group(group).map_err(|e| refused(&self.path, &what, &e))?;
        let mut found = Vec::new();
        collect(&root, "", DEPTH, &mut found)
            .map_err(|e| refused(&self.path, "cannot be listed", &e))?;
        Ok(found)
    }

    fn dataset(&self, name: &str) -> Result<h5::Dataset> {
        let Ok(dataset) = self.file.dataset(name) else {
            let there = self.datasets("/").unwrap_or_default();
            let there = match there.len() {
                0 => "none".to_owned(),
                1..=8 => there.join(", "),
                n => format!("{}, … ({n} in all)", there[..8].join(", ")),
            };
            bail!("{}: no dataset `{name}`; there are: {there}", self.path.display())
        };
        Ok(dataset)
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn collect(
    group: &h5::Group,
    prefix: &str,
    depth: usize,
    found: &mut Vec<String>,
) -> Result<(), h5::Error> {
    for name in group.member_names()? {
        let path = format!("{prefix}{name}");
        if group.dataset(&name).is_ok() {
            found.push(path);
        } else if depth > 0
            && let Ok(inner) = group.group(&name)
        {
            collect(&inner, &format!("{path}/"), depth - 1, found)?;
        }
    }
    Ok(())
}

/// A new HDF5 file, which appears whole or not at all.
pub struct Writer {
    file: h5::File,
    pending: Pending,
    path: PathBuf,
}

impl Writer {
    /// Starts a file that will have the name `path`.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        let pending = Pending::create(path)?;
        let file = unlocked()
            .create(pending.temporary())
            .map_err(|e| refused(path, "cannot be written", &e))?;
        Ok(Writer { file, pending, path: path.to_owned() })
    }

    /// Makes a group, which may stay empty.
    ///
    /// # Errors
    /// A name that is taken, or a full disk.
    pub fn group(&mut self, name: &str) -> Result<()> {
        let made = self.file.create_group(name);
        made.map(drop).map_err(|e| self.refused(name, &e))
    }

    /// Writes a dataset of single-precision numbers; groups in its path are made.
    ///
    /// # Errors
    /// A name that is taken, or a full disk.
    pub fn floats(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Result<()> {
        let dataset = self.file.new_dataset::<f32>().shape(shape.to_vec()).create(name);
        dataset.and_then(|d| d.write_raw(values)).map_err(|e| self.refused(name, &e))
    }

    /// Writes a whole number as Caffe does: a dataset of one 32-bit value.
    ///
    /// # Errors
    /// As [`Writer::floats`].
    pub fn integer(&mut self, name: &str, value: i32) -> Result<()> {
        let dataset = self.file.new_dataset::<i32>().shape(1).create(name);
        dataset.and_then(|d| d.write_raw(&[value])).map_err(|e| self.refused(name, &e))
    }

    /// Writes a text as a string of fixed length, the only kind that Caffe reads.
    ///
    /// # Errors
    /// As [`Writer::floats`], or a text of more than 4095 bytes or with a NUL in it.
    pub fn text(&mut self, name: &str, value: &str) -> Result<()> {
        let fits = if value.len() < TEXT { value.parse::<FixedUnicode<TEXT>>().ok() } else { None };
        let Some(text) = fits else {
            bail!("{}: text `{name}` is longer than {TEXT} bytes or no text", self.path.display())
        };
        let dataset = self.file.new_dataset::<FixedUnicode<TEXT>>().create(name);
        dataset.and_then(|d| d.write_scalar(&text)).map_err(|e| self.refused(name, &e))
    }

    /// Closes the file, syncs it and gives it its name.
    ///
    /// # Errors
    /// A full disk and the like.
    pub fn finish(self) -> Result<()> {
        Ok(self.close()?.finish()?)
    }

    /// Closes the file and syncs it; its name is left to the caller.
    ///
    /// # Errors
    /// A full disk and the like.
    pub fn close(self) -> Result<Pending> {
        let closed = self.file.flush().and_then(|()| self.file.close());
        closed.map_err(|e| refused(&self.path, "cannot be written", &e))?;
        self.pending.sync()?;
        Ok(self.pending)
    }

    fn refused(&self, name: &str, e: &h5::Error) -> Error {
        refused(&self.path, &format!("`{name}` cannot be written"), e)
    }
}

/// An HDF5 file whose datasets grow by rows; it is readable after every [`Appender::flush`].
pub struct Appender {
    file: h5::File,
    path: PathBuf,
    rows: HashMap<String, h5::Dataset>,
}

impl Appender {
    /// Starts a file; one of this name is emptied.
    ///
    /// # Errors
    /// A folder that cannot be written, or a file that somebody has open.
    pub fn create(path: &Path) -> Result<Self> {
        let file = h5::File::create(path).map_err(|e| refused(path, "cannot be written", &e))?;
        Ok(Appender { file, path: path.to_owned(), rows: HashMap::new() })
    }

    /// Adds `shape[0]` rows to a dataset, which the first rows make.
    ///
    /// # Errors
    /// Rows of another shape than those before, or a full disk.
    pub fn append(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Result<()> {
        let path = self.path.clone();
        let refuse = |e: h5::Error| refused(&path, &format!("`{name}` cannot be written"), &e);
        if !self.rows.contains_key(name) {
            let dataset = new_rows(&self.file, name, shape).map_err(refuse)?;
            self.rows.insert(name.to_owned(), dataset);
        }
        let dataset = &self.rows[name];
        let mut whole = dataset.shape();
        ensure!(
            whole.len() == shape.len() && whole[1..] == shape[1..],
            "{}: the rows of `{name}` had shape {:?} so far, now {:?}",
            path.display(),
            &whole[1..],
            &shape[1..]
        );
        let start = whole[0];
        whole[0] += shape[0];
        dataset.resize(whole.clone()).map_err(refuse)?;
        let mut slices = vec![h5::SliceOrIndex::from(start..whole[0])];
        slices.extend(whole[1..].iter().map(|&d| h5::SliceOrIndex::from(0..d)));
        let view = ndarray::ArrayViewD::from_shape(shape, values);
        let view = view.map_err(|e| Error::Invalid(format!("`{name}`: {e}")))?;
        dataset.write_slice(view, h5::Hyperslab::from(slices)).map_err(refuse)
    }

    /// Brings what was added to disk.
    ///
    /// # Errors
    /// A full disk.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(|e| refused(&self.path, "cannot be written", &e))
    }
}

/// An empty dataset for rows such as those of `shape`, stored pass by pass.
fn new_rows(file: &h5::File, name: &str, shape: &[usize]) -> Result<h5::Dataset, h5::Error> {
    let mut extents = vec![h5::Extent::from(0..)];
    extents.extend(shape[1..].iter().map(|&d| h5::Extent::from(d)));
    let chunk: Vec<usize> = shape.iter().map(|&d| d.max(1)).collect();
    file.new_dataset::<f32>().chunk(chunk).shape(extents).create(name)
}
