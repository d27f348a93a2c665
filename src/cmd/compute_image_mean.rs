//! `caffe compute_image_mean`: the mean of a database's images, place by place.

use std::path::PathBuf;

use crate::Result;
use crate::data::Backend;
use crate::data::convert::compute_mean;
use crate::log::{G, Log};

const EXAMPLES: &str = "\
Examples:
  caffe compute_image_mean cifar10_train_leveldb mean.binaryproto
  caffe compute_image_mean -backend=lmdb ilsvrc12_train_lmdb

Prints the mean of each channel; with OUTPUT_FILE, writes the mean image for `mean_file`.";

/// Compute the mean image of a database
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ComputeMeanArgs {
    /// Database of images of one size
    #[arg(value_name = "INPUT_DB")]
    input: PathBuf,
    /// Mean file to write
    #[arg(value_name = "OUTPUT_FILE")]
    output: Option<PathBuf>,
    /// Kind of database: leveldb or lmdb [default: what the folder holds]
    #[arg(long, value_name = "DB_TYPE")]
    backend: Option<Backend>,
}

impl ComputeMeanArgs {
    /// Computes.
    ///
    /// # Errors
    /// A database that cannot be read or holds images of several sizes; output that cannot be
    /// written.
    pub fn run(self, log: &Log) -> Result<()> {
        let backend = self.backend.map_or_else(|| Backend::of(&self.input), Ok)?;
        log.info("compute_image_mean.cpp:73", "Starting iteration");
        let (mean, count) = compute_mean(&self.input, backend)?;
        log.info("compute_image_mean.cpp:101", format!("Processed {count} files."));
        if let Some(output) = &self.output {
            log.info("compute_image_mean.cpp:108", format!("Write to {}", output.display()));
            mean.write(output)?;
        }
        let channels = mean.channel_means();
        log.info("compute_image_mean.cpp:114", format!("Number of channels: {}", channels.len()));
        for (c, value) in channels.into_iter().enumerate() {
            log.info(
                "compute_image_mean.cpp:119",
                format!("mean_value channel [{c}]: {}", G(value)),
            );
        }
        Ok(())
    }
}
