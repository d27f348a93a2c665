//! What every node tells every other at the start of a round: [`Header`], a fixed number of
//! 64-bit words, so that one small all-gather carries it.

use arrayvec::ArrayVec;

use crate::trace::TALLY_WORDS;

/// Iterations whose losses one header can report; more wait for the next round.
pub(crate) const REPORTS: usize = 4;

const FIXED: usize = 7;

/// The node has no running ticket and may start none.
const PARKED: u64 = 1;
/// The node has updates that other nodes have not seen.
const DIRTY: u64 = 2;
/// Somebody asked this node to stop.
const STOP: u64 = 4;
/// Somebody asked this node for a snapshot.
const SNAPSHOT: u64 = 8;

/// Beside the count of a [`LossPart`]: it has outputs.
const SHOWN: u64 = 1 << 63;

/// One ticket's loss and train outputs (the latter only when they are shown).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sample {
    pub(crate) loss: f64,
    pub(crate) outputs: Vec<f32>,
}

/// Part of an iteration's loss: the sums over `count` of its tickets.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LossPart {
    pub(crate) iter: u64,
    pub(crate) count: u64,
    pub(crate) loss: f64,
    pub(crate) outputs: Vec<f64>,
}

impl LossPart {
    /// Adds one ticket's sample.
    pub(crate) fn add(&mut self, sample: &Sample) {
        self.count += 1;
        self.loss += sample.loss;
        if self.outputs.len() < sample.outputs.len() {
            self.outputs.resize(sample.outputs.len(), 0.0);
        }
        for (sum, value) in self.outputs.iter_mut().zip(&sample.outputs) {
            *sum += f64::from(*value);
        }
    }

    /// Adds another part of the same iteration.
    pub(crate) fn merge(&mut self, other: &LossPart) {
        self.count += other.count;
        self.loss += other.loss;
        if self.outputs.len() < other.outputs.len() {
            self.outputs.resize(other.outputs.len(), 0.0);
        }
        for (sum, value) in self.outputs.iter_mut().zip(&other.outputs) {
            *sum += value;
        }
    }
}

/// One node's part of a round's header.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Header {
    /// Ordinal of the round; equal on all nodes, or the protocol is broken.
    pub(crate) round: u64,
    /// Tickets finished on this node since its last header.
    pub(crate) finished: u64,
    /// Tickets granted to this node and not finished.
    pub(crate) outstanding: u64,
    /// Lowest ticket not finished on this node.
    pub(crate) oldest: u64,
    /// Tickets this node could use.
    pub(crate) want: u64,
    /// Hash of one agreed bucket, 0 when this round checks none.
    pub(crate) hash: u64,
    pub(crate) parked: bool,
    pub(crate) dirty: bool,
    pub(crate) stop: bool,
    pub(crate) snapshot: bool,
    pub(crate) losses: ArrayVec<LossPart, REPORTS>,
    /// What each device of this node has spent its time on, packed; filled in by the communicator.
    pub(crate) tallies: Vec<[u64; TALLY_WORDS]>,
}

impl Header {
    /// Length in words when the train net has `outputs` outputs and a node at most `devices`
    /// devices.
    pub(crate) fn words(outputs: usize, devices: usize) -> usize {
        FIXED + REPORTS * (3 + outputs) + devices * TALLY_WORDS
    }

    /// Writes the header, but with these tallies, into `words`: always of one length.
    pub(crate) fn encode(
        &self,
        outputs: usize,
        devices: usize,
        tallies: impl IntoIterator<Item = [u64; TALLY_WORDS]>,
        words: &mut Vec<u64>,
    ) {
        words.clear();
        let mut flags = 0;
        for (set, flag) in [
            (self.parked, PARKED),
            (self.dirty, DIRTY),
            (self.stop, STOP),
            (self.snapshot, SNAPSHOT),
        ] {
            flags |= if set { flag } else { 0 };
        }
        words.extend([self.round, self.finished, self.outstanding, self.oldest, self.want]);
        words.extend([self.hash, flags]);
        for part in &self.losses {
            let shown = if part.outputs.is_empty() { 0 } else { SHOWN };
            words.extend([part.iter, part.count | shown, part.loss.to_bits()]);
            words.extend((0..outputs).map(|i| part.outputs.get(i).map_or(0, |v| v.to_bits())));
        }
        words.resize(Self::words(outputs, 0), 0);
        words.extend(tallies.into_iter().take(devices).flatten());
        words.resize(Self::words(outputs, devices), 0);
    }

    /// Becomes what [`encode`](Header::encode) wrote, in the memory it has; false if the length is
    /// wrong.
    pub(crate) fn decode(&mut self, words: &[u64], outputs: usize, devices: usize) -> bool {
        if words.len() != Self::words(outputs, devices) {
            return false;
        }
        let (words, tallies) = words.split_at(Self::words(outputs, 0));
        let flags = words[6];
        let losses = words[FIXED..]
            .chunks_exact(3 + outputs)
            .filter(|part| part[1] > 0)
            .map(|part| LossPart {
                iter: part[0],
                count: part[1] & !SHOWN,
                loss: f64::from_bits(part[2]),
                outputs: match part[1] & SHOWN {
                    0 => Vec::new(),
                    _ => part[3..].iter().map(|bits| f64::from_bits(*bits)).collect(),
                },
            })
            .collect();
        let mut own = std::mem::take(&mut self.tallies);
        own.clear();
        own.extend(tallies.as_chunks().0);
        *self = Header {
            round: words[0],
            finished: words[1],
            outstanding: words[2],
            oldest: words[3],
            want: words[4],
            hash: words[5],
            parked: flags & PARKED != 0,
            dirty: flags & DIRTY != 0,
            stop: flags & STOP != 0,
            snapshot: flags & SNAPSHOT != 0,
            losses,
            tallies: own,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_wire() {
        let mut part = LossPart { iter: 12, ..LossPart::default() };
        part.add(&Sample { loss: 0.5, outputs: vec![1.0, 2.0] });
        part.add(&Sample { loss: 0.25, outputs: vec![1.0, -2.0] });
        let header = Header {
            round: 9,
            finished: 3,
            outstanding: 2,
            oldest: 40,
            want: 7,
            hash: u64::MAX,
            parked: true,
            dirty: false,
            stop: false,
            snapshot: true,
            losses: [part, LossPart { iter: 13, count: 1, ..LossPart::default() }]
                .into_iter()
                .collect(),
            tallies: vec![[1, 2, 3], [4, 5, 6]],
        };
        let mut words = Vec::new();
        header.encode(2, 2, header.tallies.clone(), &mut words);
        assert_eq!(words.len(), Header::words(2, 2));
        let mut read =
            Header { tallies: vec![[7; TALLY_WORDS]; 3], stop: true, ..Header::default() };
        assert!(read.decode(&words, 2, 2));
        assert_eq!(read, header);
        assert!(!read.decode(&words, 3, 2));
    }
}
