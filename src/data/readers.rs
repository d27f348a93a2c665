//! The layer types that read records: which they are, how much they read, how each is opened.

use std::sync::Arc;

use caffe_proto::data_parameter::Db;
use caffe_proto::{LayerParameter, Phase};

use super::DataError;
use super::hdf5::Hdf5Source;
use super::source::{Batch, data, image_data, window_data};
use super::transform::Levels;

/// How a job reads: the same for all its data layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Decides crops, flips, `rand_skip` and orders; give all replicas and nodes the same.
    pub seed: u64,
    /// Threads that decode images.
    pub threads: usize,
    /// Whether databases are read in another order every epoch, in TRAIN. The order depends on
    /// nothing but the seed and the number of records, so two layers whose databases belong
    /// together stay together.
    pub shuffle: bool,
    /// Whether records that are bytes stay bytes ([`Batch::raw`]): for nets on a device that
    /// transforms them, where they are a quarter of what floats are on their way.
    pub raw: bool,
}

impl Reading {
    /// On one thread, in the databases' order, to floats.
    pub fn new(seed: u64) -> Self {
        Self { seed, threads: 1, shuffle: false, raw: false }
    }
}

/// Where the batches of one layer come from. Not `Send`: it is opened on the thread that reads.
pub trait Records {
    /// Records in a batch.
    fn batch_size(&self) -> usize;

    /// The shape of each top, as the first record gives it.
    fn top_shapes(&self) -> Vec<Vec<usize>>;

    /// Fills `batch` with the records of `ticket`. Tickets may come in any order; ascending ones
    /// are cheapest. With a batch size of 1 each image may have a shape of its own.
    ///
    /// # Errors
    /// Records that cannot be read or do not fit. What `batch` holds then is of no use.
    fn fill(&mut self, ticket: u64, batch: &mut Batch) -> Result<(), DataError>;

    /// Whether several threads ([`Reading::threads`]) would fill batches sooner than one.
    fn decodes(&self) -> bool {
        false
    }

    /// Whether it leaves records as bytes: asked to ([`Reading::raw`]), and able to. A batch with a
    /// record that is none is one of floats all the same.
    fn is_raw(&self) -> bool {
        false
    }

    /// What raw records need to become floats; `None` where there are never any.
    fn levels(&self) -> Option<&Arc<Levels>> {
        None
    }

    /// Bytes of a batch.
    fn batch_bytes(&self) -> usize {
        let floats = |shape: &Vec<usize>| shape.iter().product::<usize>() * size_of::<f32>();
        self.top_shapes().iter().map(floats).sum()
    }
}

/// Whether layers of this type read records and have to be fed.
pub fn reads_records(type_name: &str) -> bool {
    matches!(type_name, "Data" | "HDF5Data" | "ImageData" | "WindowData")
}

/// The batch size of a layer that reads records, where its prototxt has one.
pub fn batch_size_mut(layer: &mut LayerParameter) -> Option<&mut u32> {
    match layer.r#type() {
        "Data" => layer.data_param.as_mut()?.batch_size.as_mut(),
        "HDF5Data" => layer.hdf5_data_param.as_mut()?.batch_size.as_mut(),
        "ImageData" => Some(layer.image_data_param.as_mut()?.batch_size.get_or_insert(1)),
        "WindowData" => layer.window_data_param.as_mut()?.batch_size.as_mut(),
        _ => None,
    }
}

/// Kind and place of what a layer reads, as in "LevelDB cifar10_train_leveldb".
pub fn describe(layer: &LayerParameter) -> String {
    match layer.r#type() {
        "Data" => {
            let param = layer.data_param.as_ref();
            let lmdb = param.is_some_and(|p| p.backend() == Db::Lmdb);
            let source = param.map_or("", |p| p.source());
            format!("{} {source}", if lmdb { "LMDB" } else { "LevelDB" })
        }
        "HDF5Data" => {
            format!("HDF5 {}", layer.hdf5_data_param.as_ref().map_or("", |p| p.source()))
        }
        "ImageData" => {
            format!("image {}", layer.image_data_param.as_ref().map_or("", |p| p.source()))
        }
        "WindowData" => {
            format!("window {}", layer.window_data_param.as_ref().map_or("", |p| p.source()))
        }
        other => other.into(),
    }
}

/// Opens the source of a layer that reads records, whose old-style fields are upgraded, and looks
/// at its first record.
///
/// # Errors
/// Settings that make no sense, and data that cannot be opened.
pub fn open(
    layer: &LayerParameter,
    phase: Phase,
    reading: Reading,
) -> Result<Box<dyn Records>, DataError> {
    Ok(match layer.r#type() {
        "HDF5Data" => Box::new(Hdf5Source::open(layer, reading.seed)?),
        "ImageData" => Box::new(image_data::open(layer, phase, reading)?),
        "WindowData" => Box::new(window_data::open(layer, reading)?),
        _ => Box::new(data::open(layer, phase, reading)?),
    })
}
