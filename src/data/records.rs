//! The records of a database by position, in a given order.

use std::ops::Range;
use std::path::PathBuf;

use bytes::Bytes;

use super::order::Order;
use super::{Cursor, DataError, Database, Record};

/// In sequential order a key is kept for each so many records, to come back to.
const STRIDE: u64 = 512;

/// So many records are passed over sooner than a key is looked for.
const NEAR: u64 = 8;

/// Serves records by position, by passing over those in between.
///
/// In sequential order the number of records is not asked for at open (LevelDB would have to read
/// them all); it is known once the end has been reached. Ground covered before is not read again:
/// the cursor jumps between remembered keys, so going back, or far ahead in a later epoch, costs at
/// most a few hundred records.
///
/// A shuffled order needs the number and every key at once: they are collected at open, by reading
/// the database through (of an LMDB, its keys only), and take some 8 bytes a record beside the key.
pub struct RecordCursor {
    path: PathBuf,
    cursor: Cursor,
    order: Order,
    /// Index of the record the cursor gives next.
    at: u64,
    /// The key of record i·stride at i.
    marks: Keys,
    stride: u64,
    count: Option<u64>,
    /// What the database itself says about `count`.
    promised: Option<u64>,
}

impl RecordCursor {
    /// Starts before the first record of `database`.
    ///
    /// # Errors
    /// Those of [`Database::cursor`]; for a shuffled order also those of reading the keys.
    pub fn new(database: &mut Database, order: Order) -> Result<Self, DataError> {
        let count = database.count();
        let mut records = Self {
            path: database.path().to_owned(),
            cursor: database.cursor()?,
            order,
            at: 0,
            marks: Keys::default(),
            stride: if order.is_shuffled() { 1 } else { STRIDE },
            count,
            promised: count,
        };
        if order.is_shuffled() {
            while records.pass_mark()? {}
        }
        Ok(records)
    }

    /// The number of records, once it is known: at open for an LMDB or a shuffled order, else when
    /// the end has been reached.
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

    /// The records at `positions`, in this order, each with its index. They are read in the order
    /// in which they lie in the database.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_all(&mut self, positions: Range<u64>) -> Result<Vec<(u64, Record)>, DataError> {
        let mut found = Vec::with_capacity((positions.end - positions.start) as usize);
        self.visit(positions, |position, index, record| {
            found.push((position, (index, record)));
            Ok(())
        })?;
        found.sort_unstable_by_key(|(position, _)| *position);
        Ok(found.into_iter().map(|(_, record)| record).collect())
    }

    /// Hands the records at `positions` to `take`, each with its position and its index, in the order
    /// in which they lie in the database: one after the other, so that not all of a batch's blocks
    /// are in memory at once.
    ///
    /// # Errors
    /// As [`read`](Self::read), and those of `take`.
    pub fn visit(
        &mut self,
        positions: Range<u64>,
        mut take: impl FnMut(u64, u64, Record) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let mut one = |records: &mut Self, position| {
            let (index, record) = records.read(position)?;
            take(position, index, record)
        };
        match self.count {
            Some(count) if self.order.is_shuffled() => {
                let order = self.order;
                let sorted = positions.map(|position| (order.record(position, count), position));
                let mut sorted: Vec<(u64, u64)> = sorted.collect();
                sorted.sort_unstable();
                sorted.into_iter().try_for_each(|(_, position)| one(self, position))
            }
            _ => positions.into_iter().try_for_each(|position| one(self, position)),
        }
    }

    fn read_index(&mut self, index: u64) -> Result<Option<(u64, Record)>, DataError> {
        self.jump_towards(index)?;
        while self.at < index && self.count != Some(self.at) {
            if self.at == self.next_mark() {
                self.pass_mark()?;
                continue;
            }
            let wanted = index.min(self.next_mark()) - self.at;
            let passed = self.cursor.skip(wanted)?;
            self.at += passed;
            if passed < wanted {
                self.end()?;
            }
        }
        match self.at == index {
            true => Ok(self.next()?.map(|record| (index, record))),
            false => Ok(None),
        }
    }

    /// Goes to the last remembered key at or before `index`, unless the cursor is nearer.
    fn jump_towards(&mut self, index: u64) -> Result<(), DataError> {
        if (self.at..=self.at + NEAR).contains(&index) {
            return Ok(());
        }
        let Some(last) = self.marks.len().checked_sub(1) else { return Ok(()) };
        let mark = (index / self.stride).min(last);
        let ahead = mark * self.stride > self.at;
        if ahead || index < self.at {
            self.cursor.seek(self.marks.get(mark))?;
            self.at = mark * self.stride;
        }
        Ok(())
    }

    fn next_mark(&self) -> u64 {
        self.marks.len() * self.stride
    }

    /// Remembers the key of the next record and passes over it; false at the end.
    fn pass_mark(&mut self) -> Result<bool, DataError> {
        match self.cursor.next_key()? {
            Some(key) => {
                self.marks.push(&key);
                self.at += 1;
                Ok(true)
            }
            None => self.end().map(|()| false),
        }
    }

    fn next(&mut self) -> Result<Option<Record>, DataError> {
        let record = self.cursor.next_record()?;
        match &record {
            Some(record) => {
                if self.at == self.next_mark() {
                    self.marks.push(&record.key);
                }
                self.at += 1;
            }
            None => self.end()?,
        }
        Ok(record)
    }

    /// There is no record `at`.
    fn end(&mut self) -> Result<(), DataError> {
        self.count = Some(self.at);
        match self.promised {
            Some(promised) if promised != self.at => Err(DataError::Corrupt {
                file: self.path.clone(),
                offset: 0,
                what: format!("{promised} records are promised, but {} are there", self.at),
            }),
            _ => Ok(()),
        }
    }
}

/// Many keys in one piece of memory.
#[derive(Default)]
struct Keys {
    bytes: Vec<u8>,
    /// Where each key ends.
    ends: Vec<u64>,
}

impl Keys {
    fn len(&self) -> u64 {
        self.ends.len() as u64
    }

    fn push(&mut self, key: &Bytes) {
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len() as u64);
    }

    fn get(&self, i: u64) -> &[u8] {
        let i = i as usize;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.bytes[start as usize..self.ends[i] as usize]
    }
}
