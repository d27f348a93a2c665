//! `caffe plot`: training logs as a picture.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::log::Log;
use crate::tools::chart::check_name;
use crate::tools::parse_log::{Tables, parse};
use crate::tools::plot::{Options, Over, Run, chart, mean};
use crate::{Error, Result, ensure};

const EXAMPLES: &str = "\
Examples:
  caffe plot train.log loss.png
  caffe plot one.log two.log three.log runs.svg
  caffe plot sync=sync-1.log,sync-2.log hogwild=hogwild-1.log,hogwild-2.log means.png
  caffe plot --outputs=loss,accuracy,lr --over=iterations --log train.log loss.png

Each output of the nets is a row of panels, and so is the learning rate; a run is a colour, whole
(or dotted) lines are the train net, dashed ones the test net. Logs with a comma between them are one
run: their mean. NAME= before a log is its name in the legend.";

/// Draw loss, accuracy and learning rate of training logs
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct PlotArgs {
    /// Logs of training runs ([NAME=]FILE[,FILE…]), and last the picture to write: .png or .svg
    #[arg(value_name = "LOG… PICTURE", num_args = 2.., required = true)]
    files: Vec<String>,
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
        let picture = Path::new(picture);
        check_name(picture)?;
        let logs: Vec<Logs> = logs.iter().map(|text| Logs::of(text)).collect();
        let runs = logs.iter().map(|one| one.read(&logs)).collect::<Result<Vec<_>>>()?;
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

/// An argument: the logs of one run, or of several that are drawn as their mean.
struct Logs {
    name: Option<String>,
    paths: Vec<PathBuf>,
}

impl Logs {
    /// A file of that very name is meant before anything else.
    fn of(text: &str) -> Logs {
        if Path::new(text).exists() {
            return Logs { name: None, paths: vec![text.into()] };
        }
        let (name, files) = match text.split_once('=') {
            Some((name, files)) => (Some(name.to_owned()), files),
            None => (None, text),
        };
        Logs { name, paths: files.split(',').map(PathBuf::from).collect() }
    }

    /// With its name in the legend: the one given, else that of the file, with its folder where
    /// another has the same.
    fn read(&self, all: &[Logs]) -> Result<Run> {
        let mut tables = self.paths.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
        let tables = match tables.len() {
            1 => tables.swap_remove(0),
            _ => mean(&tables)?,
        };
        let path = &self.paths[0];
        let same = |other: &&Logs| other.paths[0].file_name() == path.file_name();
        let alone = all.iter().filter(same).count() == 1;
        let file = path.file_name().filter(|_| alone).map_or(path.as_os_str(), |name| name);
        let name = self.name.clone().unwrap_or_else(|| file.to_string_lossy().into_owned());
        Ok(Run { name, tables })
    }
}

fn read(path: &Path) -> Result<Tables> {
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, e))?;
    let tables = parse(&String::from_utf8_lossy(&bytes));
    ensure!(
        [&tables.train, &tables.test].iter().any(|table| !table.rows.is_empty()),
        "`{}` has no line `Train net output` or `Test net output` behind an `Iteration`; is it the \
         log of a training run?",
        path.display()
    );
    Ok(tables)
}
