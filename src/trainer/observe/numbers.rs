//! A run's numbers as [`Entry`]s, for sinks that know neither the machine nor the net.

use std::sync::Arc;
use std::time::Instant;

use caffe_actors::{Display, Fault, Observer, RunReport, Started, Tested};

use super::speed::{Speed, Stopwatch};
use crate::Result;
use crate::log::Log;
use crate::solver::{LrPolicy, Value};
use crate::trainer::job::Job;

/// Something that happened.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    /// What, in a word: start, display, test, snapshot, stopped, end, warning, fault.
    pub(super) event: &'static str,
    /// Iterations done.
    pub(super) iter: u64,
    /// Seconds since the run began.
    pub(super) seconds: f64,
    /// Numbers of this event: loss, lr, …
    pub(super) values: Vec<(&'static str, f64)>,
    /// Of a test: which net.
    pub(super) net: Option<usize>,
    /// Outputs of the net, by name.
    pub(super) outputs: Vec<(String, f64)>,
    /// Of a display.
    pub(super) speed: Option<Speed>,
    /// Rank 0's updates so far by staleness.
    pub(super) staleness: Vec<u64>,
    /// In words.
    pub(super) text: Option<String>,
}

/// Takes a run's entries. Called between iterations: it must be quick and never wait.
pub(super) trait Sink: Send {
    /// What it is, for a warning.
    fn name(&self) -> String;

    /// An entry.
    ///
    /// # Errors
    /// What the file system says; the sink gets no more entries.
    fn take(&mut self, entry: &Entry) -> std::io::Result<()>;

    /// Iterations done; called for each.
    fn progress(&mut self, _iter: u64) {}
}

/// Makes entries of what the machine tells.
pub(super) struct Numbers {
    job: Arc<Job>,
    sinks: Vec<Box<dyn Sink>>,
    log: Log,
    begun: Instant,
    watch: Stopwatch,
    policy: Option<LrPolicy>,
    batch: usize,
    iter: u64,
}

impl Numbers {
    pub(super) fn new(job: &Arc<Job>, sinks: Vec<Box<dyn Sink>>, log: &Log) -> Self {
        Numbers {
            job: job.clone(),
            sinks,
            log: log.clone(),
            begun: Instant::now(),
            watch: Stopwatch::start(),
            policy: None,
            batch: 0,
            iter: 0,
        }
    }

    fn put(&mut self, entry: Entry) {
        let entry = Entry { seconds: self.begun.elapsed().as_secs_f64(), ..entry };
        let log = &self.log;
        self.sinks.retain_mut(|sink| match sink.take(&entry) {
            Ok(()) => true,
            Err(error) => {
                let text =
                    format!("cannot write {}: {error}; it gets no more numbers", sink.name());
                log.warning(concat!("numbers.rs:", line!()), text);
                false
            }
        });
    }
}

/// Outputs by name; of a blob with several values the later ones have their place behind it.
fn named(names: &[Value], values: &[f32]) -> Vec<(String, f64)> {
    let mut all: Vec<(String, f64)> = Vec::new();
    for (place, (name, value)) in names.iter().zip(values).enumerate() {
        let before = names[..place].iter().filter(|other| other.name == name.name).count();
        let name = match before {
            0 => name.name.clone(),
            nth => format!("{}[{nth}]", name.name),
        };
        all.push((name, f64::from(*value)));
    }
    all
}

impl Observer for Numbers {
    fn started(&mut self, started: &Started) {
        let replicas: usize = started.workers.iter().sum();
        let settle = || -> Result<(LrPolicy, u64)> {
            let policy = LrPolicy::new(&self.job.solver_of(replicas)?)?;
            Ok((policy.ramped(self.job.ramp(replicas)), self.job.data(replicas)?.0.batch_size()))
        };
        if let Ok((policy, batch)) = settle() {
            self.policy = Some(policy);
            self.batch = batch as usize;
        }
        (self.begun, self.watch, self.iter) = (Instant::now(), Stopwatch::start(), started.iter);
        let values = vec![
            ("ranks", started.hosts.len() as f64),
            ("replicas", replicas as f64),
            ("batch", self.batch as f64),
        ];
        let text = Some(format!("{}, {}", self.job.net_name(), self.job.mode));
        self.put(Entry { event: "start", iter: started.iter, values, text, ..Entry::default() });
    }

    fn progress(&mut self, iter: u64) {
        self.iter = iter;
        for sink in &mut self.sinks {
            sink.progress(iter);
        }
    }

    fn display(&mut self, display: &Display) {
        let mut values = vec![("loss", f64::from(display.loss))];
        let mut entry = Entry { event: "display", iter: display.iter, ..Entry::default() };
        if !display.closing {
            let seconds = self.watch.lap().as_secs_f64();
            entry.speed = Speed::of(&display.paces, self.batch, seconds);
            let rate = self.policy.as_ref().map(|policy| policy.rate(display.iter));
            values.extend(rate.map(|rate| ("lr", f64::from(rate))));
            entry.outputs = named(&self.job.names().train, &display.outputs);
            entry.staleness.clone_from(&display.staleness);
        }
        self.put(Entry { values, ..entry });
    }

    fn testing(&mut self, _: u64, _: usize) {
        self.watch.pause();
    }

    fn tested(&mut self, tested: &Tested) {
        self.watch.resume();
        let names = self.job.names();
        let outputs =
            names.tests.get(tested.net).map_or(Vec::new(), |names| named(names, &tested.scores));
        let (iter, net) = (tested.iter, Some(tested.net));
        self.put(Entry { event: "test", iter, net, outputs, ..Entry::default() });
    }

    fn snapshotted(&mut self, iter: u64) {
        self.put(Entry { event: "snapshot", iter, ..Entry::default() });
    }

    fn stopped_early(&mut self, iter: u64) {
        self.put(Entry { event: "stopped", iter, ..Entry::default() });
    }

    fn finished(&mut self, report: &RunReport) {
        if report.rank != 0 {
            return;
        }
        let values = vec![("wall", report.wall.as_secs_f64()), ("rounds", report.rounds as f64)];
        let staleness = report.staleness.clone();
        let text = Some(format!("weights {:016x}", report.checksum));
        let iter = report.iter;
        self.put(Entry { event: "end", iter, values, staleness, text, ..Entry::default() });
    }

    fn warning(&mut self, text: &str) {
        let text = Some(text.to_owned());
        self.put(Entry { event: "warning", iter: self.iter, text, ..Entry::default() });
    }

    fn fault(&mut self, fault: &Fault) {
        let text = Some(fault.to_string());
        self.put(Entry { event: "fault", iter: self.iter, text, ..Entry::default() });
    }
}
