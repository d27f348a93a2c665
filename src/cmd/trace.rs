//! `caffe trace merge|report|plot`: what the traces of a run say.

use std::path::PathBuf;

use clap::ValueEnum;

use super::print;
use crate::log::Log;
use crate::tools::chart::check_name;
use crate::tools::trace::{Trace, merge, picture, report};
use crate::{Result, bail};

const EXAMPLES: &str = "\
Examples:
  mpirun -n 2 caffe train --solver=solver.prototxt --trace=trace
  caffe trace report trace
  caffe trace merge trace -o all.json
  caffe trace plot trace timeline.svg
  caffe trace plot trace detail.png --from=1 --to=1.2

Each rank of `caffe train --trace=DIR` leaves DIR/trace-rank-N.json, with what it found out about
its clock; here all ranks are put on rank 0's time. merge writes one file for
https://ui.perfetto.dev; report says who was busy, who waited for what, and in one sentence what
bound the run; plot draws a lane per actor, as .svg or .png.";

/// Merge, analyse or draw the traces that the ranks of a run have left
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct TraceArgs {
    /// merge, report or plot
    #[arg(value_name = "ACTION", value_enum, hide_possible_values = true)]
    action: Action,
    /// Folders of --trace, or files of ranks; for plot the picture's name behind them
    #[arg(value_name = "DIR|FILES", required = true)]
    paths: Vec<PathBuf>,
    /// The file that merge or plot writes
    #[arg(long = "o", value_name = "FILE")]
    out: Option<PathBuf>,
    /// plot begins at this second of training
    #[arg(long, value_name = "S", default_value_t = 0.0)]
    from: f64,
    /// plot ends at this second of training [default: its end]
    #[arg(long, value_name = "S")]
    to: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Action {
    Merge,
    Report,
    Plot,
}

impl TraceArgs {
    /// Does it.
    ///
    /// # Errors
    /// Files that are no traces, and a file that cannot be written.
    pub fn run(mut self, log: &Log) -> Result<()> {
        let told = |text: String| log.info(concat!("trace.rs:", line!()), text);
        if self.action == Action::Report {
            return print(&report::report(&Trace::read(&self.paths)?));
        }
        let last = self.action == Action::Plot && self.paths.len() > 1;
        let Some(out) = self.out.take().or_else(|| self.paths.pop().filter(|_| last)) else {
            bail!("say which file to write: `-o FILE`");
        };
        if self.action == Action::Merge {
            let (ranks, events) = merge::merge(&self.paths, &out)?;
            told(format!("Wrote {}: {ranks} ranks, {events} events", out.display()));
            return Ok(());
        }
        check_name(&out)?;
        let part = (self.from, self.to.unwrap_or(f64::INFINITY));
        picture::draw(&Trace::read(&self.paths)?, part, &out)?;
        told(format!("Wrote {}", out.display()));
        Ok(())
    }
}
