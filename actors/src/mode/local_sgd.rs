//! `local-sgd`: `sync` within the node, and every k iterations the weighted average of all nodes'
//! weights: z += Σ f · (the node's tickets / all tickets), f the node's change since the last one.
//!
//! Between two averages nodes do not speak to each other. With an average goes a header: losses,
//! and whether somebody asked to stop or for a snapshot; it decides, equally everywhere, whether
//! the segment goes on. The last iteration of a segment is followed by an average, so that all
//! nodes park with the same weights; when averages are rounded that one is exact. Losses that do not fit into one header delay the decision by
//! another one.

use std::collections::VecDeque;

use super::{Action, Event, Job, Machine, Moment, Then, contradiction};
use crate::header::{Header, LossPart, REPORTS, Sample};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// An iteration: buckets whose mean the devices have.
    Iteration { delivered: usize },
    /// An average: the same, and whether everything has been said.
    Average { delivered: usize, decided: bool },
}

/// The state of one node.
#[derive(Debug)]
pub(super) struct LocalSgd {
    job: Job,
    every: u64,
    phase: Phase,
    iter: u64,
    to: u64,
    /// Iterations since the last average.
    since: u64,
    round: u64,
    /// Per bucket, how many local devices have given it.
    given: Vec<usize>,
    /// The first bucket not yet summed or exchanged.
    next: usize,
    computed: usize,
    samples: Vec<Option<Sample>>,
    losses: VecDeque<LossPart>,
    stop: bool,
    snapshot: bool,
    parking: usize,
}

impl LocalSgd {
    pub(super) fn new(job: Job, every: u64) -> Self {
        LocalSgd {
            every: every.max(1),
            phase: Phase::Iteration { delivered: 0 },
            iter: 0,
            to: 0,
            since: 0,
            round: 0,
            given: vec![0; job.buckets],
            next: 0,
            computed: 0,
            samples: vec![None; job.local()],
            losses: VecDeque::new(),
            stop: false,
            snapshot: false,
            parking: 0,
            job,
        }
    }

    /// A device has given a bucket: all of them give gradients, the first one gives the change
    /// of the weights.
    fn gradient(&mut self, bucket: usize, actions: &mut Vec<Action>) {
        self.given[bucket] += 1;
        let average = matches!(self.phase, Phase::Average { .. });
        let wanted = if average { 1 } else { self.job.local() };
        // The segment's last average leaves nothing behind.
        let exact = !self.job.rounded || self.iter == self.to;
        while self.given.get(self.next) == Some(&wanted) {
            let bucket = self.next;
            actions.push(match average {
                true => Action::Merge { bucket, exact },
                false => Action::SumHere { bucket },
            });
            self.next += 1;
        }
    }

    fn computed(&mut self) {
        self.computed += 1;
        if self.computed < self.job.local() {
            return;
        }
        let mut part = LossPart { iter: self.iter, ..LossPart::default() };
        for sample in self.samples.iter_mut().filter_map(Option::take) {
            part.add(&sample);
        }
        if part.count > 0 {
            self.losses.push_back(part);
        }
    }

    fn summed(&mut self, moment: &Moment, actions: &mut Vec<Action>) {
        let (Phase::Iteration { delivered } | Phase::Average { delivered, .. }) = &mut self.phase;
        *delivered += 1;
        self.complete(moment, actions);
    }

    /// Ends the iteration or the average when everything is there.
    fn complete(&mut self, moment: &Moment, actions: &mut Vec<Action>) {
        match self.phase {
            Phase::Iteration { delivered }
                if delivered == self.job.buckets && self.computed == self.job.local() =>
            {
                self.iter += 1;
                self.since += 1;
                self.computed = 0;
                let average = self.since >= self.every || self.iter == self.to;
                self.begin_phase(average);
                actions.push(Action::Next(if average { Then::Merge } else { Then::GoOn }));
                if average {
                    self.header(moment, actions);
                }
            }
            Phase::Average { delivered, decided: true } if delivered == self.job.buckets => {
                if self.stop || self.snapshot {
                    // What rounding left behind takes another iteration and average.
                    self.to = self.to.min(self.iter + u64::from(self.job.rounded));
                }
                let go_on = self.iter < self.to;
                self.since = 0;
                self.begin_phase(false);
                if !go_on {
                    self.parking = self.job.local();
                }
                actions.push(Action::Next(Then::go_on(go_on)));
                actions.push(Action::Progress(self.iter));
            }
            _ => {}
        }
    }

    fn begin_phase(&mut self, average: bool) {
        self.given.fill(0);
        self.next = 0;
        self.phase = if average {
            Phase::Average { delivered: 0, decided: false }
        } else {
            Phase::Iteration { delivered: 0 }
        };
    }

    fn header(&mut self, moment: &Moment, actions: &mut Vec<Action>) {
        let reported = self.losses.len().min(REPORTS);
        actions.push(Action::Header(Header {
            round: self.round,
            finished: self.since * self.job.local() as u64,
            // Losses that wait for another header.
            outstanding: (self.losses.len() - reported) as u64,
            oldest: self.iter * self.job.replicas(),
            stop: moment.stop,
            snapshot: moment.snapshot,
            losses: self.losses.drain(..reported).collect(),
            ..Header::default()
        }));
    }

    fn headers(&mut self, moment: &Moment, headers: &[Header], actions: &mut Vec<Action>) {
        if let Some(broken) = contradiction(headers, self.round) {
            actions.push(broken);
            return;
        }
        self.round += 1;
        for header in headers {
            self.stop |= header.stop;
            self.snapshot |= header.snapshot;
            actions.extend(header.losses.iter().cloned().map(Action::Loss));
        }
        if headers.iter().any(|header| header.outstanding > 0) {
            self.header(moment, actions);
            return;
        }
        if let Phase::Average { decided, .. } = &mut self.phase {
            *decided = true;
        }
        self.complete(moment, actions);
    }
}

impl Machine for LocalSgd {
    fn on(&mut self, moment: &Moment, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Begin { from, to } => {
                (self.iter, self.to, self.since) = (from, to, 0);
                (self.stop, self.snapshot) = (false, false);
                actions.push(Action::Run { from, to });
            }
            Event::Gradient { bucket } => self.gradient(bucket, actions),
            Event::Computed { local, sample, .. } => {
                self.samples[local] = sample;
                self.computed();
                self.complete(moment, actions);
            }
            Event::Headers(headers) => self.headers(moment, &headers, actions),
            Event::Summed { bucket } => {
                actions.push(Action::Mean { bucket });
                self.summed(moment, actions);
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

    fn round_iters(&self) -> f64 {
        self.every as f64
    }
}
