//! Which records make up which batch.
//!
//! The job's q-th batch (*ticket* q) of b records covers the positions P = q·b … q·b + b − 1, and
//! position P is record `order(P div D)[P mod D]` of the D in the database. Nothing else decides
//! what a batch holds: so replicas and nodes share out an epoch without gap or overlap by sharing
//! out tickets, and a run resumes where it stood from its ticket alone.

use std::path::PathBuf;

use bytes::Bytes;

use super::DataError;
use super::leveldb::{Cursor, Database, Record};

/// The order of records within an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Order {
    /// As in the database, every epoch alike: Caffe's.
    #[default]
    Sequential,
}

impl Order {
    /// The index of the record at `position` in a database of `count` records.
    pub fn record(self, position: u64, count: u64) -> u64 {
        match self {
            Self::Sequential => position % count.max(1),
        }
    }
}

/// The positions of one ticket.
pub fn positions(ticket: u64, batch_size: u64) -> std::ops::Range<u64> {
    ticket * batch_size..(ticket + 1) * batch_size
}

/// A key is kept for each so many records, to come back to.
const STRIDE: u64 = 512;

/// Serves records by position, by passing over those in between.
///
/// The number of records is not asked for at open (LevelDB would have to read them all); it is
/// known once the end has been reached. Ground covered before is not read again: the cursor jumps
/// between remembered keys, so going back, or far ahead in a later epoch, costs at most a few
/// hundred records.
pub struct RecordCursor {
    path: PathBuf,
    cursor: Cursor,
    order: Order,
    /// Index of the record the cursor gives next.
    at: u64,
    /// The key of record i·STRIDE at i.
    marks: Vec<Bytes>,
    count: Option<u64>,
}

impl RecordCursor {
    /// Starts before the first record of `database`.
    ///
    /// # Errors
    /// Those of [`Database::cursor`].
    pub fn new(database: &mut Database, order: Order) -> Result<Self, DataError> {
        let path = database.path().to_owned();
        let cursor = database.cursor()?;
        Ok(Self { path, cursor, order, at: 0, marks: Vec::new(), count: None })
    }

    /// The number of records, once the end has been reached.
    pub fn count(&self) -> Option<u64> {
        self.count
    }

    /// The record at `position` (which may exceed the number of records: epochs follow each other)
    /// and its index in the database.
    ///
    /// # Errors
    /// [`DataError::Empty`], and those of [`Cursor::next_record`].
    pub fn read(&mut self, position: u64) -> Result<(u64, Record), DataError> {
        // Until the end is known, positions up to it are those of the first epoch.
        let first = match self.count {
            Some(count) => self.order.record(position, count),
            None => position,
        };
        if let Some(found) = self.read_index(first)? {
            return Ok(found);
        }
        let count = self.count.unwrap_or(0);
        match self.read_index(self.order.record(position, count))? {
            Some(found) => Ok(found),
            None => Err(DataError::Empty { path: self.path.clone() }),
        }
    }

    fn read_index(&mut self, index: u64) -> Result<Option<(u64, Record)>, DataError> {
        self.jump_towards(index)?;
        while self.at < index && self.count != Some(self.at) {
            if self.at == self.next_mark() {
                self.next()?;
                continue;
            }
            let wanted = index.min(self.next_mark()) - self.at;
            let passed = self.cursor.skip(wanted)?;
            self.at += passed;
            if passed < wanted {
                self.count = Some(self.at);
            }
        }
        match self.at == index {
            true => Ok(self.next()?.map(|record| (index, record))),
            false => Ok(None),
        }
    }

    /// Goes to the last remembered key at or before `index`, unless the cursor is nearer.
    fn jump_towards(&mut self, index: u64) -> Result<(), DataError> {
        let Some(last) = (self.marks.len() as u64).checked_sub(1) else { return Ok(()) };
        let mark = (index / STRIDE).min(last);
        let ahead = mark * STRIDE > self.at;
        if ahead || index < self.at {
            self.cursor.seek(&self.marks[mark as usize])?;
            self.at = mark * STRIDE;
        }
        Ok(())
    }

    fn next_mark(&self) -> u64 {
        self.marks.len() as u64 * STRIDE
    }

    fn next(&mut self) -> Result<Option<Record>, DataError> {
        let record = self.cursor.next_record()?;
        match &record {
            Some(record) => {
                if self.at == self.next_mark() {
                    // A copy, since the record's memory is that of its whole block.
                    self.marks.push(Bytes::copy_from_slice(&record.key));
                }
                self.at += 1;
            }
            None => self.count = Some(self.at),
        }
        Ok(record)
    }
}
