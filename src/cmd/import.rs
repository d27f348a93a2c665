//! `caffe import`: named arrays become a `.caffemodel`.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use caffe_proto::{net_from_file, write_binary_file_atomic};

use crate::Result;
use crate::export::{npz, safetensors};
use crate::log::Log;

const EXAMPLES: &str = "\
Examples:
  caffe import lenet.safetensors lenet.caffemodel
  caffe import -model train_val.prototxt weights.npz net.caffemodel

Arrays are called LAYER/INDEX: conv1/0 are the weights of layer conv1, conv1/1 its biases.";

/// Make a .caffemodel of weights in safetensors or NumPy's npz
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ImportArgs {
    /// The net, a prototxt: the model then has its layers in its order, with their settings
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// File of arrays
    #[arg(value_name = "INPUT")]
    input: PathBuf,
    /// Model to write
    #[arg(value_name = "OUTPUT")]
    output: PathBuf,
}

impl ImportArgs {
    /// Imports.
    ///
    /// # Errors
    /// Files that cannot be read or written, arrays without a layer.
    pub fn run(self, log: &Log) -> Result<()> {
        let net = match &self.model {
            Some(path) => Some(net_from_file(path)?.net),
            None => None,
        };
        let mut head = [0; 2];
        let read = File::open(&self.input).and_then(|mut file| file.read(&mut head));
        read.map_err(|e| crate::Error::file(&self.input, e))?;
        // An .npz is a zip archive.
        let weights = match &head == b"PK" {
            true => npz::read(&self.input)?,
            false => safetensors::read(&self.input)?,
        };
        let count = weights.arrays.len();
        let model = weights.into_model(net)?;
        write_binary_file_atomic(&self.output, &model)?;
        log.info("import.rs:54", format!("Wrote {count} blobs to {}", self.output.display()));
        Ok(())
    }
}
