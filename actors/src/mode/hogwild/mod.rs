//! `hogwild`: replicas draw tickets and push their own updates; rounds between nodes run in the
//! background and nobody waits for a replica.
//!
//! Per node and bucket: z agreed weights, f in flight, a own updates since the last swap;
//! replicas read w = z + f + a and push a += ρu. They compute at w − c·u, where their next update
//! will meet the weights (`pace.rs` says how c follows from what they cannot see). A round is a header, then (if any node has news)
//! f ← a, a ← 0, Σf of every bucket, z += Σf, f ← 0. The machine decides *when*; the
//! communicator's store does the arithmetic.
//!
//! Everything the nodes must agree on (grants, the limit, T and ρ, the end) is computed by each
//! of them from the same headers.

mod grants;
mod pace;

use std::collections::VecDeque;
use std::time::Duration;

use self::pace::Pace;
use super::{Action, Event, Job, Machine, Moment, contradiction};
use crate::header::{Header, LossPart, REPORTS, Sample};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// Between segments.
    Idle,
    /// Until the next round.
    Resting { until: Duration },
    /// The header is under way.
    Header,
    /// Buckets are under way.
    Data { left: usize, last: bool },
    /// Local devices are leaving.
    Parking { left: usize },
}

/// The state of one node.
#[derive(Debug)]
pub(super) struct Hogwild {
    job: Job,
    phase: Phase,
    round: u64,
    /// The first ticket granted to nobody. Equal on all nodes after the same round.
    next: u64,
    /// No ticket from here on is granted in this segment. Equal on all nodes.
    limit: u64,
    /// Tickets granted to this node and not finished, in order: they finish nearly so.
    running: VecDeque<u64>,
    /// Tickets finished since the last header.
    finished: u64,
    /// An update has been pushed since the last header.
    dirty: bool,
    /// Rounding may have left parts of updates behind. Equal on all nodes.
    owing: bool,
    stop: bool,
    snapshot: bool,
    losses: VecDeque<LossPart>,
    visible_after: [u64; 2],
    pace: Pace,
}

impl Hogwild {
    pub(super) fn new(job: Job) -> Self {
        Hogwild {
            pace: Pace::new(job.replicas()),
            job,
            phase: Phase::Idle,
            round: 0,
            next: 0,
            limit: 0,
            running: VecDeque::new(),
            finished: 0,
            dirty: false,
            owing: false,
            stop: false,
            snapshot: false,
            losses: VecDeque::new(),
            visible_after: [0; 2],
        }
    }

    /// The round that is resting or under way.
    pub(super) fn round(&self) -> u64 {
        self.round
    }

    /// The lowest ticket not finished on this node.
    pub(super) fn oldest(&self) -> u64 {
        self.running.front().copied().unwrap_or(self.next)
    }

    fn begin(&mut self, moment: &Moment, from: u64, to: u64, actions: &mut Vec<Action>) {
        let replicas = self.job.replicas();
        (self.next, self.limit) = (from * replicas, to * replicas);
        (self.stop, self.snapshot) = (false, false);
        actions.push(Action::Run { from, to });
        if self.round == 0 {
            actions.push(self.weight());
        }
        self.pace.begin(moment.now);
        self.header(moment, actions);
    }

    fn weight(&self) -> Action {
        let (rho, ahead) = (self.pace.rho(), self.pace.ahead(self.job.local()));
        Action::Weight { rho, ahead }
    }

    /// Starts a round. What is said here is captured before the round's first swap.
    fn header(&mut self, moment: &Moment, actions: &mut Vec<Action>) {
        let outstanding = self.running.len() as u64;
        let reported = self.losses.len().min(REPORTS);
        let header = Header {
            round: self.round,
            finished: self.finished,
            outstanding,
            oldest: self.oldest(),
            want: self.pace.pool(self.job.local()).saturating_sub(outstanding),
            parked: self.parked(),
            dirty: self.dirty && self.job.nodes() > 1,
            stop: moment.stop,
            snapshot: moment.snapshot,
            losses: self.losses.drain(..reported).collect(),
            ..Header::default()
        };
        self.pace.own(self.finished);
        (self.finished, self.dirty) = (0, false);
        self.phase = Phase::Header;
        actions.push(Action::Header(header));
    }

    /// No ticket runs here and none can start; all losses have been told.
    fn parked(&self) -> bool {
        self.running.is_empty() && self.next == self.limit && self.losses.len() <= REPORTS
    }

