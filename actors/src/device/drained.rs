//! What a device does between segments: opening words, start weights, statistics, tests, snapshots, checksums.

use std::hash::Hasher;

use crossbeam_channel::select;

use super::{Device, Own};
use crate::config::Mode;
use crate::digest::Digest;
use crate::fault::Halt;
use crate::messages::{HistoryStream, Note, Order, SnapshotOrder};
use crate::reader::Empty;
use crate::replica::{Cause, Complaint, Histories, Replica, SnapshotRequest, Step};
use crate::trace::Kind;
use crate::writer::Write;

impl<R: Replica> Device<R> {
    pub(super) fn drained(&mut self, own: &mut Own<R>, order: Order) -> Result<(), Halt> {
        match order {
            Order::Speak => self.speak(own),
            Order::Hear => self.hear(own),
            Order::Publish => self.publish(own),
            Order::Load => self.load(own),
            Order::Settle => self.settle(own),
            Order::Test { net, count } => self.test(own, net, count),
            Order::History => {
                let mut history = self.board.histories[self.place.local].lock();
                history.resize(own.plan.history, 0.0);
                own.replica.read_history(&mut history)?;
                self.note(Note::HistoryRead);
                Ok(())
            }
            Order::Snapshot(order) => self.snapshot(own, *order),
            Order::Evaluate { iter, ticket } => self.evaluate(own, iter, ticket),
            Order::Verify => self.verify(own),
            Order::Reload => {
                let state = own.replica.reload()?;
                self.note(Note::Reloaded { local: self.place.local, state });
                Ok(())
            }
            Order::Build | Order::Run { .. } | Order::Leave => Ok(()),
        }
    }

    fn speak(&self, own: &mut Own<R>) -> Result<(), Halt> {
        let _span = self.post.tracer.span(Kind::Start);
        *self.board.words.lock() = own.replica.opening_words()?;
        self.note(Note::Spoke);
        Ok(())
    }

    fn hear(&self, own: &mut Own<R>) -> Result<(), Halt> {
        // The first replica knows what it has said.
        if self.place.replica > 0 {
            let _span = self.post.tracer.span(Kind::Start);
            // A copy, as hearing may take a while and the node's other devices are to hear, too.
            let words = self.board.words.lock().clone();
            if let Some(text) = own.replica.hear(&words)? {
                self.note(Note::Complaint(Complaint { text, reload: false }));
            }
        }
        self.note(Note::Heard);
        Ok(())
    }

    fn publish(&self, own: &mut Own<R>) -> Result<(), Halt> {
        let mut weights = self.board.weights.lock();
        for (bucket, out) in weights.iter_mut().enumerate() {
            own.replica.read_weights(bucket, out)?;
        }
        own.replica.read_statistics(&mut self.board.statistics.lock())?;
        self.note(Note::Published);
        Ok(())
    }

    fn load(&self, own: &mut Own<R>) -> Result<(), Halt> {
        let weights = self.board.weights.lock();
        for (bucket, weights) in weights.iter().enumerate() {
            own.replica.write_weights(bucket, weights)?;
        }
        if matches!(self.mode, Mode::LocalSgd { .. }) {
            own.agreed.clone_from(&weights);
        }
        if own.plan.statistics > 0 {
            own.replica.write_statistics(&self.board.statistics.lock())?;
        }
        self.note(Note::Loaded);
        Ok(())
    }

    fn settle(&self, own: &mut Own<R>) -> Result<(), Halt> {
        let _span = self.post.tracer.span(Kind::Drain);
        self.post.inject("drain")?;
        if own.plan.statistics > 0 {
            own.replica.write_statistics(&self.board.statistics.lock())?;
        }
        if let Some(store) = self.board.store.get() {
            own.pulled = store.merged();
            for (bucket, weights) in own.buffers.iter_mut().enumerate() {
                store.pull(bucket, weights);
                own.replica.write_weights(bucket, weights)?;
            }
        }
        self.note(Note::Settled);
        Ok(())
    }

