//! Nodes as threads of one process: the transport of the tests, and (with one node) of a
//! program that runs alone.
//!
//! All nodes of a job share a hub. A collective finds its partners by its place in its lane's
//! order; whoever arrives last does the arithmetic, in rank order, so results do not depend on
//! the order of arrival.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Beat, Done, Lane, Op, Transport};
use crate::wire::{self, CHUNK, Pieces, Wire};

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

/// What a collective carries.
#[derive(Debug)]
enum Load {
    Words(Vec<u64>),
    Floats(Vec<f32>),
    /// Data and rest of a rounded sum.
    Rounded(Vec<f32>, Vec<f32>),
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
        combine: impl FnOnce(&mut [Option<Load>]) -> Result<(), String>,
    ) -> Result<u64, String> {
        let next = self.next.entry(stream).or_insert(0);
        let place = *next;
        *next += 1;
        let size = self.place.size;
        let mut hub = self.place.hub.lock();
        let slot = hub.slots.entry((stream, place)).or_default();
        slot.loads.resize_with(size, || None);
        slot.loads[self.place.rank] = Some(load);
        slot.arrived += 1;
        if slot.arrived == size {
            combine(&mut slot.loads)?;
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
        if slot.taken == self.place.size {
            hub.slots.remove(&(stream, place));
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

/// Sums all loads in rank order and gives every rank the sum in its own buffer.
fn sum(loads: &mut [Option<Load>]) -> Result<(), String> {
    let (first, rest) = loads.split_at_mut(1);
    let Some(Some(Load::Floats(total))) = first.first_mut() else {
        return Err("rank 0 joined a sum with something else".into());
    };
    for load in &*rest {
        match load {
            Some(Load::Floats(data)) if data.len() == total.len() => {
                for (sum, value) in total.iter_mut().zip(data) {
                    *sum += value;
                }
            }
            _ => return Err("nodes joined one sum with buffers of different length".into()),
        }
    }
    spread(loads)
}

/// Sums all loads as ranks with a wire between them would.
fn rounded_sum(wire: Wire, loads: &mut [Option<Load>]) -> Result<(), String> {
    let mut parts: Vec<(&mut [f32], &mut [f32])> = Vec::new();
    for load in loads {
        match load {
            Some(Load::Rounded(data, rest)) if data.len() == rest.len() => parts.push((data, rest)),
            _ => return Err("nodes joined one sum with buffers of different kinds".into()),
        }
    }
    let (nodes, len) = (parts.len(), parts[0].0.len());
    if parts.iter().any(|(data, _)| data.len() != len) {
        return Err("nodes joined one sum with buffers of different length".into());
    }
    let (mut sent, mut received, mut all) = (Vec::new(), Vec::new(), Vec::new());
    let mut sum = Vec::new();
    for from in (0..len).step_by(CHUNK) {
        let chunk = from..(from + CHUNK).min(len);
        let pieces = Pieces { len: chunk.len(), nodes };
        let words = pieces.words();
        sent.resize(nodes * pieces.all_words(), 0);
        all.resize(pieces.all_words(), 0);
        for ((data, rest), sent) in parts.iter_mut().zip(sent.chunks_mut(pieces.all_words())) {
            let (data, rest) = (&data[chunk.clone()], &mut rest[chunk.clone()]);
            wire::spread(wire, data, rest, nodes, sent);
        }
        for (node, out) in all.chunks_mut(words).enumerate() {
            received.clear();
            for sent in sent.chunks(pieces.all_words()) {
                received.extend_from_slice(&sent[node * words..(node + 1) * words]);
            }
            let rest = &mut parts[node].1[chunk.clone()][pieces.of(node)];
            wire::combine(wire, &received, rest, &mut sum, out);
        }
        for (data, _) in &mut parts {
            wire::collect(wire, &all, nodes, &mut data[chunk.clone()]);
        }
    }
    Ok(())
}

/// Copies rank 0's load into everybody's.
fn spread(loads: &mut [Option<Load>]) -> Result<(), String> {
    let (first, rest) = loads.split_at_mut(1);
    let Some(Some(Load::Floats(source))) = first.first() else {
        return Err("rank 0 joined a broadcast with something else".into());
    };
    for load in rest {
        match load {
            Some(Load::Floats(data)) if data.len() == source.len() => data.copy_from_slice(source),
            _ => return Err("nodes joined one broadcast with different lengths".into()),
        }
    }
    Ok(())
}

/// Gives every rank all ranks' words, in rank order.
fn gather(loads: &mut [Option<Load>]) -> Result<(), String> {
    let mut all = Vec::new();
    for load in &*loads {
        match load {
            Some(Load::Words(words)) => all.extend_from_slice(words),
            _ => return Err("a node joined a header with something else".into()),
        }
    }
    loads.fill_with(|| Some(Load::Words(all.clone())));
    Ok(())
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
                let round = |loads: &mut [Option<Load>]| rounded_sum(wire, loads);
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
