//! Where devices of a node lay loads whose ticket may not start yet (`ssp`).
//!
//! Devices take loads from the readers' channel in any order; one that must wait goes here, and
//! whoever of the node is free takes the lowest that may start. Nobody misses one: whoever lays a
//! load down looks again before it waits, and when more tickets may start every device is woken.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::messages::Load;
use crate::trace::Kind;

/// The loads of one node.
pub(crate) struct Deck<B> {
    open: AtomicU64,
    /// Tickets granted to the node whose loads no device has taken from the channel.
    unread: AtomicU64,
    held: Mutex<Vec<Load<B>>>,
}

impl<B> Deck<B> {
    /// Everything may start, or nothing until it is said.
    pub(crate) fn new(open: bool) -> Self {
        let open = AtomicU64::new(if open { u64::MAX } else { 0 });
        Deck { open, unread: AtomicU64::new(0), held: Mutex::new(Vec::new()) }
    }

    /// Batch tickets below `below` may start. The devices must be woken afterwards.
    pub(crate) fn open(&self, below: u64) {
        self.open.store(below, Ordering::Release);
    }

    /// Readers will make so many more loads.
    pub(crate) fn grant(&self, count: u64) {
        self.unread.fetch_add(count, Ordering::Relaxed);
    }

    /// What a device waits for that finds nothing to do.
    pub(crate) fn missing(&self) -> Kind {
        if !self.held.lock().is_empty() {
            Kind::WaitTurn
        } else if self.unread.load(Ordering::Relaxed) > 0 {
            Kind::WaitBatch
        } else {
            Kind::WaitTicket
        }
    }

    /// Takes note of a load that came; gives it back if it may start, else keeps it.
    pub(crate) fn pass(&self, load: Load<B>) -> Option<Load<B>> {
        let less = |unread: u64| Some(unread.saturating_sub(1));
        // Cannot fail: `less` always has an answer.
        self.unread.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok();
        if load.ticket < self.open.load(Ordering::Acquire) {
            return Some(load);
        }
        self.held.lock().push(load);
        None
    }

    /// The lowest load that lies here, if it may start.
    pub(crate) fn take(&self) -> Option<Load<B>> {
        let mut held = self.held.lock();
        let lowest = (0..held.len()).min_by_key(|place| held[*place].ticket)?;
        let may = held[lowest].ticket < self.open.load(Ordering::Acquire);
        may.then(|| held.swap_remove(lowest))
    }
}

/// What the communicator sees of it: it knows no batches.
pub(crate) trait Gate: Send + Sync {
    /// See [`Deck::open`].
    fn open(&self, below: u64);
    /// See [`Deck::grant`].
    fn grant(&self, count: u64);
}

impl<B: Send> Gate for Deck<B> {
    fn open(&self, below: u64) {
        Deck::open(self, below);
    }

    fn grant(&self, count: u64) {
        Deck::grant(self, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(ticket: u64) -> Load<()> {
        Load { reader: 0, ticket, batches: Vec::new() }
    }

    #[test]
    fn gives_the_lowest_that_may_start() {
        let deck = Deck::new(false);
        assert_eq!(deck.missing(), Kind::WaitTicket);
        deck.grant(3);
        assert_eq!(deck.missing(), Kind::WaitBatch);
        assert!(deck.pass(load(7)).is_none());
        assert_eq!(deck.missing(), Kind::WaitTurn);
        assert!(deck.pass(load(5)).is_none());
        assert!(deck.take().is_none());
        deck.open(6);
        assert_eq!(deck.pass(load(4)).map(|load| load.ticket), Some(4));
        assert_eq!(deck.take().map(|load| load.ticket), Some(5));
        assert!(deck.take().is_none());
        deck.open(8);
        assert_eq!(deck.take().map(|load| load.ticket), Some(7));
        assert_eq!(deck.missing(), Kind::WaitTicket);
        assert!(Deck::new(true).pass(load(u64::MAX - 1)).is_some());
    }
}
