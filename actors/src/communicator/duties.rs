//! What a node does besides running segments: a list of duties, carried out one after the other.
//!
//! The list is a pure function of the schedule and of what the machine reported when it drained,
//! so all nodes have the same list and meet in the same collectives. A duty starts, waits for so
//! many replies or completions, and ends.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use super::Communicator;
use crate::board::sum_of;
use crate::digest::Digest;
use crate::fault::Halt;
use crate::messages::{Feed, Note, Order};
use crate::mode::{Event, Job, machine};
use crate::observe::{RunReport, Started};
use crate::store::Store;
use crate::transport::{Lane, Op};

/// One duty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Duty {
    /// Readers open their sources, devices build their replicas.
    Open,
    /// All nodes compare plans.
    Meet,
    /// Rank 0's first replica lays out its opening words.
    Speak,
    /// All nodes learn how long they are.
    Length,
    /// They go to all nodes.
    Pass,
    /// All other replicas hear them.
    Hear,
    /// Rank 0's first replica lays out its weights.
    Publish,
    /// These go to all nodes.
    Spread,
    /// All replicas take them.
    Load,
    /// One exchange of zeros in every bucket: connections and the library's memory are there before
    /// the first iteration needs them.
    WarmUp,
    /// Decide what is due at this iteration.
    Point { stop: bool, snapshot: bool },
    /// The nodes tell each other whether a wish is for a snapshot or to go back to an earlier state.
    Agree { stop: bool },
    /// Go back to it.
    Reload,
    /// Run a segment.
    Train { to: u64 },
    /// Average the statistics.
    Statistics,
    /// Replicas take statistics and weights.
    Settle,
    /// Devices lay out their histories.
    History,
    /// Average them.
    MeanHistory,
    /// Wait until the writer has written the last snapshot.
    Written,
    /// Copy a snapshot out and hand it to the writer.
    Snapshot,
    /// Run a test net.
    Test { net: usize },
    /// Put its scores together.
    Scores { net: usize },
    /// The closing loss.
    Evaluate,
    /// All replicas hash their weights.
    Verify,
    /// All nodes compare the hashes.
    Compare,
    /// Everybody ends.
    Leave,
}

impl Communicator {
    /// The beginning.
    pub(super) fn start(&mut self) -> Result<(), Halt> {
        use Duty::{Hear, Length, Load, Meet, Open, Pass, Point, Publish, Speak, Spread};
        self.duties.extend([Open, Meet, Speak]);
        if self.replicas() > 1 {
            self.duties.extend([Length, Pass, Hear, Publish, Spread, Load]);
            if self.nodes() > 1 {
                self.duties.push_back(Duty::WarmUp);
            }
        }
        self.duties.push_back(Point { stop: false, snapshot: false });
        self.next_duty()
    }

    /// Whether replicas draw tickets and push into a store of the node.
    pub(super) fn draws(&self) -> bool {
        self.parts.mode.draws() && self.replicas() > 1
    }

    /// Whether what nodes send each other is rounded.
    pub(super) fn rounded(&self) -> bool {
        self.parts.wire.rounds() && self.nodes() > 1
    }

    /// Whether replicas have solver histories of their own.
    pub(super) fn private_histories(&self) -> bool {
        !self.parts.mode.shares_history() && self.replicas() > 1
    }

    /// Starts duties until one has something to wait for.
    fn next_duty(&mut self) -> Result<(), Halt> {
        while let Some(duty) = self.duties.pop_front() {
            self.duty = Some(duty);
            self.awaiting = 0;
            self.begin(duty)?;
            if self.awaiting > 0 {
                return Ok(());
            }
            self.end(duty)?;
        }
        Ok(())
    }

    /// One of the awaited things has come.
    pub(super) fn arrived(&mut self) -> Result<(), Halt> {
        self.awaiting = self.awaiting.saturating_sub(1);
        match self.duty {
            Some(duty) if self.awaiting == 0 => {
                self.end(duty)?;
                self.next_duty()
            }
            _ => Ok(()),
        }
    }

    pub(super) fn order_all(&mut self, order: impl Fn() -> Order) {
        for device in 0..self.local() {
            self.order(device, order());
        }
        self.awaiting += self.local();
    }

    /// An order to the first replica of the job.
    fn order_first(&mut self, order: Order) {
        if self.root() {
            self.order(0, order);
            self.awaiting = 1;
        }
    }

