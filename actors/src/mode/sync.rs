//! `sync`: every iteration, the mean gradient of all replicas.
//!
//! One round per iteration. A bucket is summed and exchanged as soon as all local devices have
//! given it, in plan order, while backward still runs; the header follows the last device's
//! backward. When all buckets and the header are there, the iteration is complete: header `i`
//! decides whether iteration `i + 1` starts. When exchanges are rounded the segment's last is exact,
//! so a wish that comes with header `i` takes effect after iteration `i + 1`.

use super::{Action, Event, Job, Machine, Moment, Then, contradiction};
use crate::header::{Header, LossPart, Sample};

/// The state of one iteration on one node.
#[derive(Debug)]
pub(super) struct Sync {
    job: Job,
    iter: u64,
    to: u64,
    /// Per bucket, how many local devices have given it.
    given: Vec<usize>,
    /// The first bucket not yet handed to the exchange.
    next: usize,
    computed: usize,
    samples: Vec<Option<Sample>>,
    /// Buckets whose mean the devices have.
    delivered: usize,
    /// The header is known.
    decided: bool,
    stop: bool,
    snapshot: bool,
    /// Devices still to park; 0 while the segment runs.
    parking: usize,
}

impl Sync {
    pub(super) fn new(job: Job) -> Self {
        Sync {
            iter: 0,
            to: 0,
            given: vec![0; job.buckets],
            next: 0,
            computed: 0,
            samples: vec![None; job.local()],
            delivered: 0,
            decided: false,
            stop: false,
            snapshot: false,
            parking: 0,
            job,
        }
    }

    /// Whether the iteration leaves nothing behind: the segment's last one.
    fn exact(&self) -> bool {
        !self.job.rounded || self.iter + 1 == self.to
    }

    fn gradient(&mut self, bucket: usize, actions: &mut Vec<Action>) {
        self.given[bucket] += 1;
        while self.given.get(self.next) == Some(&self.job.local()) {
            actions.push(Action::Sum { bucket: self.next, exact: self.exact() });
            self.next += 1;
        }
    }

    /// The header follows the last local device's backward. Samples are added in device order,
    /// so that the displayed loss does not depend on who was first.
    fn header(&mut self, moment: &Moment, actions: &mut Vec<Action>) {
        let mut part = LossPart { iter: self.iter, ..LossPart::default() };
        for sample in self.samples.iter_mut().filter_map(Option::take) {
            part.add(&sample);
        }
        actions.push(Action::Header(Header {
            round: self.iter,
            finished: self.job.local() as u64,
            oldest: (self.iter + 1) * self.job.replicas(),
            stop: moment.stop,
            snapshot: moment.snapshot,
            losses: [part].into_iter().collect(),
            ..Header::default()
        }));
    }

    fn headers(&mut self, headers: &[Header], actions: &mut Vec<Action>) {
        if let Some(broken) = contradiction(headers, self.iter) {
            actions.push(broken);
            return;
        }
        let mut total = LossPart { iter: self.iter, ..LossPart::default() };
        for header in headers {
            self.stop |= header.stop;
            self.snapshot |= header.snapshot;
            header.losses.iter().for_each(|part| total.merge(part));
        }
        if total.count > 0 {
            actions.push(Action::Loss(total));
        }
        self.decided = true;
    }

    /// Ends the iteration when everything is there.
    fn complete(&mut self, actions: &mut Vec<Action>) {
        if !self.decided || self.delivered < self.job.buckets {
            return;
        }
        self.iter += 1;
        if self.stop || self.snapshot {
            // What rounding left behind takes another iteration.
            self.to = self.to.min(self.iter + u64::from(self.job.rounded));
        }
        let go_on = self.iter < self.to;
        self.given.fill(0);
        (self.next, self.computed, self.delivered, self.decided) = (0, 0, 0, false);
        if !go_on {
            self.parking = self.job.local();
        }
        actions.push(Action::Next(Then::go_on(go_on)));
        actions.push(Action::Progress(self.iter));
    }
}

impl Machine for Sync {
    fn on(&mut self, moment: &Moment, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Begin { from, to } => {
                (self.iter, self.to) = (from, to);
                (self.stop, self.snapshot) = (false, false);
                actions.push(Action::Run { from, to });
            }
            Event::Gradient { bucket } => self.gradient(bucket, actions),
            Event::Computed { local, sample, .. } => {
                self.samples[local] = sample;
                self.computed += 1;
                if self.computed == self.job.local() {
                    self.header(moment, actions);
                }
            }
            Event::Headers(headers) => {
                self.headers(&headers, actions);
                self.complete(actions);
            }
            Event::Summed { bucket } => {
                actions.push(Action::Mean { bucket });
                self.delivered += 1;
                self.complete(actions);
            }
            Event::Parked { .. } => {
                self.parking -= 1;
                if self.parking == 0 {
                    let (iter, stop, snapshot) = (self.iter, self.stop, self.snapshot);
                    actions.push(Action::Drained { iter, stop, snapshot });
                }
            }
            Event::Finished { .. } | Event::Timer => {}
        }
    }
}
