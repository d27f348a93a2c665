//! Flags: what a run writes down about itself.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::trainer::Options;
use crate::trainer::observe::prometheus;

/// Traces and numbers.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Traces and numbers")]
pub struct Seeing {
    /// Write a trace of every rank into this folder, for `caffe trace` and ui.perfetto.dev
    #[arg(long, value_name = "DIR")]
    pub trace: Option<PathBuf>,
    /// Show every layer in the trace
    #[arg(long)]
    pub trace_layers: bool,
    /// A file for the run's numbers: a line of JSON for each display, test and snapshot
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,
    /// A folder for an event file that TensorBoard shows
    #[arg(long, value_name = "DIR")]
    pub tensorboard: Option<PathBuf>,
    /// Serve the numbers to Prometheus: a port of this host, or an address to listen on
    #[arg(long, value_name = "ADDR", value_parser = prometheus::address)]
    pub prometheus: Option<SocketAddr>,
    /// Write into this folder, for every replica, which records it trains on: a line for each batch,
    /// its number and the records' keys
    #[arg(long, value_name = "DIR")]
    pub log_records: Option<PathBuf>,
}

impl Seeing {
    /// Puts what the flags say into the options.
    pub(super) fn apply(self, options: &mut Options) {
        options.trace = self.trace;
        options.trace_layers = self.trace_layers;
        options.metrics = self.metrics;
        options.tensorboard = self.tensorboard;
        options.prometheus = self.prometheus;
        options.log_records = self.log_records;
    }
}
