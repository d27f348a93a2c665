//! `caffe classification`: what a trained net takes an image for, as Caffe's C++ example tells it.

use std::path::{Path, PathBuf};

use caffe_proto::Phase;

use super::gpu::GpuArgs;
use super::model::{Model, ModelArgs};
use super::print;
use crate::blob::BlobId;
use crate::data::image::{Colour, Picture};
use crate::data::mean::MeanImage;
use crate::log::Log;
use crate::net::Pass;
use crate::{Error, Result, bail, ensure};

const EXAMPLES: &str = "\
Examples:
  caffe classification deploy.prototxt net.caffemodel mean.binaryproto labels.txt cat.jpg

The net has one Input and one output. The image is brought to the input's size, the mean file's mean
of each channel is subtracted, and the five highest values are printed with the lines of LABELS.";

/// Lines printed.
const BEST: usize = 5;

/// Print the five classes that a net finds likeliest for an image
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ClassificationArgs {
    /// The net for use (deploy), a prototxt
    #[arg(value_name = "DEPLOY")]
    model: PathBuf,
    /// Trained weights, a .caffemodel
    #[arg(value_name = "WEIGHTS")]
    weights: PathBuf,
    /// Mean file that the net was trained with
    #[arg(value_name = "MEAN")]
    mean: PathBuf,
    /// Names of the classes, a line each
    #[arg(value_name = "LABELS")]
    labels: PathBuf,
    /// JPEG or PNG
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
}

impl ClassificationArgs {
    /// Classifies.
    ///
    /// # Errors
    /// Files that cannot be read, a net without just one input and output, a mean or labels that do
    /// not fit the net.
    pub fn run(self, log: &Log) -> Result<()> {
        let net = ModelArgs {
            model: self.model.clone(),
            iterations: 1,
            level: 0,
            stage: Vec::new(),
            threads: None,
            exact: false,
            gpu: GpuArgs::default(),
        };
        let mut model = net.build(Phase::Test, Pass::Forward, log)?;
        model.load(std::slice::from_ref(&self.weights), log)?;
        let (input, output) = (self.only(&model, true)?, self.only(&model, false)?);
        let labels =
            std::fs::read_to_string(&self.labels).map_err(|e| Error::file(&self.labels, e))?;
        let labels: Vec<&str> = labels.lines().collect();

        self.fill(&mut model, input)?;
        model.net.forward()?;
        let values = model.net.data(output)?;
        ensure!(
            labels.len() == values.len(),
            "{}: {} labels for the {} outputs of the net",
            self.labels.display(),
            labels.len(),
            values.len()
        );
        let mut best: Vec<(f32, &str)> = values.iter().copied().zip(labels).collect();
        best.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut text = format!("---------- Prediction for {} ----------\n", self.image.display());
        for (value, label) in best.iter().take(BEST) {
            text += &format!("{value:.4} - \"{label}\"\n");
        }
        print(&text)
    }

    /// The net's only input, or its only output, for a batch of one.
    fn only(&self, model: &Model, input: bool) -> Result<BlobId> {
        let (what, ids) =
            if input { ("Input", model.net.inputs()) } else { ("output", model.net.outputs()) };
        match ids {
            [one] => Ok(*one),
            all => bail!("{}: needs one {what}, not {}", self.model.display(), all.len()),
        }
    }

    /// The image, in the net's size and less the mean, becomes the input.
    fn fill(&self, model: &mut Model, input: BlobId) -> Result<()> {
        let shape = model.net.store().blobs[input].shape.nchw()?;
        let [_, channels, height, width] = shape;
        let colour = match channels {
            1 => Colour::Grey,
            3 => Colour::Bgr,
            n => bail!("{}: an input of 1 or 3 channels is needed, not {n}", self.model.display()),
        };
        model.net.reshape_input(input, [1, channels, height, width].into())?;
        let mean = MeanImage::read(&self.mean)?.channel_means();
        ensure!(
            mean.len() == channels,
            "{}: a mean of {} channels for a net of {channels}",
            self.mean.display(),
            mean.len()
        );
        let image = read(&self.image, colour)?.resize(height, width).planes();
        let values = model.net.data_mut(input)?;
        let planes =
            values.chunks_exact_mut(height * width).zip(image.chunks_exact(height * width));
        for ((values, image), mean) in planes.zip(mean) {
            values.iter_mut().zip(image).for_each(|(v, p)| *v = f32::from(*p) - mean);
        }
        Ok(())
    }
}

fn read(path: &Path, colour: Colour) -> Result<crate::data::image::Raster> {
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, e))?;
    let decoded = Picture::inspect(bytes.into()).and_then(|picture| picture.decode(colour));
    decoded.map_err(|problem| Error::Invalid(format!("{}: {problem}", path.display())))
}
