//! Who has been how fast, and on what the time went: the numbers beside every display.
//!
//! Each header carries its node's running totals ([`Tally`]), so rank 0 knows those of all nodes
//! as of the round that brought the displayed losses, without an exchange of its own.

use super::Communicator;
use crate::header::Header;
use crate::observe::{Display, Pace};
use crate::store::Store;
use crate::trace::{TALLY_WORDS, Tally, Tracer};

type Packed = [u64; TALLY_WORDS];

/// Totals of all devices of the job, now and at the last display, by rank and device.
#[derive(Debug)]
pub(super) struct Paces {
    /// This node's devices.
    lanes: Vec<Tracer>,
    rank: usize,
    now: Vec<Vec<Packed>>,
    shown: Vec<Vec<Packed>>,
}

impl Paces {
    pub(super) fn new(lanes: Vec<Tracer>, rank: usize, workers: &[usize]) -> Self {
        let zero: Vec<Vec<Packed>> = workers.iter().map(|k| vec![Packed::default(); *k]).collect();
        Paces { lanes, rank, now: zero.clone(), shown: zero }
    }

    /// This node's part of a header.
    pub(super) fn own(&self) -> impl Iterator<Item = Packed> {
        self.lanes.iter().map(|lane| lane.tally().pack())
    }

    /// All nodes' headers have come.
    pub(super) fn heard(&mut self, headers: &[Header]) {
        for (known, header) in self.now.iter_mut().zip(headers) {
            for (known, told) in known.iter_mut().zip(&header.tallies) {
                *known = *told;
            }
        }
    }

    /// What all replicas have done since this was asked last.
    fn since_shown(&mut self) -> Vec<Pace> {
        self.now[self.rank] = self.own().collect();
        let mut paces = Vec::new();
        for (rank, (now, shown)) in self.now.iter().zip(&self.shown).enumerate() {
            for (device, (now, shown)) in now.iter().zip(shown).enumerate() {
                paces.push(Pace { rank, device, spent: Tally::between(shown, now) });
            }
        }
        self.shown.clone_from(&self.now);
        paces
    }
}

impl Communicator {
    /// Shows what is due, with the numbers of the time since the last display.
    pub(super) fn show(&mut self, display: Display) {
        let paces = self.paces.since_shown();
        let staleness = self.parts.board.store.get().map(Store::staleness).unwrap_or_default();
        let display = Display { paces, staleness, ..display };
        self.tell(|observer| observer.display(&display));
    }

    /// The most devices that any node has.
    pub(super) fn most_devices(&self) -> usize {
        self.parts.meeting.workers.iter().copied().max().unwrap_or(0)
    }
}
