//! `caffe generate_data`: a generated set in CIFAR-10's shape, for where CIFAR-10 is not at hand.

use std::path::PathBuf;

use crate::Result;
use crate::data::synthetic::write_synthetic;
use crate::log::Log;

const EXAMPLES: &str = "\
Examples:
  caffe generate_data examples/cifar10
  caffe generate_data /tmp/set --train=50000 --test=10000 --seed=2

Makes cifar10_train_leveldb and cifar10_test_leveldb of drawn shapes: ten classes of 3 x 32 x 32
images that a net has to learn to tell apart. Accuracies on them do not compare with CIFAR-10's.";

/// Generate a 10-class set of 32 x 32 images, when CIFAR-10 is not at hand
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct GenerateArgs {
    /// Folder for the databases
    #[arg(value_name = "OUTPUT_FOLDER")]
    output: PathBuf,
    /// Images to train on
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    train: u64,
    /// Images to test on
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    test: u64,
    /// Seed; the same one draws the same images
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

impl GenerateArgs {
    /// Generates.
    ///
    /// # Errors
    /// Output that exists or cannot be written.
    pub fn run(self, log: &Log) -> Result<()> {
        for made in write_synthetic(&self.output, self.train, self.test, self.seed)? {
            let text = format!("{} generated records in {}", made.records, made.path.display());
            log.info(concat!("generate_data.rs:", line!()), text);
        }
        Ok(())
    }
}
