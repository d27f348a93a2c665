//! A cursor over the records of a [`Database`](super::Database) in key order.

use rusty_leveldb::{DBIterator, LdbIterator};

use crate::data::{DataError, Record};

use super::damage::FaultCell;

/// Where the iterator beneath stands, as seen from the next record to be given out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// On it.
    On,
    /// On the one before it, which was given out.
    Before,
    /// There is none. (The iterator would start over.)
    End,
}

/// Reads records one after another; see [`Database::cursor`](super::Database::cursor).
///
/// After an error every further call gives the same error.
pub struct Cursor {
    iter: DBIterator,
    stand: Stand,
    fault: FaultCell,
}

impl Cursor {
    pub(super) fn new(mut iter: DBIterator, fault: FaultCell) -> Self {
        // A fault in the first block surfaces in the first call that looks.
        iter.seek_to_first();
        Self { iter, stand: Stand::On, fault }
    }

    /// Goes back before the first record.
    ///
    /// # Errors
    /// [`DataError::Corrupt`] when a block does not check out.
    pub fn rewind(&mut self) -> Result<(), DataError> {
        self.iter.seek_to_first();
        self.stand = Stand::On;
        Ok(self.fault.check()?)
    }

    /// Goes before the first record whose key is not less than `key`.
    ///
    /// # Errors
    /// As [`rewind`](Self::rewind).
    pub fn seek(&mut self, key: &[u8]) -> Result<(), DataError> {
        self.iter.seek(key);
        self.stand = Stand::On;
        Ok(self.fault.check()?)
    }

    /// The next record, or `None` behind the last one.
    ///
    /// # Errors
    /// As [`rewind`](Self::rewind).
    pub fn next_record(&mut self) -> Result<Option<Record>, DataError> {
        if !self.step()? {
            return Ok(None);
        }
        Ok(self.iter.current().map(|(key, value)| Record { key, value }))
    }

    /// Passes over up to `n` records; gives how many there were.
    ///
    /// # Errors
    /// As [`rewind`](Self::rewind).
    pub fn skip(&mut self, n: u64) -> Result<u64, DataError> {
        for passed in 0..n {
            if !self.step()? {
                return Ok(passed);
            }
        }
        Ok(n)
    }

    /// Puts the iterator on the next record and counts it as given out; false at the end.
    fn step(&mut self) -> Result<bool, DataError> {
        match self.stand {
            Stand::On => {}
            Stand::Before => {
                self.iter.advance();
            }
            Stand::End => return Ok(false),
        }
        // Before believing in an end or in the next record: a bad block is stepped over in silence.
        self.fault.check()?;
        self.stand = if self.iter.valid() { Stand::Before } else { Stand::End };
        Ok(self.stand == Stand::Before)
    }
}
