//! An `HDF5Data` layer's rows as batches of floats, by ticket.
//!
//! The layer's `source` lists HDF5 files. Each top names a dataset that every file has; the datasets
//! of a file have equally many rows (their first axis). The rows of all files, in the order of the
//! list, make an epoch. With `shuffle` each epoch has the files in an order of its own and the rows
//! of each file in another, both functions of seed and epoch: whoever asks for a ticket gets the
//! same rows. One file is in memory at a time.

use std::path::{Path, PathBuf};

use caffe_proto::LayerParameter;

use super::order::positions;
use super::readers::Records;
use super::{Batch, DataError};
use crate::hdf5::Reader;
use crate::rng::{Philox, stream_id};
use crate::{Error, Result, bail, ensure};

/// One file of the list.
struct Part {
    path: PathBuf,
    rows: u64,
    /// Rows of the files before it in the list.
    before: u64,
}

/// What is in memory: the datasets of one file, and in which order its rows are taken.
struct Loaded {
    part: usize,
    epoch: u64,
    tops: Vec<Vec<f32>>,
    /// Empty when rows are taken as they lie.
    order: Vec<u64>,
}

/// Reads and batches the rows of one `HDF5Data` layer.
pub struct Hdf5Source {
    parts: Vec<Part>,
    names: Vec<String>,
    /// Of each top the shape of a row.
    rows: Vec<Vec<usize>>,
    batch_size: usize,
    shuffle: bool,
    /// Seed and stream of the orders.
    seed: u64,
    stream: u64,
    /// Rows of an epoch.
    total: u64,
    /// An epoch, and its parts in order, each with the epoch's row that it begins with.
    turn: (u64, Vec<(u64, usize)>),
    loaded: Option<Loaded>,
}

impl Hdf5Source {
    /// Opens every file of the list once to see its shapes.
    ///
    /// # Errors
    /// Settings that make no sense, a list or file that cannot be read, and datasets that are
    /// missing or do not agree.
    pub fn open(layer: &LayerParameter, seed: u64) -> Result<Self, DataError> {
        let wrong = |reason: &str| DataError::Layer {
            layer: layer.name().to_owned(),
            reason: reason.to_owned(),
        };
        if layer.transform_param.is_some() {
            return Err(wrong("HDF5Data does not transform data; remove transform_param"));
        }
        let param = layer.hdf5_data_param.as_deref();
        let Some(param) = param.filter(|p| !p.source().is_empty()) else {
            let text = "hdf5_data_param has no source; name a text file that lists HDF5 files";
            return Err(wrong(text));
        };
        if param.batch_size() == 0 {
            let text = "hdf5_data_param has no batch_size, or 0; give a positive one";
            return Err(wrong(text));
        }
        let mut source = Hdf5Source {
            parts: Vec::new(),
            names: layer.top.clone(),
            rows: Vec::new(),
            batch_size: param.batch_size() as usize,
            shuffle: param.shuffle(),
            seed,
            stream: stream_id("hdf5 shuffle") ^ stream_id(layer.name()),
            total: 0,
            turn: (u64::MAX, Vec::new()),
            loaded: None,
        };
        source.survey(Path::new(param.source())).map_err(in_words)?;
        Ok(source)
    }

    /// Looks at every file of the list.
    fn survey(&mut self, list: &Path) -> Result<()> {
        let text = std::fs::read_to_string(list)
            .map_err(|e| DataError::io("read the list of HDF5 files", list, e))?;
        for (number, line) in text.lines().enumerate() {
            for path in line.split_whitespace() {
                self.add(Path::new(path)).map_err(|e| {
                    Error::Invalid(format!("{}:{}: {e}", list.display(), number + 1))
                })?;
            }
        }
        ensure!(!self.parts.is_empty(), "{}: lists no HDF5 files", list.display());
        ensure!(self.total > 0, "{}: its HDF5 files hold no rows", list.display());
        Ok(())
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let file = Reader::open(path)?;
        let mut rows = None;
        for (i, name) in self.names.iter().enumerate() {
            let shape = file.shape(name)?;
            let Some((&count, row)) = shape.split_first() else {
                bail!("{}: dataset `{name}` is a single value, not rows", path.display())
            };
            ensure!(
                *rows.get_or_insert(count) == count,
                "{}: dataset `{name}` has {count} rows, `{}` has {}",
                path.display(),
                self.names[0],
                rows.unwrap_or(0)
            );
            if self.rows.len() == i {
                self.rows.push(row.to_vec());
            }
            ensure!(
                self.rows[i] == row,
                "{}: the rows of dataset `{name}` have shape {row:?}, those of the first file {:?}",
                path.display(),
                self.rows[i]
            );
        }
        let rows = rows.unwrap_or(0) as u64;
        self.parts.push(Part { path: path.to_owned(), rows, before: self.total });
        self.total += rows;
        Ok(())
    }

