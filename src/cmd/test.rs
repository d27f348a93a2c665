//! `caffe test`: the mean of a net's outputs over some batches.

use std::path::PathBuf;

use caffe_proto::Phase;

use super::model::ModelArgs;
use crate::log::{G, Log};
use crate::net::{Pass, Value};
use crate::{Result, bail};

const EXAMPLES: &str = "\
Examples:
  caffe test -model lenet_train_test.prototxt -weights lenet_iter_10000.caffemodel -iterations 100
  caffe test --model=net.prototxt --weights=net.caffemodel --stage=deploy
  caffe test -model make_data.prototxt -iterations 10    (a net that has no weights)";

/// Score a model: run its TEST net and print the mean of every output
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct TestArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Trained weights, one .caffemodel or several; only a net without weights does without
    #[arg(long, value_name = "FILES", value_delimiter = ',')]
    weights: Vec<PathBuf>,
}

impl TestArgs {
    /// Runs the test.
    ///
    /// # Errors
    /// Anything wrong with flags, files, net or data.
    pub fn run(self, log: &Log) -> Result<()> {
        let mut model = self.model.build(Phase::Test, Pass::Forward, log)?;
        if let (true, Some(name)) = (self.weights.is_empty(), model.layers_with_weights().first()) {
            bail!("test needs --weights: layer `{name}` and others would score what fillers drew");
        }
        model.load(&self.weights, log)?;
        let iterations = self.model.iterations;
        log.info("caffe.cpp:285", format!("Running for {iterations} iterations."));
        let mut loss = 0.0;
        let mut sums: Vec<Value> = model.net.output_names();
        for batch in 0..iterations {
            model.feed(batch.into())?;
            loss += model.net.forward()?;
            for (sum, value) in sums.iter_mut().zip(model.net.output_values()?) {
                sum.value += value.value;
                let text = format!("Batch {batch}, {} = {}", value.name, G(value.value));
                log.info("caffe.cpp:308", text);
            }
        }
        log.info("caffe.cpp:313", format!("Loss: {}", G(loss / iterations as f32)));
        for sum in sums {
            let mean = sum.value / iterations as f32;
            let weighted = match sum.loss_weight {
                0.0 => String::new(),
                weight => format!(" (* {} = {} loss)", G(weight), G(weight * mean)),
            };
            log.info("caffe.cpp:325", format!("{} = {}{weighted}", sum.name, G(mean)));
        }
        Ok(())
    }
}
