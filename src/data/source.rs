//! A `Data` layer's records as batches of floats, by ticket.
//!
//! ```no_run
//! use caffe::data::{Batch, DataSource};
//! # fn main() -> Result<(), caffe::data::DataError> {
//! # let layer = caffe_proto::LayerParameter::default();
//! let mut source = DataSource::open(&layer, caffe_proto::Phase::Train, 1701)?;
//! let mut batch = Batch::default();
//! for ticket in 0..100 {
//!     source.fill(ticket, &mut batch)?;
//!     println!("{:?}: first label {}", batch.shapes[0], batch.tops[1][0]);
//! }
//! # Ok(())
//! # }
//! ```

use std::ops::Range;
use std::path::{Path, PathBuf};

use caffe_proto::data_parameter::Db;
use caffe_proto::{DataParameter, LayerParameter, Phase};

use super::datum::Image;
use super::leveldb::{Database, Record};
use super::order::{Order, RecordCursor, positions};
use super::transform::Transformer;
use super::{DataError, RecordProblem};
use crate::rng::{Philox, below, stream_id};

/// One filled batch. Reuse it: buffers keep their memory.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Which batch of the job this is.
    pub ticket: u64,
    /// The values of each top, in Caffe's order: `data`, then `label` where the layer has two tops.
    pub tops: Vec<Vec<f32>>,
    /// The shape of each top: `[N, C, H, W]` and `[N]`.
    pub shapes: Vec<Vec<usize>>,
    /// The record positions covered.
    pub positions: Range<u64>,
    /// Of each record its index in the database.
    pub records: Vec<u64>,
    /// Of each record its key.
    pub keys: Vec<Vec<u8>>,
}

/// Reads, decodes, transforms and batches the records of one `Data` layer.
///
/// Not `Send`: open it on the thread that reads.
pub struct DataSource {
    path: PathBuf,
    records: RecordCursor,
    transformer: Transformer,
    batch_size: usize,
    tops: usize,
    /// (channels, height, width) of the first record in the blob.
    first: [usize; 3],
    /// Where position 0 lies, from `rand_skip`.
    skip: u64,
}

impl DataSource {
    /// Opens the database of `layer`, a `Data` layer whose old-style fields are upgraded, and looks
    /// at its first record. `seed` decides crops, flips and `rand_skip`; give all replicas and nodes
    /// the same.
    ///
    /// # Errors
    /// [`DataError::Layer`] for settings that make no sense, [`DataError::Lmdb`], the errors of
    /// [`Database::open`], [`DataError::Empty`], [`DataError::Record`] when the first record does
    /// not fit the settings.
    pub fn open(layer: &LayerParameter, phase: Phase, seed: u64) -> Result<Self, DataError> {
        let name = layer.name();
        let settings = Settings::of(layer)?;
        let param = layer.transform_param.as_deref().cloned().unwrap_or_default();
        let transformer = Transformer::new(name, &param, phase, seed)?;
        let mut database = Database::open(settings.path)?;
        let mut records = RecordCursor::new(&mut database, Order::Sequential)?;
        let (_, record) = records.read(0)?;
        let shape = Image::decode(record.value.clone())
            .and_then(|image| transformer.output_shape(image.shape));
        let first = shape.map_err(|problem| bad_record(settings.path, &record, problem))?;
        let [word, ..] = Philox::new(seed, stream_id("rand_skip") ^ stream_id(name)).at(0);
        Ok(Self {
            path: settings.path.to_owned(),
            records,
            transformer,
            batch_size: settings.batch_size,
            tops: settings.tops,
            first,
            skip: below(word, settings.rand_skip).into(),
        })
    }

    /// Records in a batch.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// The number of records in the database, once the end has been reached.
    pub fn count(&self) -> Option<u64> {
        self.records.count()
    }

    /// The shape of each top, as the first record gives it: `[N, C, H, W]`, and `[N]` where the layer
    /// has a second top.
    pub fn top_shapes(&self) -> Vec<Vec<usize>> {
        let [channels, height, width] = self.first;
        let mut shapes =
            vec![vec![self.batch_size, channels, height, width], vec![self.batch_size]];
        shapes.truncate(self.tops);
        shapes
    }

