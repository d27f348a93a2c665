//! `caffe plot`: training logs as a picture.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::log::Log;
use crate::tools::chart::check_name;
use crate::tools::parse_log::parse;
use crate::tools::plot::{Options, Over, Run, chart};
use crate::{Error, Result, ensure};

const EXAMPLES: &str = "\
Examples:
  caffe plot train.log loss.png
  caffe plot one.log two.log three.log runs.svg
  caffe plot --outputs=loss,accuracy,lr --over=iterations --log train.log loss.png

Each output of the nets is a row of panels, and so is the learning rate; a run is a colour, whole
(or dotted) lines are the train net, dashed ones the test net.";

/// Draw loss, accuracy and learning rate of training logs
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct PlotArgs {
    /// Logs of training runs, and last the picture to write: .png or .svg
    #[arg(value_name = "LOG… PICTURE", num_args = 2.., required = true)]
    files: Vec<PathBuf>,
    /// Outputs to draw, with commas; lr is the learning rate [default: all]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    outputs: Vec<String>,
    /// The horizontal axis: iterations, seconds or both
    #[arg(
        long,
        value_enum,
        ignore_case = true,
        default_value = "both",
        hide_possible_values = true
    )]
    over: OverArg,
    /// Draw losses by their logarithm
    #[arg(long)]
    log: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OverArg {
    Iterations,
    Seconds,
    Both,
}

impl PlotArgs {
    /// Reads, draws, writes.
    ///
    /// # Errors
    /// A log that cannot be read or is none, outputs that no log has, a picture of unknown form or
    /// that cannot be written.
    pub fn run(self, log: &Log) -> Result<()> {
        let Some((picture, logs)) = self.files.split_last() else { return Ok(()) };
        check_name(picture)?;
        let runs = logs.iter().map(|path| read(path, logs)).collect::<Result<Vec<_>>>()?;
        let over = match self.over {
            OverArg::Iterations => vec![Over::Iterations],
            OverArg::Seconds => vec![Over::Seconds],
            OverArg::Both => Vec::new(),
        };
        let chart = chart(&runs, &Options { outputs: self.outputs, over, log: self.log })?;
        chart.save(picture)?;
        let text = format!("Wrote {} ({} panels)", picture.display(), chart.panels.len());
        log.info(concat!("plot.rs:", line!()), text);
        Ok(())
    }
}

/// A log with its name in the legend: that of the file, with its folder where another has the same.
fn read(path: &Path, all: &[PathBuf]) -> Result<Run> {
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, e))?;
    let tables = parse(&String::from_utf8_lossy(&bytes));
    ensure!(
        [&tables.train, &tables.test].iter().any(|table| !table.rows.is_empty()),
        "`{}` has no line `Train net output` or `Test net output` behind an `Iteration`; is it the \
         log of a training run?",
        path.display()
    );
    let alone = all.iter().filter(|other| other.file_name() == path.file_name()).count() == 1;
    let name = path.file_name().filter(|_| alone).map_or(path.as_os_str(), |name| name);
    Ok(Run { name: name.to_string_lossy().into_owned(), tables })
}
