//! Snapshots: one writer, rank 0's first device. In hogwild every replica's history goes to it,
//! one at a time and when it asks, so that no node holds them all.

use crossbeam_channel::{Receiver, Sender, bounded};

use super::Communicator;
use crate::fault::Halt;
use crate::messages::{HistoryStream, Order, SnapshotOrder};
use crate::transport::Op;

/// The root's end of the circle.
pub(super) struct Streaming {
    full: Sender<Option<(usize, Vec<f32>)>>,
    empty: Receiver<Vec<f32>>,
    /// The replica whose history comes next.
    next: usize,
    /// The writer has all it wants; the rest is taken off the wire and dropped.
    discard: bool,
}

impl Communicator {
    pub(super) fn begin_snapshot(&mut self) -> Result<(), Halt> {
        let private = self.private_histories();
        if !self.root() {
            return if private { self.send_histories() } else { Ok(()) };
        }
        let histories = private.then(|| {
            let (full, to_device) = bounded(1);
            let (to_us, empty) = bounded(1);
            self.streaming = Some(Streaming { full, empty, next: 0, discard: false });
            HistoryStream { full: to_device, empty: to_us }
        });
        let replicas = self.replicas() as u64;
        let ticket = self.iter * replicas * self.parts.schedule.iter_size as u64;
        let cursors = self.cursors.clone();
        let order = SnapshotOrder { iter: self.iter, ticket, cursors, histories };
        self.writing = true;
        self.order(0, Order::Snapshot(Box::new(order)));
        self.awaiting = 1;
        Ok(())
    }

    fn send_histories(&mut self) -> Result<(), Halt> {
        let from = self.parts.meeting.rank;
        for history in &self.parts.board.histories {
            let data = std::mem::take(&mut *history.lock());
            self.parts.line.post(Op::Collect { from, data })?;
        }
        self.awaiting = self.local();
        Ok(())
    }

    /// The writer asks for the next history.
    pub(super) fn want_history(&mut self) -> Result<(), Halt> {
        let (local, replicas) = (self.local(), self.replicas());
        let Some(streaming) = &mut self.streaming else { return Ok(()) };
        if streaming.next == replicas {
            drop(streaming.full.try_send(None));
            return Ok(());
        }
        let mut data = streaming.empty.try_recv().unwrap_or_default();
        if streaming.next < local {
            data.clone_from(&self.parts.board.histories[streaming.next].lock());
            drop(streaming.full.try_send(Some((streaming.next, data))));
            streaming.next += 1;
            return Ok(());
        }
        self.fetch(data)
    }

    fn fetch(&mut self, mut data: Vec<f32>) -> Result<(), Halt> {
        let len = self.plan()?.history;
        let Some(streaming) = &self.streaming else { return Ok(()) };
        let mut from = 0;
        while self.parts.meeting.first_replica(from + 1) <= streaming.next {
            from += 1;
        }
        data.resize(len, 0.0);
        self.post(Op::Collect { from, data })
    }

    /// A history has come to the root, or has left another node.
    pub(super) fn collected(&mut self, _from: usize, data: Vec<f32>) -> Result<(), Halt> {
        let Some(streaming) = &mut self.streaming else { return self.arrived() };
        let replica = streaming.next;
        streaming.next += 1;
        if streaming.discard {
            return self.discard_rest(data);
        }
        drop(streaming.full.try_send(Some((replica, data))));
        Ok(())
    }

    /// The writer is done; what is still coming must be taken.
    pub(super) fn snapshotted(&mut self) -> Result<(), Halt> {
        let local = self.local();
        let Some(streaming) = &mut self.streaming else { return self.arrived() };
        streaming.discard = true;
        streaming.next = streaming.next.max(local);
        self.discard_rest(Vec::new())
    }

    fn discard_rest(&mut self, data: Vec<f32>) -> Result<(), Halt> {
        if self.streaming.as_ref().is_some_and(|streaming| streaming.next < self.replicas()) {
            return self.fetch(data);
        }
        self.streaming = None;
        self.arrived()
    }
}
