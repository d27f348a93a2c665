//! An observer that writes down what it is told.

use std::sync::{Arc, Mutex};

use caffe_actors::{Display, Fault, Observer, RunReport, Started, Tested};

/// Everything an observer was told, as lines.
#[derive(Clone, Debug, Default)]
pub struct Told(pub Arc<Mutex<Vec<String>>>);

impl Told {
    fn line(&self, line: String) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).push(line);
    }

    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}

impl Observer for Told {
    fn started(&mut self, started: &Started) {
        self.line(format!("started {} of {:?}", started.rank, started.workers));
    }

    fn display(&mut self, display: &Display) {
        let Display { iter, loss, outputs, closing, .. } = display;
        self.line(format!("display {iter} {loss:.4} {} {closing}", outputs.len()));
    }

    fn testing(&mut self, iter: u64, net: usize) {
        self.line(format!("testing {iter} {net}"));
    }

    fn tested(&mut self, tested: &Tested) {
        self.line(format!("tested {} {} {:?}", tested.iter, tested.net, tested.scores));
    }

    fn snapshotted(&mut self, iter: u64) {
        self.line(format!("snapshot {iter}"));
    }

    fn stopped_early(&mut self, iter: u64) {
        self.line(format!("stopped {iter}"));
    }

    fn finished(&mut self, report: &RunReport) {
        self.line(format!("finished {} {:016x}", report.iter, report.checksum));
    }

    fn warning(&mut self, text: &str) {
        self.line(format!("warning {text}"));
    }

    fn fault(&mut self, fault: &Fault) {
        self.line(format!("fault {fault}"));
    }
}
