//! `caffe extract_features`: what blobs of a trained net hold for each record, as databases.

use std::path::PathBuf;

use caffe_proto::{Datum, Message, Phase};
use clap::ValueEnum;

use super::gpu::GpuArgs;
use super::model::{Model, ModelArgs};
use crate::blob::BlobId;
use crate::data::{Backend, Writer};
use crate::log::Log;
use crate::{Result, ensure};

const EXAMPLES: &str = "\
Examples:
  caffe extract_features caffenet.caffemodel train_val.prototxt fc7 features_fc7 10 lmdb
  caffe extract_features net.caffemodel net.prototxt fc6,fc7 out_fc6,out_fc7 100 leveldb GPU

The net runs in the TEST phase and brings its own data layer. For each of MINIBATCHES batches and
each record in it, every blob gets a record in its database: keys count from 0000000000, values are
a Datum with the blob's channels, height and width and its values as floats.";

/// Records between two lines of the log.
const EVERY: u64 = 1000;

/// Write a trained net's features of a data set to databases
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ExtractArgs {
    /// Trained weights, a .caffemodel
    #[arg(value_name = "WEIGHTS")]
    weights: PathBuf,
    /// The net with its data layer, a prototxt
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Blobs to extract
    #[arg(value_name = "BLOB,…")]
    blobs: String,
    /// Databases to make, one for each blob
    #[arg(value_name = "DB_NAME,…")]
    databases: String,
    /// How many batches run
    #[arg(value_name = "MINIBATCHES", value_parser = clap::value_parser!(u32).range(1..))]
    batches: u32,
    /// Kind of the databases: leveldb or lmdb
    #[arg(value_name = "DB_TYPE")]
    backend: Backend,
    /// What computes [default: CPU]
    #[arg(value_name = "CPU|GPU", ignore_case = true)]
    device: Option<Device>,
    /// Number of the GPU
    #[arg(value_name = "DEVICE_ID", default_value_t = 0)]
    device_id: u32,
    /// CPU threads [default: the cores this process may use]
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
enum Device {
    Cpu,
    Gpu,
}

/// A blob on its way into a database.
struct Feature {
    name: String,
    id: BlobId,
    writer: Writer,
    written: u64,
}

impl ExtractArgs {
    /// Extracts.
    ///
    /// # Errors
    /// Blobs that the net does not have, anything wrong with net, weights or data, databases that
    /// exist or cannot be written.
    pub fn run(self, log: &Log) -> Result<()> {
        let mut model = self.net().build_keeping_all(Phase::Test, log)?;
        model.load(std::slice::from_ref(&self.weights), log)?;
        let mut features = self.features(&model)?;
        log.info("extract_features.cpp:134", "Extracting Features");
        for batch in 0..self.batches {
            model.feed(batch.into())?;
            model.net.forward()?;
            for feature in &mut features {
                feature.take(&mut model, log)?;
            }
        }
        for Feature { name, writer, .. } in features {
            let count = writer.finish()?;
            log.info("extract_features.cpp:175", told(count, &name));
        }
        log.info("extract_features.cpp:180", "Successfully extracted the features!");
        Ok(())
    }

    fn net(&self) -> ModelArgs {
        ModelArgs {
            model: self.model.clone(),
            iterations: self.batches,
            level: 0,
            stage: Vec::new(),
            threads: self.threads,
            exact: false,
            gpu: GpuArgs::of(match self.device {
                Some(Device::Gpu) => self.device_id.to_string(),
                _ => String::new(),
            }),
        }
    }

    /// The blobs with their databases; an unknown blob is refused before a database is made.
    fn features(&self, model: &Model) -> Result<Vec<Feature>> {
        let blobs: Vec<&str> = self.blobs.split(',').collect();
        let databases: Vec<&str> = self.databases.split(',').collect();
        ensure!(
            blobs.len() == databases.len(),
            "{} blobs need as many databases, not {}",
            blobs.len(),
            databases.len()
        );
        let ids = blobs.iter().map(|name| model.net.blob(name));
        let ids = ids.collect::<Result<Vec<_>>>()?;
        let each = blobs.into_iter().zip(ids).zip(databases);
        each.map(|((name, id), path)| {
            ensure_fits(model, name, id)?;
            let writer = Writer::create(path, self.backend)?;
            Ok(Feature { name: name.to_owned(), id, writer, written: 0 })
        })
        .collect()
    }
}

/// A Datum has three axes besides that of the records.
fn ensure_fits(model: &Model, name: &str, id: BlobId) -> Result<()> {
    let shape = &model.net.store().blobs[id].shape;
    ensure!(
        (1..=4).contains(&shape.axes()),
        "blob `{name}` of shape {shape} has {} axes; a Datum holds 1 to 3 besides that of the records",
        shape.axes()
    );
    Ok(())
}

fn told(count: u64, name: &str) -> String {
    format!("Extracted features of {count} query images for feature blob {name}")
}

impl Feature {
    /// Writes what the blob holds after a pass, record by record.
    fn take(&mut self, model: &mut Model, log: &Log) -> Result<()> {
        let [records, sides @ ..] = model.net.store().blobs[self.id].shape.nchw()?;
        let [channels, height, width] = sides.map(|side| Some(side as i32));
        let values = model.net.data(self.id)?;
        if records == 0 || values.is_empty() {
            return Ok(());
        }
        for record in values.chunks_exact(values.len() / records) {
            let float_data = record.to_vec();
            let datum = Datum { channels, height, width, float_data, ..Datum::default() };
            let key = format!("{:010}", self.written);
            self.writer.put(key.as_bytes(), &datum.encode_to_vec())?;
            self.written += 1;
            if self.written.is_multiple_of(EVERY) {
                log.info("extract_features.cpp:165", told(self.written, &self.name));
            }
        }
        Ok(())
    }
}
