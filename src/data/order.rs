//! Which records make up which batch.
//!
//! The job's q-th batch (*ticket* q) of b records covers the positions P = q·b … q·b + b − 1, and
//! position P is record `order(P div D)[P mod D]` of the D in the database. Nothing else decides
//! what a batch holds: so replicas and nodes share out an epoch without gap or overlap by sharing
//! out tickets, and a run resumes where it stood from its ticket alone.
//!
//! A shuffled order is a function, not a list: nothing is stored, and any position of any epoch is
//! there at once.
//!
//! ```
//! use caffe::data::order::Order;
//!
//! let order = Order::Shuffled { seed: 1 };
//! let mut epoch: Vec<u64> = (500..600).map(|position| order.record(position, 100)).collect();
//! assert_ne!(epoch, (0..100).collect::<Vec<_>>());
//! epoch.sort();
//! assert_eq!(epoch, (0..100).collect::<Vec<_>>());
//! ```

use crate::rng::{Philox, stream_id};

/// Records that stay neighbours in [`Order::Blocks`], so that a disk reads them in one go.
const RUN: u64 = 64;

/// Records among which [`Order::Blocks`] draws freely: runs from this many places make up a batch.
const WINDOW: u64 = 64 * RUN;

/// The order of records within an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Order {
    /// As in the database, every epoch alike: Caffe's.
    #[default]
    Sequential,
    /// Every epoch another order, any as likely as any other: for lists of files.
    Shuffled {
        /// Decides all epochs.
        seed: u64,
    },
    /// Every epoch another order that a disk can follow: runs of `RUN` neighbours are shuffled,
    /// then the records of each `WINDOW` of the result. Databases no larger than that are
    /// shuffled freely.
    Blocks {
        /// Decides all epochs.
        seed: u64,
    },
}

impl Order {
    /// The index of the record at `position` in a database of `count` records.
    pub fn record(self, position: u64, count: u64) -> u64 {
        let count = count.max(1);
        let (epoch, position) = (position / count, position % count);
        match self {
            Self::Sequential => position,
            Self::Shuffled { seed } => Permutation::new(seed, epoch, 0, count).at(position),
            Self::Blocks { seed } => in_blocks(seed, epoch, position, count),
        }
    }

    /// Whether it needs to know the number of records beforehand.
    pub fn is_shuffled(self) -> bool {
        self != Self::Sequential
    }
}

fn in_blocks(seed: u64, epoch: u64, position: u64, count: u64) -> u64 {
    let window = position / WINDOW;
    let start = window * WINDOW;
    let inside = Permutation::new(seed, epoch, window + 2, WINDOW.min(count - start));
    let place = start + inside.at(position - start);
    let runs = count / RUN;
    let run = place / RUN;
    // What is left over behind the last whole run stays at the end …
    let record = match run < runs {
        true => Permutation::new(seed, epoch, 1, runs).at(run) * RUN + place % RUN,
        false => place,
    };
    // … but where runs begin differs from epoch to epoch, so that these are not always the same.
    let [low, high, ..] = epoch_key(seed, epoch);
    let turn = (u64::from(high) << 32 | u64::from(low)) % count;
    (record + turn) % count
}

fn epoch_key(seed: u64, epoch: u64) -> [u32; 4] {
    Philox::new(seed, stream_id("order")).at(epoch)
}

/// A permutation of 0..n that is computed, not stored: a Feistel network of four rounds (Luby and
/// Rackoff, 1988) on the smallest even number of bits that holds n, walked along its cycle until
/// it comes back below n.
struct Permutation {
    philox: Philox,
    n: u64,
    half: u32,
}

impl Permutation {
    fn new(seed: u64, epoch: u64, stream: u64, n: u64) -> Self {
        let [_, _, low, high] = epoch_key(seed, epoch);
        let key = u64::from(high) << 32 | u64::from(low);
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        Self { philox: Philox::new(key, stream), n, half: bits.div_ceil(2).max(1) }
    }

    fn at(&self, i: u64) -> u64 {
        let mut i = i;
        loop {
            i = self.network(i);
            if i < self.n {
                return i;
            }
        }
    }

    fn network(&self, i: u64) -> u64 {
        let mask = (1 << self.half) - 1;
        let (mut left, mut right) = (i >> self.half, i & mask);
        for round in 0..4 {
            let [word, ..] = self.philox.at(right << 2 | round);
            (left, right) = (right, (left ^ u64::from(word)) & mask);
        }
        left << self.half | right
    }
}

/// The positions of one ticket.
pub fn positions(ticket: u64, batch_size: u64) -> std::ops::Range<u64> {
    ticket * batch_size..(ticket + 1) * batch_size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_holds_every_record_once() {
        for count in [1, 2, 3, 5, 63, 64, 65, 1000, WINDOW, WINDOW + 1, 3 * WINDOW + 77] {
            for order in [Order::Sequential, Order::Shuffled { seed: 3 }, Order::Blocks { seed: 3 }]
            {
                for epoch in [0, 1, 1_000_000] {
                    let mut seen = vec![false; count as usize];
                    for position in epoch * count..(epoch + 1) * count {
                        let record = order.record(position, count) as usize;
                        assert!(!std::mem::replace(&mut seen[record], true), "{order:?} {count}");
                    }
                }
            }
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        let count = 5_000;
        let epoch = |order: Order, epoch: u64| -> Vec<u64> {
            (0..count).map(|i| order.record(epoch * count + i, count)).collect()
        };
        for of in [|seed| Order::Shuffled { seed }, |seed| Order::Blocks { seed }] {
            let first = epoch(of(1), 0);
            for other in [epoch(of(1), 1), epoch(of(2), 0)] {
                let same = first.iter().zip(&other).filter(|(a, b)| a == b).count();
                assert!(same < 12, "{same} records in the same place");
            }
        }
    }

    #[test]
    fn a_record_may_come_anywhere() {
        // The place of record 7 over many epochs: each tenth of the epoch about as often.
        let count = 10_000;
        for order in [Order::Shuffled { seed: 9 }, Order::Blocks { seed: 9 }] {
            let mut tenths = [0; 10];
            for epoch in 0..400 {
                let place = (0..count).find(|i| order.record(epoch * count + i, count) == 7);
                tenths[(place.unwrap() / 1_000) as usize] += 1;
            }
            assert!(tenths.iter().all(|n| (18..64).contains(n)), "{order:?} {tenths:?}");
        }
    }

    #[test]
    fn blocks_keep_a_batch_in_few_places_of_the_disk() {
        let count = 1_000_000;
        let order = Order::Blocks { seed: 4 };
        let records = |from: u64, n: u64| (from..from + n).map(move |i| order.record(i, count));
        let runs = |n| {
            let runs: std::collections::BTreeSet<_> =
                records(3 * WINDOW, n).map(|r| r / RUN).collect();
            runs.len() as u64
        };
        assert!(runs(WINDOW) <= 2 * WINDOW / RUN, "{}", runs(WINDOW));
        // … and from as many as there are.
        assert!(runs(256) > 50);
    }
}
