//! Carries out a machine's actions: local aggregation, exchanges, cues, grants.
//!
//! Buffers go round: in sync a device's gradient buffer travels to the communicator and returns
//! with the mean; with one device on the node that very buffer is exchanged, without a copy.
//! Nothing is allocated per round but the few words of a header.

use std::hash::Hasher;
use std::sync::Arc;

use super::Communicator;
use super::duties::Duty;
use crate::config::Mode;
use crate::digest::Digest;
use crate::fault::Halt;
use crate::header::Header;
use crate::messages::{Cue, Feed, Order};
use crate::mode::{Action, Event, Then};
use crate::trace::Kind;
use crate::transport::{Done, Lane, Op};
use crate::wire::Wire;

/// One bucket's hash is compared between all nodes every so many rounds.
const CHECK_EVERY: u64 = 64;

impl Communicator {
    pub(super) fn act(&mut self, action: Action) -> Result<(), Halt> {
        match action {
            Action::Run { from, to } => self.run_segment(from, to),
            Action::Header(header) => return self.header(header),
            Action::Sum { bucket, exact } => return self.sum(bucket, exact),
            Action::SumHere { bucket } => return self.sum_here(bucket),
            Action::Merge { bucket, exact } => return self.merge(bucket, exact),
            Action::Mean { bucket } => self.mean(bucket),
            Action::Next(then) => self.next(then),
            Action::Grant { first, count } => self.grant(first, count),
            Action::Swap { bucket, exact } => return self.swap(bucket, exact),
            Action::Apply { bucket } => self.apply(bucket),
            Action::Weight { rho, ahead } => {
                if let Some(store) = self.parts.board.store.get() {
                    store.set_weight(rho, ahead * self.parts.look_ahead);
                }
            }
            Action::Open { below } => self.open(below),
            Action::Park => self.cue(|| Cue::Park),
            Action::WakeAt(at) => self.wake_at = Some(at),
            Action::Loss(part) => {
                if self.root() {
                    for display in self.ledger.add(&part) {
                        self.show(display);
                    }
                }
            }
            Action::Progress(iter) => {
                self.parts.post.tracer.set_iter(iter);
                self.tell(|observer| observer.progress(iter));
            }
            Action::Drained { iter, stop, snapshot } => self.drained = Some((iter, stop, snapshot)),
            Action::Broken { rank, cause } => return Err(self.agreed(rank, cause)),
        }
        Ok(())
    }

    fn cue(&self, cue: impl Fn() -> Cue) {
        for device in &self.parts.devices {
            // As deep as a device can have cues; closed only when it has ended by a fault.
            drop(device.cues.try_send(cue()));
        }
    }

    fn run_segment(&mut self, from: u64, to: u64) {
        if !self.draws() {
            // A segment that ended early has left its later tickets in the readers' queues.
            let first = self.fed.max(from);
            let stride = self.replicas() as u64;
            let base = self.parts.meeting.first_replica(self.parts.meeting.rank) as u64;
            for (local, device) in self.parts.devices.iter().enumerate() {
                let (reader, queue) = device.train;
                let first_step = first * stride + base + local as u64;
                let count = to.saturating_sub(first);
                let feed = Feed::Train { queue, first: first_step, stride, count };
                self.parts.readers[reader].send(feed);
            }
            self.fed = self.fed.max(to);
        }
        for device in 0..self.local() {
            self.order(device, Order::Run { from, to });
        }
    }

    /// Tickets from a grant go to the readers in turn; all their loads end in one queue.
    fn grant(&self, first: u64, count: u64) {
        self.parts.gate.grant(count);
        self.wake_devices();
        let readers = self.parts.readers.len() as u64;
        for (reader, port) in self.parts.readers.iter().enumerate() {
            let offset = (reader as u64 + readers - first % readers) % readers;
            if offset < count {
                let count = (count - offset).div_ceil(readers);
                let first = first + offset;
                port.send(Feed::Train { queue: 0, first, stride: readers, count });
            }
        }
    }

    fn header(&mut self, mut header: Header) -> Result<(), Halt> {
        if header.snapshot {
            self.parts.requests.take_snapshot();
        }
        if self.nodes() == 1 {
            Arc::make_mut(&mut self.headers)[0] = header;
            self.events.push_back(Event::Headers(self.headers.clone()));
            return Ok(());
        }
        self.round = header.round;
        header.hash = self.hash(header.round);
        let outputs = self.plan()?.train_outputs;
        let mut words = std::mem::take(&mut self.words);
        header.encode(outputs, self.most_devices(), self.paces.own(), &mut words);
        self.post(Op::Header { words })
    }

