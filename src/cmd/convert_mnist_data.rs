//! `caffe convert_mnist_data`: a pair of MNIST's idx files becomes a database.

use std::path::PathBuf;

use crate::Result;
use crate::data::Backend;
use crate::data::convert::convert_mnist;
use crate::log::Log;

const EXAMPLES: &str = "\
Examples:
  caffe convert_mnist_data train-images-idx3-ubyte train-labels-idx1-ubyte mnist_train_lmdb
  caffe convert_mnist_data -backend leveldb t10k-images-idx3-ubyte.gz t10k-labels-idx1-ubyte.gz mnist_test_leveldb

The input may be gzipped. What exists is not overwritten.";

/// Convert a pair of MNIST files to a database
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ConvertMnistArgs {
    /// Idx file of images
    #[arg(value_name = "INPUT_IMAGE_FILE")]
    images: PathBuf,
    /// Idx file of labels
    #[arg(value_name = "INPUT_LABEL_FILE")]
    labels: PathBuf,
    /// Database to make
    #[arg(value_name = "OUTPUT_DB_FILE")]
    output: PathBuf,
    /// Kind of database: leveldb or lmdb
    #[arg(long, value_name = "DB_TYPE", default_value = "lmdb")]
    backend: Backend,
}

impl ConvertMnistArgs {
    /// Converts.
    ///
    /// # Errors
    /// Input that is missing or damaged, output that exists or cannot be written.
    pub fn run(self, log: &Log) -> Result<()> {
        let count = convert_mnist(&self.images, &self.labels, &self.output, self.backend)?;
        log.info("convert_mnist_data.cpp:117", format!("Processed {count} files."));
        Ok(())
    }
}
