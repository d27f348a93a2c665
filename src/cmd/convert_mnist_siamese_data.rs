//! `caffe convert_mnist_siamese_data`: pairs of MNIST's images become a database.

use std::path::PathBuf;

use crate::Result;
use crate::data::convert::convert_mnist_pairs;
use crate::log::Log;

const EXAMPLES: &str = "\
Examples:
  caffe convert_mnist_siamese_data train-images-idx3-ubyte train-labels-idx1-ubyte mnist_siamese_train_leveldb

The database is a LevelDB of as many random pairs as there are images: two channels, label 1 where
both show the same digit, 0 where not. The input may be gzipped. What exists is not overwritten.";

/// Convert a pair of MNIST files to a database of pairs of images
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ConvertSiameseArgs {
    /// Idx file of images
    #[arg(value_name = "INPUT_IMAGE_FILE")]
    images: PathBuf,
    /// Idx file of labels
    #[arg(value_name = "INPUT_LABEL_FILE")]
    labels: PathBuf,
    /// LevelDB to make
    #[arg(value_name = "OUTPUT_DB_FILE")]
    output: PathBuf,
    /// Which pairs are drawn: the same seed draws the same
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

impl ConvertSiameseArgs {
    /// Converts.
    ///
    /// # Errors
    /// Input that is missing or damaged, output that exists or cannot be written.
    pub fn run(self, log: &Log) -> Result<()> {
        let count = convert_mnist_pairs(&self.images, &self.labels, &self.output, self.seed)?;
        log.info("convert_mnist_siamese_data.cpp:55", format!("A total of {count} pairs."));
        Ok(())
    }
}