    /// The hash that goes with round `round`: of one agreed bucket in one round of many, else 0.
    /// In hogwild of the weights, which no exchange changes while a header is posted; in sync of
    /// the last complete iteration's mean, hashed when it was complete.
    fn hash(&mut self, round: u64) -> u64 {
        let checked = std::mem::take(&mut self.mean_hash);
        match (self.parts.board.store.get(), bucket_to_check(round, self.means.len())) {
            (Some(store), Some(bucket)) => store.hash(bucket),
            _ => checked,
        }
    }

    /// All means of an iteration are here: hashes one if the next header is to compare it.
    fn hash_mean(&mut self) {
        let next = bucket_to_check(self.round + 1, self.means.len());
        if let Some(bucket) = next.filter(|_| self.nodes() > 1) {
            let mut digest = Digest::default();
            digest.floats(&self.means[bucket]);
            self.mean_hash = digest.finish() | 1;
        }
    }

    /// Headers have come: the machine's, or those of a duty that compares.
    pub(super) fn headers(&mut self, words: Vec<u64>) -> Result<(), Halt> {
        if !matches!(self.duty, Some(Duty::Train { .. })) {
            return self.compared(&words);
        }
        let (outputs, devices) = (self.plan()?.train_outputs, self.most_devices());
        // The machine keeps no event, so the last round's headers are ours alone again.
        let headers = Arc::make_mut(&mut self.headers);
        let parts = words.chunks(Header::words(outputs, devices));
        let whole = parts.len() == headers.len()
            && headers
                .iter_mut()
                .zip(parts)
                .all(|(header, words)| header.decode(words, outputs, devices));
        self.words = words;
        if !whole {
            return Err("received a header of the wrong length".to_owned().into());
        }
        self.paces.heard(headers);
        let own = self.parts.meeting.rank;
        let others = headers.iter().enumerate().filter(|(rank, _)| *rank != own);
        self.coming = others.map(|(_, header)| header.finished).sum();
        self.feed(Event::Headers(self.headers.clone()))
    }

    /// The devices have all they need for an iteration or an average.
    fn next(&mut self, then: Then) {
        // In `local-sgd` only an average is equal on all nodes.
        let local = matches!(self.parts.mode, Mode::LocalSgd { .. });
        let agreed = !local || self.merging;
        self.merging = then == Then::Merge;
        if agreed {
            self.rounds += u64::from(self.nodes() > 1);
            self.hash_mean();
        }
        self.cue(|| Cue::Next(then));
    }

    /// More tickets may start; `below` is a step ticket.
    fn open(&self, below: u64) {
        self.parts.gate.open(below.saturating_mul(self.parts.schedule.iter_size as u64));
        self.wake_devices();
    }

    /// A device that waits for a ticket looks again.
    fn wake_devices(&self) {
        for device in &self.parts.devices {
            // Full means that the device has yet to look.
            device.opened.try_send(()).ok();
        }
    }

    /// Sums the local gradients of a bucket, in device order, and starts their exchange.
    fn sum(&mut self, bucket: usize, exact: bool) -> Result<(), Halt> {
        if self.nodes() > 1 {
            let sum = self.aggregate(bucket, 1.0)?;
            return self.exchange(bucket, sum, exact);
        }
        let mean = self.aggregate(bucket, 1.0 / self.replicas() as f32)?;
        self.summed(bucket, mean);
        self.events.push_back(Event::Summed { bucket });
        Ok(())
    }

    /// Sums the local gradients of a bucket; they go no further.
    fn sum_here(&mut self, bucket: usize) -> Result<(), Halt> {
        let mean = self.aggregate(bucket, 1.0 / self.local() as f32)?;
        self.summed(bucket, mean);
        self.events.push_back(Event::Summed { bucket });
        Ok(())
    }

    /// Starts the exchange of what the first device has given.
    fn merge(&mut self, bucket: usize, exact: bool) -> Result<(), Halt> {
        let wire = std::mem::take(&mut self.wires[bucket]);
        let Some(part) = &mut self.given[bucket][0] else {
            return Err(format!("bucket {bucket} is complete but not there").into());
        };
        let data = std::mem::replace(&mut part.data, wire);
        self.exchange(bucket, data, exact)
    }

    /// Sums the exchange buffers, all zeros, of every bucket.
    pub(super) fn warm_up(&mut self) -> Result<(), Halt> {
        self.awaiting = self.wires.len();
        for bucket in 0..self.wires.len() {
            let zeros = std::mem::take(&mut self.wires[bucket]);
            self.exchange(bucket, zeros, !self.rounded())?;
        }
        Ok(())
    }

    /// Starts the sum of a bucket over all nodes. An exact one takes with it what earlier ones
    /// have left behind.
    fn exchange(&mut self, bucket: usize, mut data: Vec<f32>, exact: bool) -> Result<(), Halt> {
        let (lane, id) = (Lane::Data, bucket);
        if self.rests[bucket].is_empty() || !exact {
            let rest = std::mem::take(&mut self.rests[bucket]);
            let wire = if exact { Wire::F32 } else { self.parts.wire };
            return self.post(Op::Sum { lane, id, data, wire, rest });
        }
        for (value, rest) in data.iter_mut().zip(&mut self.rests[bucket]) {
            *value += std::mem::take(rest);
        }
        self.post(Op::Sum { lane, id, data, wire: Wire::F32, rest: Vec::new() })
    }

