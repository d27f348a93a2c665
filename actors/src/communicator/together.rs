//! What a node does together with the others between segments: sums (statistics, histories, test
//! scores), comparisons (plans, final weights) and the first replica's opening words.

use super::Communicator;
use super::duties::Duty;
use crate::fault::Halt;
use crate::messages::{Feed, Order};
use crate::observe::Tested;
use crate::transport::{Lane, Op};
use crate::wire::Wire;

impl Communicator {
    /// Sums `data` over all nodes; [`summed_for_duty`](Self::summed_for_duty) gets the result.
    pub(super) fn sum_over_nodes(
        &mut self,
        lane: Lane,
        id: usize,
        data: Vec<f32>,
    ) -> Result<(), Halt> {
        self.awaiting += 1;
        if self.nodes() > 1 {
            let (wire, rest) = (Wire::F32, Vec::new());
            return self.post(Op::Sum { lane, id, data, wire, rest });
        }
        self.keep_sum(data);
        self.awaiting -= 1;
        Ok(())
    }

    pub(super) fn summed_for_duty(&mut self, data: Vec<f32>) -> Result<(), Halt> {
        self.keep_sum(data);
        self.arrived()
    }

    fn keep_sum(&mut self, mut data: Vec<f32>) {
        let scale = 1.0 / self.replicas() as f32;
        let board = &self.parts.board;
        let place = match self.duty {
            Some(Duty::Statistics) => &board.statistics,
            Some(Duty::MeanHistory) => &board.mean_history,
            _ => {
                *board.scores.lock() = data;
                return;
            }
        };
        data.iter_mut().for_each(|value| *value *= scale);
        *place.lock() = data;
    }

    pub(super) fn begin_test(&mut self, net: usize) -> Result<(), Halt> {
        self.tell(|observer| observer.testing(self.iter, net));
        let count = self.parts.schedule.test_batches[net];
        let width = self.plan()?.test_outputs[net];
        *self.parts.board.scores.lock() = vec![0.0; count as usize * width];
        let cursor = self.cursors[net];
        let base = self.parts.meeting.first_replica(self.parts.meeting.rank) as u64;
        let stride = self.replicas() as u64;
        for (local, device) in self.parts.devices.iter().enumerate() {
            let (reader, queue) = device.test;
            let first = base + local as u64;
            let feed = Feed::Test { net, cursor, queue, first, stride, rows: count };
            self.parts.readers[reader].send(feed);
        }
        self.order_all(|| Order::Test { net, count });
        Ok(())
    }

    /// Averages in batch order, in single precision, as Caffe does.
    pub(super) fn tested(&mut self, net: usize) -> Result<(), Halt> {
        let width = self.plan()?.test_outputs[net];
        let count = self.parts.schedule.test_batches[net];
        self.cursors[net] += count;
        let rows = std::mem::take(&mut *self.parts.board.scores.lock());
        let mut scores = vec![0.0f32; width];
        for row in rows.chunks_exact(width.max(1)) {
            for (sum, value) in scores.iter_mut().zip(row) {
                *sum += value;
            }
        }
        scores.iter_mut().for_each(|sum| *sum /= count.max(1) as f32);
        let tested = Tested { iter: self.iter, net, scores };
        self.tell(|observer| observer.tested(&tested));
        Ok(())
    }

    /// All nodes say something; [`compared`](Self::compared) hears it.
    pub(super) fn compare_words(&mut self, words: Vec<u64>) -> Result<(), Halt> {
        if self.nodes() > 1 {
            self.awaiting = 1;
            self.post(Op::Header { words })?;
        }
        Ok(())
    }

    pub(super) fn compared(&mut self, words: &[u64]) -> Result<(), Halt> {
        let each = (words.len() / self.nodes()).max(1);
        let mut ranks = words.chunks(each);
        if matches!(self.duty, Some(Duty::Agree { .. })) {
            self.reload = words.iter().any(|word| *word != 0);
            return self.arrived();
        }
        let first = ranks.next();
        if self.duty == Some(Duty::Length) {
            let bytes = first.map_or(0, |words| words[0] as usize);
            self.parts.board.words.lock().resize(bytes, 0);
            return self.arrived();
        }
        if let Some(place) = ranks.position(|other| Some(other) != first) {
            let cause = match self.duty {
                Some(Duty::Meet) => {
                    "its net or solver differs from rank 0's; all ranks must be given the same"
                }
                _ => "its final weights differ from rank 0's, bit for bit; the result is not valid",
            };
            return Err(self.agreed(place + 1, cause));
        }
        self.arrived()
    }

    /// The opening words go to all nodes, four bytes as the bits of a float: nobody computes with them.
    pub(super) fn pass(&mut self) -> Result<(), Halt> {
        if self.nodes() == 1 {
            return Ok(());
        }
        let words = self.parts.board.words.lock();
        let bits = |part: &[u8]| {
            let mut four = [0; 4];
            four[..part.len()].copy_from_slice(part);
            f32::from_bits(u32::from_le_bytes(four))
        };
        let data = words.chunks(4).map(bits).collect();
        drop(words);
        self.awaiting = 1;
        self.post(Op::Broadcast { id: 0, data })
    }

    /// They have come.
    pub(super) fn passed(&self, data: &[f32]) {
        let mut words = self.parts.board.words.lock();
        for (part, bits) in words.chunks_mut(4).zip(data) {
            part.copy_from_slice(&bits.to_bits().to_le_bytes()[..part.len()]);
        }
    }

    pub(super) fn verified(&mut self) -> Result<(), Halt> {
        let first = self.checksums[0];
        match self.checksums.iter().position(|checksum| *checksum != first) {
            None => Ok(()),
            Some(device) => {
                let cause = format!("the final weights of device {device} differ from device 0's");
                Err(cause.into())
            }
        }
    }
}
