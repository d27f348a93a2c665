//! One piece of device memory that a forecast said is enough, and the places in it.

use crate::device::cuda::pool::Pool;

/// Memory from the driver, shared out here.
pub(super) struct Block {
    at: u64,
    pool: Pool,
}

impl Block {
    /// So many bytes from `at` on.
    pub(super) fn new(at: u64, bytes: u64) -> Block {
        Block { at, pool: Pool::new(bytes) }
    }

    /// Where it begins.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Bytes that are nobody's.
    pub(super) fn left(&self) -> u64 {
        self.pool.left()
    }

    /// An address of so many bytes; `None` where there is no room.
    pub(super) fn take(&mut self, bytes: usize) -> Option<u64> {
        self.pool.take(bytes).map(|place| self.at + place)
    }

    /// Takes an address back; whether it was this block's. Work that was asked for before may still
    /// use it: whoever gets the place next asks later, on the same stream.
    pub(super) fn give(&mut self, at: u64) -> bool {
        at.checked_sub(self.at).is_some_and(|place| self.pool.give(place))
    }
}
