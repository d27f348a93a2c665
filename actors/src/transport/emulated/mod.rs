//! An emulated link around another transport: operations complete there, and are handed out not
//! before the link would have delivered them.
//!
//! The data take the real way, so sums are exactly the other transport's. A collective begins
//! when all nodes have posted it, which is when it completes inside, and when the link is free:
//! sums, broadcasts and messages go one after the other. Headers cost their latency and pass the
//! rest. What the inner transport takes itself adds to the times: dilate the link if it matters.

mod link;
mod noise;

use std::time::{Duration, Instant};

use self::noise::Noise;
use super::{Beat, Done, Lane, Op, Transport};
use crate::wire::Wire;

pub use link::{Link, Loss};

/// A transport behind a link.
pub(super) struct Emulated {
    inner: Box<dyn Transport>,
    link: Link,
    noise: Noise,
    since: Instant,
    /// When the link is free again.
    free: Instant,
    /// Sums under way and the format in which they travel.
    wires: Vec<(Lane, usize, Wire)>,
    /// Completed inside, still on the link: when each is due.
    held: Vec<(Instant, Done)>,
    fresh: Vec<Done>,
}

impl Emulated {
    pub(super) fn new(inner: Box<dyn Transport>, link: Link) -> Self {
        let now = Instant::now();
        Emulated {
            noise: Noise::new(link.seed, inner.rank()),
            inner,
            link,
            since: now,
            free: now,
            wires: Vec::new(),
            held: Vec::new(),
            fresh: Vec::new(),
        }
    }

    /// Whether this node has gone silent.
    fn lost(&self) -> bool {
        let loss = self.link.lose.filter(|loss| loss.rank == self.inner.rank());
        loss.is_some_and(|loss| self.since.elapsed() >= loss.at)
    }

    /// When an operation that may begin `now` has ended.
    fn due(&mut self, done: &Done, now: Instant) -> Instant {
        let nodes = self.inner.size();
        let bytes = |data: &Vec<f32>| size_of_val(&data[..]);
        let seconds = match done {
            Done::Headers { .. } => self.link.header(nodes),
            Done::Sum { lane, id, data, .. } => {
                let place = self.wires.iter().position(|(l, i, _)| l == lane && i == id);
                let wire = place.map_or(Wire::F32, |place| self.wires.remove(place).2);
                self.link.sum(data.len() * wire.bytes(), nodes)
            }
            Done::Broadcast { data, .. } => self.link.broadcast(bytes(data), nodes),
            Done::Collect { data, .. } => self.link.message(bytes(data)),
        };
        let varied = match self.link.jitter {
            0.0 => seconds,
            jitter => seconds * (1.0 + jitter * self.noise.normal()).max(0.0),
        };
        let span = Duration::try_from_secs_f64(varied).unwrap_or(Duration::MAX);
        if matches!(done, Done::Headers { .. }) {
            return now + span;
        }
        self.free = self.free.max(now) + span;
        self.free
    }
}

impl Transport for Emulated {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn describe(&self) -> String {
        format!("{}; emulated link: {}", self.inner.describe().trim(), self.link)
    }

    fn post(&mut self, op: Op) -> Result<(), String> {
        if self.lost() {
            return Ok(());
        }
        if let Op::Sum { lane, id, wire, .. } = &op {
            self.wires.push((*lane, *id, *wire));
        }
        self.inner.post(op)
    }

    fn poll(&mut self, done: &mut Vec<Done>) -> Result<(), String> {
        if self.lost() {
            return Ok(());
        }
        let mut fresh = std::mem::take(&mut self.fresh);
        self.inner.poll(&mut fresh)?;
        let now = Instant::now();
        for finished in fresh.drain(..) {
            let due = self.due(&finished, now);
            self.held.push((due, finished));
        }
        self.fresh = fresh;
        done.extend(self.held.extract_if(.., |(due, _)| *due <= now).map(|(_, done)| done));
        Ok(())
    }

    fn open(&self) -> bool {
        self.inner.open() || !self.held.is_empty()
    }

    fn peers(&self) -> Vec<usize> {
        self.inner.peers()
    }

    fn beat(&mut self, beat: &Beat) -> Result<(), String> {
        if self.lost() { Ok(()) } else { self.inner.beat(beat) }
    }

    fn heard(&mut self, beats: &mut Vec<(usize, Beat)>) -> Result<(), String> {
        if self.lost() {
            return Ok(());
        }
        self.inner.heard(beats)
    }

    fn abort(&mut self) {
        self.inner.abort();
    }

    fn finish(self: Box<Self>) -> Result<(), String> {
        self.inner.finish()
    }
}

#[cfg(test)]
mod tests;