    fn headers(&mut self, moment: &Moment, headers: &[Header], actions: &mut Vec<Action>) {
        if let Some(broken) = contradiction(headers, self.round) {
            actions.push(broken);
            return;
        }
        let last = headers.iter().all(|header| header.parked);
        let exact = !self.job.rounded || last;
        let news = headers.iter().any(|header| header.dirty) || (last && self.owing);
        for header in headers {
            self.stop |= header.stop;
            self.snapshot |= header.snapshot;
            actions.extend(header.losses.iter().cloned().map(Action::Loss));
        }
        if self.stop || self.snapshot {
            // The iteration that has begun is finished: snapshots are of whole iterations.
            let replicas = self.job.replicas();
            self.limit = self.limit.min(self.next.div_ceil(replicas) * replicas);
        }
        self.grant(headers, actions);
        if let Some(oldest) = headers.iter().map(|header| header.oldest).min() {
            actions.push(Action::Progress(oldest / self.job.replicas()));
        }
        let finished = headers.iter().map(|header| header.finished).sum();
        if self.pace.round(moment.now, finished, news) {
            actions.push(self.weight());
        }
        if news && self.job.buckets > 0 {
            self.phase = Phase::Data { left: self.job.buckets, last };
            self.owing = !exact;
            actions.extend((0..self.job.buckets).map(|bucket| Action::Swap { bucket, exact }));
        } else {
            self.end_round(moment, last, actions);
        }
    }

    fn grant(&mut self, headers: &[Header], actions: &mut Vec<Action>) {
        let grants = grants::share(self.round, self.limit - self.next, headers, &self.job.workers);
        for (rank, count) in grants {
            if rank == self.job.rank && count > 0 {
                self.running.extend(self.next..self.next + count);
                actions.push(Action::Grant { first: self.next, count });
            }
            self.next += count;
        }
    }

    fn end_round(&mut self, moment: &Moment, last: bool, actions: &mut Vec<Action>) {
        self.round += 1;
        if last {
            self.phase = Phase::Parking { left: self.job.local() };
            actions.push(Action::Park);
        } else {
            let until = moment.now + self.pace.rest(self.next == self.limit);
            self.phase = Phase::Resting { until };
            actions.push(Action::WakeAt(until));
        }
    }

    fn finished(&mut self, ticket: u64, sample: Option<Sample>) {
        if let Ok(place) = self.running.binary_search(&ticket) {
            self.running.remove(place);
        }
        self.finished += 1;
        self.dirty = true;
        // What is pushed while a round is under way may have missed its swaps.
        let missed = matches!(self.phase, Phase::Header | Phase::Data { .. });
        self.visible_after[usize::from(missed)] += u64::from(self.job.nodes() > 1);
        if let Some(sample) = sample {
            let iter = ticket / self.job.replicas();
            match self.losses.iter_mut().find(|part| part.iter == iter) {
                Some(part) => part.add(&sample),
                None => {
                    let mut part = LossPart { iter, ..LossPart::default() };
                    part.add(&sample);
                    self.losses.push_back(part);
                }
            }
        }
    }

    fn summed(&mut self, moment: &Moment, bucket: usize, actions: &mut Vec<Action>) {
        actions.push(Action::Apply { bucket });
        if let Phase::Data { left, last } = self.phase {
            if left > 1 {
                self.phase = Phase::Data { left: left - 1, last };
            } else {
                self.end_round(moment, last, actions);
            }
        }
    }

    fn device_parked(&mut self, actions: &mut Vec<Action>) {
        if let Phase::Parking { left } = self.phase {
            if left > 1 {
                self.phase = Phase::Parking { left: left - 1 };
                return;
            }
            self.phase = Phase::Idle;
            actions.push(Action::Drained {
                iter: self.limit / self.job.replicas(),
                stop: self.stop,
                snapshot: self.snapshot,
            });
        }
    }
}

impl Machine for Hogwild {
    fn on(&mut self, moment: &Moment, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Begin { from, to } => self.begin(moment, from, to, actions),
            Event::Finished { ticket, sample } => self.finished(ticket, sample),
            Event::Headers(headers) => self.headers(moment, &headers, actions),
            Event::Summed { bucket } => self.summed(moment, bucket, actions),
            Event::Parked { .. } => self.device_parked(actions),
            Event::Timer => match self.phase {
                Phase::Resting { until } if moment.now >= until => self.header(moment, actions),
                Phase::Resting { until } => actions.push(Action::WakeAt(until)),
                _ => {}
            },
            Event::Gradient { .. } | Event::Computed { .. } => {}
        }
    }

    fn visible_after(&self) -> [u64; 2] {
        self.visible_after
    }

    fn round_iters(&self) -> f64 {
        self.pace.round_iters()
    }
}
