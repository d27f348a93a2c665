//! `caffe parse_log`: the numbers of a training log as CSV files.

use std::path::PathBuf;

use caffe_proto::write_file_atomic;

use crate::log::Log;
use crate::tools::parse_log::parse;
use crate::{Error, Result, ensure};

const EXAMPLES: &str = "\
Examples:
  caffe parse_log train.log
  caffe parse_log --delimiter=';' caffe.INFO results/

Writes LOG.train and LOG.test with the columns NumIters, Seconds, LearningRate and every output of
the net, as Caffe's parse_log.py does; and LOG.speed where the log has lines of speed: img/s, and
percentages of what the devices' time went into.";

/// Write the numbers of a training log as CSV files
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ParseLogArgs {
    /// The log of a training run
    #[arg(value_name = "LOG")]
    log: PathBuf,
    /// Folder for the files
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Character between columns
    #[arg(long, value_name = "CHAR", default_value_t = ',')]
    delimiter: char,
}

impl ParseLogArgs {
    /// Parses and writes.
    ///
    /// # Errors
    /// A log that cannot be read or holds no outputs of a net, a folder that cannot be written.
    pub fn run(self, log: &Log) -> Result<()> {
        let bytes = std::fs::read(&self.log).map_err(|e| Error::file(&self.log, e))?;
        let tables = parse(&String::from_utf8_lossy(&bytes));
        let sets = [("train", &tables.train), ("test", &tables.test)];
        ensure!(
            sets.iter().any(|(_, table)| !table.rows.is_empty()),
            "`{}` has no line `Train net output` or `Test net output` behind an `Iteration`; is it \
             the log of a training run?",
            self.log.display()
        );
        let name = self.log.file_name().unwrap_or_default();
        let speed = Some(("speed", &tables.speed)).filter(|(_, table)| !table.rows.is_empty());
        for (set, table) in sets.into_iter().chain(speed) {
            let mut file = name.to_owned();
            file.push(format!(".{set}"));
            let path = self.folder.join(file);
            write_file_atomic(&path, table.csv(self.delimiter).as_bytes())?;
            let text = format!("Wrote {} ({} rows)", path.display(), table.rows.len());
            log.info(concat!("parse_log.rs:", line!()), text);
        }
        Ok(())
    }
}
