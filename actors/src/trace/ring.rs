//! The last so many events of one thread.

use super::Kind;

/// Whether an event starts or ends something, nested or overlapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Start of a nested span.
    Begin,
    /// End of the innermost span.
    End,
    /// Start of something that overlaps, told apart by `name`.
    Open,
    /// Its end.
    Close,
}

/// One event, 24 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    /// Nanoseconds since the run's epoch.
    pub(super) at: u64,
    /// The thread's iteration then.
    pub(super) iter: u64,
    /// Layer name, or the id of an overlapping event.
    pub(super) name: u32,
    pub(super) kind: Kind,
    pub(super) phase: Phase,
}

/// Grows up to its capacity, then overwrites the oldest.
#[derive(Debug)]
pub(super) struct Ring {
    events: Vec<Event>,
    oldest: usize,
    dropped: u64,
    capacity: usize,
}

impl Ring {
    pub(super) fn new(capacity: usize) -> Self {
        Ring { events: Vec::with_capacity(capacity.min(1 << 13)), oldest: 0, dropped: 0, capacity }
    }

    pub(super) fn push(&mut self, event: Event) {
        if self.events.len() < self.capacity {
            self.events.push(event);
        } else {
            self.events[self.oldest] = event;
            self.oldest = (self.oldest + 1) % self.capacity;
            self.dropped += 1;
        }
    }

    /// Events that newer ones have overwritten.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// A copy, oldest first.
    pub(super) fn ordered(&self) -> Vec<Event> {
        let (newer, older) = self.events.split_at(self.oldest);
        older.iter().chain(newer).copied().collect()
    }
}
