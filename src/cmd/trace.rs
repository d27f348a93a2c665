//! `caffe trace merge|report|plot`: what the traces of a run say.

use std::path::PathBuf;

use super::print;
use crate::Result;
use crate::log::Log;
use crate::tools::chart::check_name;
use crate::tools::trace::{Trace, merge, picture, report};

const EXAMPLES: &str = "\
Examples:
  mpirun -n 2 caffe train --solver=solver.prototxt --trace=trace
  caffe trace report trace
  caffe trace merge trace -o all.json
  caffe trace plot trace timeline.svg

Each rank of `caffe train --trace=DIR` leaves DIR/trace-rank-N.json, with what it found out about
its clock; here all ranks are put on rank 0's time. all.json opens in https://ui.perfetto.dev.";

/// Merge, analyse or draw the traces that the ranks of a run have left
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct TraceArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Write one Chrome trace with a process per rank, all on one time axis
    #[command(after_help = "Example:\n  caffe trace merge trace -o all.json")]
    Merge {
        /// Folders of --trace, or files of ranks
        #[arg(value_name = "DIR|FILES", required = true)]
        traces: Vec<PathBuf>,
        /// The file to write
        #[arg(short = 'o', long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Say who was busy, who waited for what, and in one sentence what bound the run
    #[command(after_help = "Example:\n  caffe trace report trace")]
    Report {
        /// Folders of --trace, or files of ranks
        #[arg(value_name = "DIR|FILES", required = true)]
        traces: Vec<PathBuf>,
    },
    /// Draw a lane per actor, coloured by what it did when
    #[command(after_help = "Example:\n  caffe trace plot trace timeline.svg --from=1 --to=1.2")]
    Plot {
        /// Folder of --trace, or a file of a rank
        #[arg(value_name = "DIR|FILE")]
        trace: PathBuf,
        /// The picture: .svg or .png
        #[arg(value_name = "OUT")]
        out: PathBuf,
        /// Begin at this second of training
        #[arg(long, value_name = "S", default_value_t = 0.0)]
        from: f64,
        /// End at this second of training [default: its end]
        #[arg(long, value_name = "S")]
        to: Option<f64>,
    },
}

impl TraceArgs {
    /// Does it.
    ///
    /// # Errors
    /// Files that are no traces, and a file that cannot be written.
    pub fn run(self, log: &Log) -> Result<()> {
        let told = |text: String| log.info(concat!("trace.rs:", line!()), text);
        match self.what {
            What::Merge { traces, out } => {
                let (ranks, events) = merge::merge(&traces, &out)?;
                told(format!("Wrote {}: {ranks} ranks, {events} events", out.display()));
            }
            What::Report { traces } => print(&report::report(&Trace::read(&traces)?))?,
            What::Plot { trace, out, from, to } => {
                check_name(&out)?;
                picture::draw(&Trace::read(&[trace])?, (from, to.unwrap_or(f64::INFINITY)), &out)?;
                told(format!("Wrote {}", out.display()));
            }
        }
        Ok(())
    }
}