    fn begin(&mut self, duty: Duty) -> Result<(), Halt> {
        match duty {
            Duty::Open => {
                self.order_all(|| Order::Build);
                self.feed_readers(&Feed::Open);
            }
            Duty::Meet => {
                let plan = self.plan()?;
                let sizes = [plan.params, plan.buckets.len(), plan.statistics, plan.history];
                // The order of the buckets is the order in which all nodes post their sums.
                let mut order = Digest::default();
                plan.buckets.hash(&mut order);
                let mut words = vec![plan.hash, order.finish()];
                words.extend(sizes.map(|size| size as u64));
                self.compare_words(words)?;
            }
            Duty::Speak => self.order_first(Order::Speak),
            Duty::Length => {
                let bytes = self.parts.board.words.lock().len();
                self.compare_words(vec![bytes as u64])?;
            }
            Duty::Pass => self.pass()?,
            Duty::Hear => self.order_all(|| Order::Hear),
            Duty::Publish => self.order_first(Order::Publish),
            Duty::Spread => self.begin_spread()?,
            Duty::Load => self.order_all(|| Order::Load),
            Duty::Agree { .. } => {
                self.reload = std::mem::take(&mut self.reload_wanted);
                self.compare_words(vec![u64::from(self.reload)])?;
            }
            Duty::Reload => {
                let plan = self.plan()?;
                let lens = (0..plan.buckets.len()).map(|bucket| plan.bucket_len(bucket));
                *self.parts.board.weights.lock() = lens.map(|len| vec![0.0; len]).collect();
                *self.parts.board.statistics.lock() = vec![0.0; plan.statistics];
                self.order_all(|| Order::Reload);
            }
            Duty::WarmUp => self.warm_up()?,
            Duty::Point { stop, snapshot } => self.point(stop, snapshot),
            Duty::Train { to } => {
                self.awaiting = 1;
                self.feed(Event::Begin { from: self.iter, to })?;
            }
            Duty::Statistics => {
                let data = sum_of(&self.parts.board.own_statistics);
                let id = self.means.len();
                self.sum_over_nodes(Lane::Data, id, data)?;
            }
            Duty::Settle => self.order_all(|| Order::Settle),
            Duty::History => self.order_all(|| Order::History),
            Duty::MeanHistory => {
                let data = sum_of(&self.parts.board.histories);
                self.sum_over_nodes(Lane::Test, 1, data)?;
            }
            Duty::Written => self.awaiting = usize::from(self.writing),
            Duty::Snapshot => self.begin_snapshot()?,
            Duty::Test { net } => self.begin_test(net)?,
            Duty::Scores { .. } => {
                let data = std::mem::take(&mut *self.parts.board.scores.lock());
                self.sum_over_nodes(Lane::Test, 0, data)?;
            }
            Duty::Evaluate if self.root() => self.begin_evaluate(),
            Duty::Evaluate => {}
            Duty::Verify => self.order_all(|| Order::Verify),
            Duty::Compare => self.compare_words(vec![self.checksums[0]])?,
            Duty::Leave => {
                self.order_all(|| Order::Leave);
                self.feed_readers(&Feed::Leave);
            }
        }
        Ok(())
    }

    /// The closing loss is one more forward, of the next ticket, on the writer's device.
    fn begin_evaluate(&mut self) {
        let device = &self.parts.devices[0];
        let (reader, queue) = device.train;
        let first = self.iter * self.replicas() as u64;
        let ticket = first * self.parts.schedule.iter_size as u64;
        let feed = Feed::Train { queue, first, stride: 1, count: 1 };
        self.parts.readers[reader].send(feed);
        self.order(0, Order::Evaluate { iter: self.iter, ticket });
        self.awaiting = 1;
    }

    fn end(&mut self, duty: Duty) -> Result<(), Halt> {
        match duty {
            Duty::Open => self.built()?,
            Duty::Hear => *self.parts.board.words.lock() = Vec::new(),
            Duty::Load => {
                self.open_store();
                self.parts.board.weights.lock().clear();
            }
            Duty::Agree { stop } => self.agreed_on(stop),
            Duty::Scores { net } => self.tested(net)?,
            Duty::Snapshot => self.tell(|observer| observer.snapshotted(self.iter)),
            Duty::Verify => self.verified()?,
            Duty::Leave => self.left(),
            _ => {}
        }
        if matches!(self.duties.front(), Some(Duty::Point { .. })) && self.machine.is_none() {
            self.announce()?;
        }
        Ok(())
    }

    fn feed_readers(&mut self, feed: &Feed) {
        for reader in &self.parts.readers {
            reader.send(feed.clone());
        }
        self.awaiting += self.parts.readers.len();
    }

