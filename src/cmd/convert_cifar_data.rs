//! `caffe convert_cifar_data`: CIFAR-10's binary files become two databases.

use std::path::PathBuf;

use crate::Result;
use crate::data::Backend;
use crate::data::convert::convert_cifar;
use crate::log::Log;

const EXAMPLES: &str = "\
Examples:
  caffe convert_cifar_data data/cifar10 examples/cifar10 leveldb
  caffe convert_cifar_data data/cifar10 examples/cifar10 lmdb

Reads data_batch_1.bin to data_batch_5.bin and test_batch.bin; makes cifar10_train_leveldb and
cifar10_test_leveldb, or ..._lmdb. What exists is not overwritten.";

/// Convert CIFAR-10's binary files to databases
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ConvertCifarArgs {
    /// Folder with the .bin files
    #[arg(value_name = "INPUT_FOLDER")]
    input: PathBuf,
    /// Folder for the databases
    #[arg(value_name = "OUTPUT_FOLDER")]
    output: PathBuf,
    /// Kind of database: leveldb or lmdb
    #[arg(value_name = "DB_TYPE", default_value = "leveldb")]
    backend: Backend,
}

impl ConvertCifarArgs {
    /// Converts.
    ///
    /// # Errors
    /// Input that is missing or damaged, output that exists or cannot be written.
    pub fn run(self, log: &Log) -> Result<()> {
        log.info("convert_cifar_data.cpp:52", "Writing Training data");
        for batch in 1..=5 {
            if self.input.join(format!("data_batch_{batch}.bin")).exists() {
                log.info("convert_cifar_data.cpp:55", format!("Training Batch {batch}"));
            }
        }
        let made = convert_cifar(&self.input, &self.output, self.backend)?;
        for file in &made.missing {
            let text = format!("{} is missing: converted without it", file.display());
            log.warning("convert_cifar_data.cpp:55", text);
        }
        for (what, set) in [("Training", &made.train), ("Testing", &made.test)] {
            let text = format!("{what} data: {} records in {}", set.records, set.path.display());
            log.info("convert_cifar_data.cpp:78", text);
        }
        Ok(())
    }
}
