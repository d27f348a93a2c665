//! Who listens to a run: the log, and whoever asked for its numbers.
//!
//! The machine tells one [`Observer`]; `FanOut` passes it on to the `Report` (Caffe's log
//! lines) and, on rank 0, to `Numbers`, which makes entries of it for the sinks that were asked
//! for: `metrics` (JSON lines), `tensorboard` (event files), [`prometheus`] (an endpoint).
//! A sink that fails is named in a warning and left out; training goes on.

mod metrics;
mod numbers;
pub mod prometheus;
mod speed;
mod tensorboard;

use std::sync::Arc;

use caffe_actors::{Display, Fault, Observer, RunReport, Started, Tested};

use super::Options;
use super::job::Job;
use super::report::Report;
use crate::Result;
use crate::log::Log;
use numbers::{Numbers, Sink};
pub(super) use speed::{Speed, Stopwatch};

/// All listeners of a run.
///
/// # Errors
/// A file or address that was asked for and cannot be had. Only rank 0 opens any.
pub(super) fn observers(job: &Arc<Job>, options: &Options, log: &Log) -> Result<FanOut> {
    let mut all: Vec<Box<dyn Observer>> = vec![Box::new(Report::new(job, options, log))];
    let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
    if caffe_actors::launched().is_none_or(|(rank, _)| rank == 0) {
        if let Some(path) = &options.metrics {
            sinks.push(Box::new(metrics::Metrics::append(path)?));
        }
        if let Some(folder) = &options.tensorboard {
            sinks.push(Box::new(tensorboard::Events::create(folder)?));
        }
        if let Some(address) = &options.prometheus {
            sinks.push(Box::new(prometheus::Endpoint::open(*address, log)?));
        }
    }
    if !sinks.is_empty() {
        all.push(Box::new(Numbers::new(job, sinks, log)));
    }
    Ok(FanOut(all))
}

/// Several observers as one.
pub(super) struct FanOut(Vec<Box<dyn Observer>>);

impl FanOut {
    fn each(&mut self, mut tell: impl FnMut(&mut dyn Observer)) {
        for observer in &mut self.0 {
            tell(observer.as_mut());
        }
    }
}

impl Observer for FanOut {
    fn started(&mut self, started: &Started) {
        self.each(|o| o.started(started));
    }

    fn progress(&mut self, iter: u64) {
        self.each(|o| o.progress(iter));
    }

    fn display(&mut self, display: &Display) {
        self.each(|o| o.display(display));
    }

    fn testing(&mut self, iter: u64, net: usize) {
        self.each(|o| o.testing(iter, net));
    }

    fn tested(&mut self, tested: &Tested) {
        self.each(|o| o.tested(tested));
    }

    fn snapshotted(&mut self, iter: u64) {
        self.each(|o| o.snapshotted(iter));
    }

    fn stopped_early(&mut self, iter: u64) {
        self.each(|o| o.stopped_early(iter));
    }

    fn finished(&mut self, report: &RunReport) {
        self.each(|o| o.finished(report));
    }

    fn warning(&mut self, text: &str) {
        self.each(|o| o.warning(text));
    }

    fn fault(&mut self, fault: &Fault) {
        self.each(|o| o.fault(fault));
    }
}
