//! Nodes as threads of one process: the transport of the tests, and (with one node) of a
//! program that runs alone.
//!
//! All nodes of a job share a hub. A collective finds its partners by its place in its lane's
//! order; whoever arrives last does the arithmetic, in rank order, so results do not depend on
//! the order of arrival.

mod combine;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use self::combine::{Load, Scratch, gather, rounded_sum, spread, sum};
use super::{Beat, Done, Lane, Op, Transport};
#[cfg(test)]
use crate::wire::Wire;

/// One node's ticket to a job inside this process; see [`Launch`](crate::Launch).
#[derive(Clone, Debug)]
pub struct InProcess {
    rank: usize,
    size: usize,
    hub: Arc<Mutex<Hub>>,
}

impl InProcess {
    /// A job of `nodes` nodes: one value for each.
    pub fn nodes(nodes: usize) -> Vec<InProcess> {
        let hub = Arc::new(Mutex::new(Hub { beats: vec![Vec::new(); nodes], ..Hub::default() }));
        (0..nodes).map(|rank| InProcess { rank, size: nodes, hub: hub.clone() }).collect()
    }

    pub(crate) fn connect(self) -> Node {
        Node { place: self, next: HashMap::new(), open: VecDeque::new() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stream {
    Header,
    Lane(Lane),
}

/// One collective in progress.
#[derive(Debug, Default)]
struct Slot {
    loads: Vec<Option<Load>>,
    arrived: usize,
    taken: usize,
}

#[derive(Debug, Default)]
struct Hub {
    slots: HashMap<(Stream, u64), Slot>,
    /// Slots of collectives that are over, and working memory: for the next ones.
    spare: Vec<Slot>,
    scratch: Scratch,
    mail: HashMap<usize, VecDeque<Vec<f32>>>,
    beats: Vec<Vec<(usize, Beat)>>,
}

#[derive(Debug)]
enum Waiting {
    Headers(u64),
    Sum { lane: Lane, id: usize, place: u64 },
    Broadcast { id: usize, place: u64 },
    Collect { from: usize, data: Vec<f32> },
}

/// A connected node.
#[derive(Debug)]
pub(crate) struct Node {
    place: InProcess,
    next: HashMap<Stream, u64>,
    open: VecDeque<Waiting>,
}

impl Node {
    /// Joins the next collective of `stream`; the last to arrive combines the loads.
    fn join(
        &mut self,
        stream: Stream,
        load: Load,
        combine: impl FnOnce(&mut [Option<Load>], &mut Scratch) -> Result<(), String>,
    ) -> Result<u64, String> {
        let next = self.next.entry(stream).or_insert(0);
        let place = *next;
        *next += 1;
        let size = self.place.size;
        let mut hub = self.place.hub.lock();
        let Hub { slots, spare, scratch, .. } = &mut *hub;
        let slot = slots.entry((stream, place)).or_insert_with(|| spare.pop().unwrap_or_default());
        slot.loads.resize_with(size, || None);
        slot.loads[self.place.rank] = Some(load);
        slot.arrived += 1;
        if slot.arrived == size {
            combine(&mut slot.loads, scratch)?;
        }
        Ok(place)
    }

    /// This node's share of a finished collective.
    fn take(&self, stream: Stream, place: u64) -> Option<Load> {
        let mut hub = self.place.hub.lock();
        let slot = hub.slots.get_mut(&(stream, place))?;
        if slot.arrived < self.place.size {
            return None;
        }
        let load = slot.loads[self.place.rank].take();
        slot.taken += 1;
        if slot.taken == self.place.size
            && let Some(mut slot) = hub.slots.remove(&(stream, place))
        {
            (slot.arrived, slot.taken) = (0, 0);
            hub.spare.push(slot);
        }
        load
    }

    /// The finished operation, or what is still waited for.
    fn advance(&self, waiting: Waiting) -> Result<Done, Waiting> {
        match waiting {
            Waiting::Headers(place) => match self.take(Stream::Header, place) {
                Some(Load::Words(words)) => Ok(Done::Headers { words }),
                _ => Err(waiting),
            },
            Waiting::Sum { lane, id, place } => match self.take(Stream::Lane(lane), place) {
                Some(Load::Floats(data)) => Ok(Done::Sum { lane, id, data, rest: Vec::new() }),
                Some(Load::Rounded(data, rest)) => Ok(Done::Sum { lane, id, data, rest }),
                _ => Err(waiting),
            },
            Waiting::Broadcast { id, place } => match self.take(Stream::Lane(Lane::Data), place) {
                Some(Load::Floats(data)) => Ok(Done::Broadcast { id, data }),
                _ => Err(waiting),
            },
            Waiting::Collect { from, mut data } => {
                let mut hub = self.place.hub.lock();
                match hub.mail.get_mut(&from).and_then(VecDeque::pop_front) {
                    Some(mail) if mail.len() == data.len() => {
                        data.copy_from_slice(&mail);
                        Ok(Done::Collect { from, data })
                    }
                    _ => Err(Waiting::Collect { from, data }),
                }
            }
        }
    }
}

impl Transport for Node {
    fn rank(&self) -> usize {
        self.place.rank
    }

    fn size(&self) -> usize {
        self.place.size
    }

    fn describe(&self) -> String {
        if self.place.size == 1 { "solo".into() } else { "in-process".into() }
    }

    fn post(&mut self, op: Op) -> Result<(), String> {
        let waiting = match op {
            Op::Header { words } => {
                Waiting::Headers(self.join(Stream::Header, Load::Words(words), gather)?)
            }
            Op::Sum { lane, id, data, wire, rest } if wire.rounds() => {
                let load = Load::Rounded(data, rest);
                let round = |loads: &mut [Option<Load>], scratch: &mut Scratch| {
                    rounded_sum(wire, loads, scratch)
                };
                Waiting::Sum { lane, id, place: self.join(Stream::Lane(lane), load, round)? }
            }
            Op::Sum { lane, id, data, .. } => {
                let place = self.join(Stream::Lane(lane), Load::Floats(data), sum)?;
                Waiting::Sum { lane, id, place }
            }
            Op::Broadcast { id, data } => {
                let stream = Stream::Lane(Lane::Data);
                Waiting::Broadcast { id, place: self.join(stream, Load::Floats(data), spread)? }
            }
            Op::Collect { from, data } => {
                if from == self.place.rank {
                    let copy = data.clone();
                    self.place.hub.lock().mail.entry(from).or_default().push_back(copy);
                }
                Waiting::Collect { from, data }
            }
        };
        self.open.push_back(waiting);
        Ok(())
    }

    fn poll(&mut self, done: &mut Vec<Done>) -> Result<(), String> {
        for _ in 0..self.open.len() {
            let Some(waiting) = self.open.pop_front() else { break };
            match waiting {
                // The sender's part of a collect ended when it was posted.
                Waiting::Collect { from, data } if from == self.place.rank && from != 0 => {
                    done.push(Done::Collect { from, data });
                }
                waiting => match self.advance(waiting) {
                    Ok(finished) => done.push(finished),
                    Err(waiting) => self.open.push_back(waiting),
                },
            }
        }
        Ok(())
    }

    fn open(&self) -> bool {
        !self.open.is_empty()
    }

    fn peers(&self) -> Vec<usize> {
        (0..self.place.size).filter(|rank| *rank != self.place.rank).collect()
    }

    fn beat(&mut self, beat: &Beat) -> Result<(), String> {
        let mut hub = self.place.hub.lock();
        for (rank, inbox) in hub.beats.iter_mut().enumerate() {
            if rank != self.place.rank {
                inbox.push((self.place.rank, beat.clone()));
            }
        }
        Ok(())
    }

    fn heard(&mut self, beats: &mut Vec<(usize, Beat)>) -> Result<(), String> {
        beats.append(&mut self.place.hub.lock().beats[self.place.rank]);
        Ok(())
    }

    fn abort(&mut self) {}

    fn finish(self: Box<Self>) -> Result<(), String> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(nodes: &mut [Node]) -> Vec<Vec<Done>> {
        nodes
            .iter_mut()
            .map(|node| {
                let mut done = Vec::new();
                node.poll(&mut done).unwrap();
                done
            })
            .collect()
    }

    #[test]
    fn collectives_meet_in_lane_order_and_lanes_are_independent() {
        let mut nodes: Vec<Node> =
            InProcess::nodes(3).into_iter().map(InProcess::connect).collect();
        let sum = |lane, id, value: f32| {
            let (data, rest) = (vec![value; 4], Vec::new());
            Op::Sum { lane, id, data, wire: Wire::F32, rest }
        };
        for (rank, node) in nodes.iter_mut().enumerate() {
            let value = rank as f32 + 1.0;
            if rank != 1 {
                node.post(sum(Lane::Test, 9, value)).unwrap();
            }
            node.post(sum(Lane::Data, 0, value)).unwrap();
            node.post(sum(Lane::Data, 1, 10.0 * value)).unwrap();
            node.post(Op::Header { words: vec![rank as u64] }).unwrap();
        }
        for done in drive(&mut nodes) {
            let mut seen = 0;
            for one in done {
                match one {
                    Done::Sum { lane: Lane::Data, id, data, .. } => {
                        assert_eq!(data, [[6.0; 4], [60.0; 4]][id]);
                        seen += 1;
                    }
                    Done::Headers { words } => {
                        assert_eq!(words, [0, 1, 2]);
                        seen += 1;
                    }
                    other => panic!("unexpected {other:?}"),
                }
            }
            assert_eq!(seen, 3);
        }
        nodes[1].post(sum(Lane::Test, 9, 2.0)).unwrap();
        assert!(drive(&mut nodes).iter().all(|done| done.len() == 1));
        assert!(nodes.iter().all(|node| !node.open()));
    }

    #[test]
    fn broadcast_and_collect() {
        let mut nodes: Vec<Node> =
            InProcess::nodes(2).into_iter().map(InProcess::connect).collect();
        for (rank, node) in nodes.iter_mut().enumerate() {
            node.post(Op::Broadcast { id: 5, data: vec![rank as f32 + 1.0; 2] }).unwrap();
            node.post(Op::Collect { from: 1, data: vec![rank as f32; 3] }).unwrap();
        }
        let done = drive(&mut nodes);
        for finished in &done {
            let ones = |d: &Done| matches!(d, Done::Broadcast { data, .. } if data == &[1.0; 2]);
            assert!(finished.iter().any(ones));
        }
        let ones = |d: &Done| matches!(d, Done::Collect { data, .. } if data == &[1.0; 3]);
        assert!(done[0].iter().any(ones));
    }
}