    /// Batches `replica`, `replica + R`, … of a test.
    fn test(&self, own: &mut Own<R>, net: usize, count: u64) -> Result<(), Halt> {
        let width = own.plan.test_outputs[net];
        let mut scores = vec![0.0; width];
        let mut row = self.place.replica as u64;
        while row < count {
            let mut load = self.wait(&self.ends.tests, Kind::WaitTest)?;
            if load.row != row {
                return Err(format!("got test batch {} instead of {row}", load.row).into());
            }
            let span = self.post.tracer.span(Kind::Test);
            self.post.inject("test")?;
            own.replica.test(net, &mut load.batch, &mut scores)?;
            drop(span);
            let place = row as usize * width;
            self.board.scores.lock()[place..place + width].copy_from_slice(&scores);
            let port = &self.ends.readers[self.ends.test_reader];
            drop(port.empties.try_send(Empty::Test(self.ends.test_queue, load.batch)));
            port.feed.send(crate::messages::Feed::Returned);
            row += self.place.replicas as u64;
        }
        self.note(Note::Tested);
        Ok(())
    }

    fn snapshot(&self, own: &mut Own<R>, order: SnapshotOrder) -> Result<(), Halt> {
        let _span = self.post.tracer.span(Kind::Snapshot);
        self.post.tracer.set_iter(order.iter);
        self.post.inject("snapshot")?;
        let mut mean = std::mem::take(&mut *self.board.mean_history.lock());
        if order.histories.is_none() {
            // All replicas have this one.
            mean.resize(own.plan.history, 0.0);
            own.replica.read_history(&mut mean)?;
        }
        let mut stream = Stream { device: self, ends: order.histories, last: None };
        let work = own.replica.snapshot(SnapshotRequest {
            iter: order.iter,
            ticket: order.ticket,
            test_cursors: &order.cursors,
            mean_history: mean,
            replicas: self.place.replicas,
            histories: &mut stream,
        })?;
        drop(stream);
        self.ends.writer.do_send(Write { iter: order.iter, work });
        self.note(Note::Snapshotted);
        Ok(())
    }

    fn evaluate(&self, own: &mut Own<R>, iter: u64, ticket: u64) -> Result<(), Halt> {
        let passes = self.schedule.iter_size;
        let mut batches = 0;
        let mut loss = 0.0;
        // One batch is looked at; a step's other batches come with it and go back.
        while batches < passes {
            // One may have been taken ahead.
            let mut load = match own.load.take() {
                Some((load, _)) => load,
                None => self.wait(&self.ends.loads, Kind::WaitTest)?,
            };
            if batches == 0 {
                let step = Step { iter, ticket, pass: 0, passes, report: true };
                loss = own.replica.evaluate(&mut load.batches[0], &step)?;
            }
            batches += load.batches.len();
            self.give_back(load);
        }
        self.note(Note::Evaluated { loss });
        Ok(())
    }

    fn verify(&self, own: &mut Own<R>) -> Result<(), Halt> {
        let _span = self.post.tracer.span(Kind::Verify);
        self.post.inject("verify")?;
        let mut digest = Digest::default();
        let mut weights = Vec::new();
        for bucket in 0..own.plan.buckets.len() {
            weights.resize(own.plan.bucket_len(bucket), 0.0);
            own.replica.read_weights(bucket, &mut weights)?;
            digest.floats(&weights);
        }
        self.note(Note::Verified { local: self.place.local, checksum: digest.finish() });
        Ok(())
    }
}

/// Histories from the communicator, one at a time, on request.
struct Stream<'a, R: Replica> {
    device: &'a Device<R>,
    ends: Option<HistoryStream>,
    last: Option<(usize, Vec<f32>)>,
}

impl<R: Replica> Histories for Stream<'_, R> {
    fn next(&mut self) -> Result<Option<(usize, &[f32])>, Cause> {
        let Some(ends) = &self.ends else { return Ok(None) };
        if let Some((_, buffer)) = self.last.take() {
            drop(ends.empty.try_send(buffer));
        }
        self.device.note(Note::WantHistory);
        self.last = select! {
            recv(ends.full) -> history => history.map_err(|_| "the job is ending")?,
            recv(self.device.stop) -> _ => return Err("the job is ending".into()),
        };
        if self.last.is_none() {
            self.ends = None;
        }
        Ok(self.last.as_ref().map(|(replica, history)| (*replica, &history[..])))
    }
}
