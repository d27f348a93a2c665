//! What a thread has spent its time on, as running totals: [`Tally`].
//!
//! Added up where spans end, so that the shares are known without a look into the rings, and small
//! enough to travel in every round's header.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Kind;

/// Words of a packed tally.
pub(crate) const TALLY_WORDS: usize = 3;

/// Nanoseconds of a packed tally's unit, as a power of two: its 32 bits run over after 19 hours,
/// and only differences count.
const UNIT: u32 = 14;

/// What device time goes into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Share {
    Data,
    Compute,
    Exposed,
    Update,
}

impl Share {
    /// What spans of this kind count as.
    pub(super) fn of(kind: Kind) -> Option<Share> {
        match kind {
            Kind::WaitBatch => Some(Share::Data),
            Kind::Compute => Some(Share::Compute),
            Kind::WaitGradient | Kind::WaitTicket | Kind::WaitTurn => Some(Share::Exposed),
            Kind::Update | Kind::Push => Some(Share::Update),
            _ => None,
        }
    }
}

/// Totals of one device since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Batches computed.
    pub batches: u64,
    /// Nanoseconds of waiting for batches.
    pub data: u64,
    /// Of forward and backward.
    pub compute: u64,
    /// Of waiting for gradients, tickets and slower replicas: communication that nothing hides.
    pub exposed: u64,
    /// Of the solver's update and of pushing it.
    pub update: u64,
}

impl Tally {
    /// As so many words, for the wire.
    pub(crate) fn pack(&self) -> [u64; TALLY_WORDS] {
        let low = |value: u64| value & u64::from(u32::MAX);
        let time = |nanos: u64| low(nanos >> UNIT);
        [
            low(self.batches) << 32 | time(self.data),
            time(self.compute) << 32 | time(self.exposed),
            time(self.update),
        ]
    }

    /// What has been added from `before` to `after`, both packed.
    pub(crate) fn between(before: &[u64; TALLY_WORDS], after: &[u64; TALLY_WORDS]) -> Tally {
        let high = |word: u64| (word >> 32) as u32;
        let since = |now: u32, then: u32| u64::from(now.wrapping_sub(then));
        let [a, b, c] = [0, 1, 2].map(|word| (after[word], before[word]));
        let upper = |(now, then): (u64, u64)| since(high(now), high(then));
        let lower = |(now, then): (u64, u64)| since(now as u32, then as u32) << UNIT;
        Tally {
            batches: upper(a),
            data: lower(a),
            compute: upper(b) << UNIT,
            exposed: lower(b),
            update: lower(c),
        }
    }

    /// Nanoseconds in all.
    pub fn nanos(&self) -> u64 {
        self.data + self.compute + self.exposed + self.update
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.batches += other.batches;
        self.data += other.data;
        self.compute += other.compute;
        self.exposed += other.exposed;
        self.update += other.update;
    }
}

/// A lane's tally: written by its thread, read by the communicator.
#[derive(Debug, Default)]
pub(super) struct Cells {
    nanos: [AtomicU64; 4],
    batches: AtomicU64,
}

impl Cells {
    pub(super) fn add(&self, share: Share, nanos: u64) {
        self.nanos[share as usize].fetch_add(nanos, Ordering::Relaxed);
        if share == Share::Compute {
            self.batches.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn read(&self) -> Tally {
        let [data, compute, exposed, update] =
            [0, 1, 2, 3].map(|share: usize| self.nanos[share].load(Ordering::Relaxed));
        let batches = self.batches.load(Ordering::Relaxed);
        Tally { batches, data, compute, exposed, update }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_survive_packing_and_running_over() {
        let unit = 1 << UNIT;
        let before = Tally { batches: u64::from(u32::MAX), data: unit, ..Tally::default() };
        let more = Tally {
            batches: 3,
            data: 5 * unit,
            compute: 7 * unit,
            exposed: unit,
            update: 2 * unit,
        };
        let mut after = before;
        after += more;
        assert_eq!(Tally::between(&before.pack(), &after.pack()), more);
        let late = Tally { compute: (u64::from(u32::MAX) << UNIT) + 3 * unit, ..Tally::default() };
        let early = Tally { compute: (u64::from(u32::MAX) - 1) << UNIT, ..Tally::default() };
        assert_eq!(Tally::between(&early.pack(), &late.pack()).compute, 4 * unit);
    }
}
