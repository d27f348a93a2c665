//! `caffe export`: weights as named arrays, or a deploy net with its weights as ONNX.

use std::path::{Path, PathBuf};

use caffe_proto::{Phase, net_from_file};
use clap::ValueEnum;

use crate::export::{Weights, npz, onnx, safetensors};
use crate::log::Log;
use crate::net::{Net, NetOptions, Origin};
use crate::snapshot::{copy_weights, read_weights};
use crate::{Result, bail};

const EXAMPLES: &str = "\
Examples:
  caffe export -weights lenet_iter_10000.caffemodel lenet.safetensors
  caffe export -weights bvlc_googlenet.caffemodel --format=npz googlenet.npz
  caffe export -model deploy.prototxt -weights net.caffemodel net.onnx

Arrays are called LAYER/INDEX: conv1/0 are the weights of layer conv1, conv1/1 its biases.";

/// Format of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Safetensors,
    Npz,
    Onnx,
}

/// Write a model's weights for other programs: safetensors, NumPy's npz, or ONNX
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ExportArgs {
    /// Trained weights, a .caffemodel or .caffemodel.h5
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// The net's deploy form, a prototxt; for ONNX
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// safetensors, npz or onnx [default: what the output's name ends with]
    #[arg(long, value_enum, hide_possible_values = true)]
    format: Option<Format>,
    /// File to write
    #[arg(value_name = "OUTPUT")]
    output: PathBuf,
}

impl ExportArgs {
    /// Exports.
    ///
    /// # Errors
    /// Files that cannot be read or written, weights that do not fit the net, layers that ONNX
    /// cannot say.
    pub fn run(self, log: &Log) -> Result<()> {
        let arrays = || Weights::of_model(&read_weights(&self.weights)?);
        match (self.format()?, &self.model) {
            (Format::Onnx, None) => {
                bail!("ONNX holds the net too: give its deploy form with -model FILE")
            }
            (Format::Onnx, Some(path)) => {
                let mut net = deploy(path)?;
                let report = copy_weights(&mut net, &self.weights)?;
                if let Some(layer) = left_out(&net, &report.copied) {
                    bail!("{}: has no weights for layer `{layer}`", self.weights.display());
                }
                onnx::write(&self.output, &mut net)?;
            }
            (_, Some(_)) => bail!("-model is for ONNX; the other formats hold weights only"),
            (Format::Safetensors, None) => {
                safetensors::write(&self.output, &arrays()?)?;
            }
            (Format::Npz, None) => npz::write(&self.output, &arrays()?)?,
        }
        log.info("export.rs:75", format!("Wrote {}", self.output.display()));
        Ok(())
    }

    fn format(&self) -> Result<Format> {
        if let Some(format) = self.format {
            return Ok(format);
        }
        let ending = self.output.extension().map(|e| e.to_string_lossy().into_owned());
        match Format::from_str(&ending.unwrap_or_default(), true) {
            Ok(format) => Ok(format),
            Err(_) => bail!(
                "{}: its name says no format; give --format=safetensors, npz or onnx",
                self.output.display()
            ),
        }
    }
}

fn deploy(path: &Path) -> Result<Net> {
    let file = net_from_file(path)?;
    let lines = (0..file.net.layer.len()).map(|i| file.line(i).unwrap_or(0)).collect();
    let origin = Origin { file: path.display().to_string(), lines };
    // Everything is kept, so that layers stay as they are written: no ReLU moves into another.
    let options = NetOptions { keep_all: true, ..NetOptions::new(Phase::Test) };
    Net::new(&file.net, &origin, &options)
}

/// A layer with parameters that got none.
fn left_out(net: &Net, copied: &[String]) -> Option<String> {
    let with = net.layers().iter().filter(|node| !node.params.is_empty());
    with.map(|node| node.name().to_owned()).find(|name| !copied.contains(name))
}