    /// A reply from a device or reader.
    pub(super) fn reply(&mut self, note: Note) -> Result<(), Halt> {
        match note {
            Note::Built { local, plan } => self.plans[local] = Some(*plan),
            Note::Verified { local, checksum } => self.checksums[local] = checksum,
            Note::Evaluated { loss } => {
                let display = self.ledger.closing(self.iter, loss);
                self.tell(|observer| observer.display(&display));
            }
            Note::Reloaded { local: 0, state } if self.root() => {
                let text = format!("iteration {}: all replicas go back to {state}", self.iter);
                self.parts.observer.lock().warning(&text);
            }
            Note::WantHistory => return self.want_history(),
            Note::Snapshotted => return self.snapshotted(),
            _ => {}
        }
        self.arrived()
    }

    /// All local replicas are built: their plans must agree.
    fn built(&mut self) -> Result<(), Halt> {
        let mut plans = self.plans.iter().flatten();
        let Some(plan) = plans.next().cloned() else {
            return Err("no replica was built".to_owned().into());
        };
        if let Some(place) = plans.position(|other| *other != plan) {
            let device = place + 1;
            let cause = format!("device {device} of this node built another net than device 0");
            return Err(cause.into());
        }
        let lens = || (0..plan.buckets.len()).map(|bucket| plan.bucket_len(bucket));
        if self.replicas() > 1 {
            self.given = vec![vec![None; self.local()]; plan.buckets.len()];
            self.wires = lens().map(|len| vec![0.0; len]).collect();
            let rest = |len| vec![0.0; if self.rounded() { len } else { 0 }];
            self.rests = lens().map(rest).collect();
            let mean = |len| Arc::new(if self.draws() { Vec::new() } else { vec![0.0; len] });
            self.means = lens().map(mean).collect();
            self.other_means = vec![Arc::default(); self.means.len()];
            *self.parts.board.weights.lock() = lens().map(|len| vec![0.0; len]).collect();
            *self.parts.board.statistics.lock() = vec![0.0; plan.statistics];
        }
        self.plan = Some(plan);
        Ok(())
    }

    fn begin_spread(&mut self) -> Result<(), Halt> {
        if self.nodes() == 1 {
            return Ok(());
        }
        let mut parts = std::mem::take(&mut *self.parts.board.weights.lock());
        parts.push(std::mem::take(&mut *self.parts.board.statistics.lock()));
        self.parts.board.weights.lock().resize(parts.len() - 1, Vec::new());
        for (id, data) in parts.into_iter().enumerate() {
            self.awaiting += 1;
            self.post(Op::Broadcast { id, data })?;
        }
        Ok(())
    }

    /// Rank 0's weights, or the opening words, have come.
    pub(super) fn spread(&mut self, id: usize, data: Vec<f32>) -> Result<(), Halt> {
        if self.duty == Some(Duty::Pass) {
            self.passed(&data);
            return self.arrived();
        }
        match self.parts.board.weights.lock().get_mut(id) {
            Some(bucket) => *bucket = data,
            None => *self.parts.board.statistics.lock() = data,
        }
        self.arrived()
    }

    /// Everything is ready to train.
    fn announce(&mut self) -> Result<(), Halt> {
        let (rank, workers) = (self.parts.meeting.rank, self.parts.meeting.workers.clone());
        let buckets = self.plan()?.buckets.len();
        let started = Started {
            rank,
            hosts: self.parts.meeting.hosts.clone(),
            workers: workers.clone(),
            clocks: self.parts.meeting.clocks.clone(),
            iter: self.iter,
            transport: self.parts.meeting.transport.clone(),
        };
        self.parts.observer.lock().started(&started);
        let job = Job { rank, workers, buckets, rounded: self.rounded() };
        self.machine = Some(machine(self.parts.mode, job));
        self.since = Instant::now();
        Ok(())
    }

    fn left(&mut self) {
        let replicas = self.replicas() as u64;
        let report = RunReport {
            rank: self.parts.meeting.rank,
            iter: self.iter,
            ticket: self.iter * replicas * self.parts.schedule.iter_size as u64,
            stopped_early: self.stopped_early,
            checksum: self.checksums[0],
            steps: self.steps.clone(),
            rounds: self.rounds,
            round_iters: self.machine.as_ref().map_or(0.0, |machine| machine.round_iters()),
            staleness: self.parts.board.store.get().map(Store::staleness).unwrap_or_default(),
            visible_after: self.machine.as_ref().map_or([0; 2], |machine| machine.visible_after()),
            wall: self.since.elapsed(),
        };
        self.tell(|observer| observer.finished(&report));
        drop(self.parts.outcome.try_send(report));
    }

    /// In hogwild the node's weights start from the published ones.
    pub(super) fn open_store(&self) {
        if self.draws() {
            let weights = self.parts.board.weights.lock();
            match self.parts.board.store.get() {
                Some(store) => store.restart(&weights),
                None => drop(self.parts.board.store.set(Store::new(&weights, self.nodes() == 1))),
            }
        }
    }
}