    /// Fills `batch` with the records of `ticket`. Tickets may come in any order; ascending ones
    /// are cheapest. With `batch_size: 1` each image may have a shape of its own.
    ///
    /// # Errors
    /// [`DataError::Record`] for a record that does not fit the batch, [`DataError::Corrupt`] for a
    /// damaged database. What `batch` holds then is of no use.
    pub fn fill(&mut self, ticket: u64, batch: &mut Batch) -> Result<(), DataError> {
        let n = self.batch_size;
        batch.ticket = ticket;
        batch.positions = positions(ticket, n as u64);
        batch.tops.resize_with(self.tops, Vec::new);
        batch.shapes.resize_with(self.tops, Vec::new);
        batch.keys.resize_with(n, Vec::new);
        batch.records.clear();
        for (i, position) in batch.positions.clone().enumerate() {
            let (index, record) = self.records.read(position + self.skip)?;
            batch.records.push(index);
            batch.keys[i].clear();
            batch.keys[i].extend_from_slice(&record.key);
            self.place(i, position, &record, batch)
                .map_err(|problem| bad_record(&self.path, &record, problem))?;
        }
        Ok(())
    }

    /// Puts the record at `position` into place `i` of the batch; place 0 sets the shape.
    fn place(
        &self,
        i: usize,
        position: u64,
        record: &Record,
        batch: &mut Batch,
    ) -> Result<(), RecordProblem> {
        let n = self.batch_size;
        let image = Image::decode(record.value.clone())?;
        let shape = self.transformer.output_shape(image.shape)?;
        let size: usize = shape.iter().product();
        if i == 0 {
            batch.shapes[0].clear();
            batch.shapes[0].extend_from_slice(&[n, shape[0], shape[1], shape[2]]);
            batch.tops[0].resize(n * size, 0.0);
        } else if batch.shapes[0][1..] != shape {
            let first = &batch.shapes[0];
            let batch = [first[1], first[2], first[3]];
            return Err(RecordProblem::Differs { image: shape, batch });
        }
        self.transformer.apply(&image, position, &mut batch.tops[0][i * size..(i + 1) * size])?;
        if let [_, labels, ..] = batch.tops.as_mut_slice() {
            if i == 0 {
                labels.resize(n, 0.0);
                batch.shapes[1].clear();
                batch.shapes[1].push(n);
            }
            labels[i] = image.label as f32;
        }
        Ok(())
    }
}

/// What a `Data` layer says about its database, checked.
struct Settings<'a> {
    path: &'a Path,
    batch_size: usize,
    tops: usize,
    rand_skip: u32,
}

impl<'a> Settings<'a> {
    fn of(layer: &'a LayerParameter) -> Result<Self, DataError> {
        let wrong = |reason: &str| DataError::Layer {
            layer: layer.name().to_owned(),
            reason: reason.to_owned(),
        };
        let none = wrong("data_param is missing; add `data_param { source: \"…\" batch_size: … }`");
        let data: &DataParameter = layer.data_param.as_deref().ok_or(none)?;
        let path = match data.source() {
            "" => return Err(wrong("data_param has no source; name the database's directory")),
            source => Path::new(source),
        };
        if data.backend() == Db::Lmdb {
            return Err(DataError::Lmdb { path: path.to_owned() });
        }
        let batch_size = match data.batch_size() {
            0 => return Err(wrong("data_param has no batch_size, or 0; give a positive one")),
            size => size as usize,
        };
        let tops = match layer.top.len() {
            tops @ 1..=2 => tops,
            _ => return Err(wrong("a Data layer has one top (data) or two (data, label)")),
        };
        Ok(Self { path, batch_size, tops, rand_skip: data.rand_skip() })
    }
}

fn bad_record(path: &Path, record: &Record, problem: RecordProblem) -> DataError {
    let key = record.key.escape_ascii().to_string();
    DataError::Record { path: path.to_owned(), key, problem }
}