    /// `scale` × the sum of the local gradients of a bucket, in device order; of devices that have added
    /// theirs up by themselves the one that has the sum.
    fn aggregate(&mut self, bucket: usize, scale: f32) -> Result<Vec<f32>, Halt> {
        let _span = self.parts.post.tracer.span(Kind::Aggregate);
        let mut wire = std::mem::take(&mut self.wires[bucket]);
        if self.given[bucket].iter().any(Option::is_none) {
            return Err(format!("bucket {bucket} is complete but not there").into());
        }
        let mut there = self.given[bucket].iter_mut().flatten().filter(|part| !part.elsewhere);
        match (there.next(), there.next()) {
            (None, _) => {
                return Err(
                    format!("of bucket {bucket} every device says that another has it").into()
                );
            }
            (Some(only), None) => {
                // The device's buffer is exchanged; the device gets the old one back.
                std::mem::swap(&mut only.data, &mut wire);
                self.parts.hands.scale(&mut wire, scale);
            }
            _ => self.parts.hands.add_all(&self.given[bucket], scale, &mut wire),
        }
        Ok(wire)
    }

    /// The mean of a bucket is here.
    fn summed(&mut self, bucket: usize, mean: Vec<f32>) {
        if Arc::get_mut(&mut self.means[bucket]).is_none() {
            // A device has yet to read the last one, as may be after an average.
            std::mem::swap(&mut self.means[bucket], &mut self.other_means[bucket]);
        }
        let floats = mean.len();
        let place = &mut self.means[bucket];
        let wire = match Arc::get_mut(place) {
            Some(free) => std::mem::replace(free, mean),
            None => {
                *place = Arc::new(mean);
                Vec::new()
            }
        };
        self.wires[bucket] = wire;
        self.wires[bucket].resize(floats, 0.0);
    }

    fn mean(&mut self, bucket: usize) {
        for (device, given) in self.parts.devices.iter().zip(&mut self.given[bucket]) {
            let spare = given.take().map(|part| part.data).unwrap_or_default();
            let mean = self.means[bucket].clone();
            drop(device.cues.try_send(Cue::Mean { bucket, mean, spare }));
        }
    }

    fn swap(&mut self, bucket: usize, exact: bool) -> Result<(), Halt> {
        let mut data = std::mem::take(&mut self.wires[bucket]);
        let Some(store) = self.parts.board.store.get() else {
            return Err("has no weights to exchange".to_owned().into());
        };
        self.rounds += u64::from(bucket == 0);
        let span = self.parts.post.tracer.span(Kind::Aggregate);
        store.swap(bucket, &mut data, &self.parts.hands);
        drop(span);
        self.exchange(bucket, data, exact)
    }

    fn apply(&mut self, bucket: usize) {
        let _span = self.parts.post.tracer.span(Kind::Apply);
        if let Some(store) = self.parts.board.store.get() {
            store.apply(bucket, &self.wires[bucket], &mut self.rests[bucket], &self.parts.hands);
            if bucket + 1 == self.wires.len() {
                store.merge(self.coming);
            }
        }
    }

    /// An exchange has ended.
    pub(super) fn finished(&mut self, done: Done) -> Result<(), Halt> {
        match done {
            Done::Sum { lane: Lane::Data, id, data, rest } if id < self.means.len() => {
                if !rest.is_empty() {
                    self.rests[id] = rest;
                }
                if self.duty == Some(Duty::WarmUp) {
                    self.wires[id] = data;
                    return self.arrived();
                }
                if self.draws() {
                    self.wires[id] = data;
                } else {
                    // Parts of an average are weighted already.
                    let mut mean = data;
                    if !self.merging {
                        self.parts.hands.scale(&mut mean, 1.0 / self.replicas() as f32);
                    }
                    self.summed(id, mean);
                }
                self.feed(Event::Summed { bucket: id })
            }
            Done::Sum { data, .. } => self.summed_for_duty(data),
            Done::Broadcast { id, data } => self.spread(id, data),
            Done::Collect { from, data } => self.collected(from, data),
            Done::Headers { words } => self.headers(words),
        }
    }
}

/// The bucket whose hash is compared in round `round`, if any.
fn bucket_to_check(round: u64, buckets: usize) -> Option<usize> {
    let due = round > 0 && round.is_multiple_of(CHECK_EVERY) && buckets > 0;
    due.then(|| (round / CHECK_EVERY % buckets as u64) as usize)
}