    /// The file with row `at` of an epoch, and which of its rows that is in the epoch's order.
    fn find(&mut self, epoch: u64, at: u64) -> (usize, u64) {
        if self.turn.0 != epoch {
            let mut begin = 0;
            let place = |part: u64| {
                let part = part as usize;
                begin += self.parts[part].rows;
                (begin - self.parts[part].rows, part)
            };
            let order = self.permutation(self.parts.len() as u64, epoch, u64::MAX);
            self.turn = (epoch, order.into_iter().map(place).collect());
        }
        // The last part that begins at or before the row: parts without rows are passed over.
        let behind = self.turn.1.partition_point(|(begin, _)| *begin <= at);
        let (begin, part) = self.turn.1[behind - 1];
        (part, at - begin)
    }

    /// 0..n in the order of an epoch; `what` keeps files and the rows of each file apart.
    fn permutation(&self, n: u64, epoch: u64, what: u64) -> Vec<u64> {
        let mut order: Vec<u64> = (0..n).collect();
        if self.shuffle {
            let stream = self.stream ^ what.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let seed = self.seed.wrapping_add(epoch.wrapping_mul(0xD1B5_4A32_D192_ED03));
            let mut words = Philox::new(seed, stream).sequence();
            for i in (1..order.len()).rev() {
                order.swap(i, words.below(i as u64 + 1) as usize);
            }
        }
        order
    }

    /// Brings a file into memory, in the order of an epoch.
    fn load(&mut self, part: usize, epoch: u64) -> Result<&Loaded> {
        let stale = |l: &Loaded| l.part != part || (self.shuffle && l.epoch != epoch);
        if self.loaded.as_ref().is_none_or(stale) {
            let tops = match self.loaded.take().filter(|l| l.part == part) {
                Some(same_file) => same_file.tops,
                None => self.read(part)?,
            };
            let order = match self.shuffle {
                true => self.permutation(self.parts[part].rows, epoch, part as u64),
                false => Vec::new(),
            };
            self.loaded = Some(Loaded { part, epoch, tops, order });
        }
        match &self.loaded {
            Some(loaded) => Ok(loaded),
            None => bail!("internal: nothing is loaded"),
        }
    }

    fn read(&self, part: usize) -> Result<Vec<Vec<f32>>> {
        let Part { path, rows, .. } = &self.parts[part];
        let file = Reader::open(path)?;
        let mut tops = Vec::with_capacity(self.names.len());
        for (name, row) in self.names.iter().zip(&self.rows) {
            let (shape, values) = file.floats(name)?;
            ensure!(
                shape.first() == Some(&(*rows as usize)) && shape[1..] == *row,
                "{}: dataset `{name}` has changed its shape while training",
                path.display()
            );
            tops.push(values);
        }
        Ok(tops)
    }
}

fn in_words(error: Error) -> DataError {
    match error {
        Error::Data(error) => error,
        error => DataError::Hdf5(error.to_string()),
    }
}

impl Records for Hdf5Source {
    fn batch_size(&self) -> usize {
        self.batch_size
    }

    fn top_shapes(&self) -> Vec<Vec<usize>> {
        let whole = |row: &Vec<usize>| [&[self.batch_size], row.as_slice()].concat();
        self.rows.iter().map(whole).collect()
    }

    fn fill(&mut self, ticket: u64, batch: &mut Batch) -> Result<(), DataError> {
        batch.ticket = ticket;
        batch.positions = positions(ticket, self.batch_size as u64);
        batch.shapes = self.top_shapes();
        batch.raw.clear();
        batch.tops.resize_with(self.names.len(), Vec::new);
        batch.tops.iter_mut().for_each(Vec::clear);
        batch.records.clear();
        batch.keys.clear();
        let sizes: Vec<usize> = self.rows.iter().map(|row| row.iter().product()).collect();
        for position in batch.positions.clone() {
            let epoch = position / self.total;
            let (part, at) = self.find(epoch, position % self.total);
            let loaded = self.load(part, epoch).map_err(in_words)?;
            let row = loaded.order.get(at as usize).copied().unwrap_or(at) as usize;
            for ((top, values), size) in batch.tops.iter_mut().zip(&loaded.tops).zip(&sizes) {
                top.extend_from_slice(&values[row * size..(row + 1) * size]);
            }
            batch.records.push(self.parts[part].before + row as u64);
        }
        Ok(())
    }
}
