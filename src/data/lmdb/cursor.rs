//! A cursor over the records of a [`Database`](super::Database) in key order: a path from the root
//! of the tree to a leaf.

use std::sync::Arc;

use bytes::Bytes;

use crate::data::{DataError, Record};

use super::file::PageFile;
use super::page::{Kind, Page, Value};

/// Reads records one after another; see [`Database::cursor`](super::Database::cursor).
pub struct Cursor {
    file: Arc<PageFile>,
    /// From the root down to a leaf, each with the node to take next.
    path: Vec<Level>,
    /// Whether `path` leads anywhere; otherwise the cursor is before the first record.
    placed: bool,
    /// The last key of the leaf before: keys ascend, and what does not is damage.
    last: Option<Bytes>,
}

struct Level {
    page: Page,
    next: usize,
}

/// How to go down from a page.
#[derive(Clone, Copy)]
enum Towards<'a> {
    First,
    Key(&'a [u8]),
}

impl Cursor {
    pub(super) fn new(file: Arc<PageFile>) -> Self {
        Self { file, path: Vec::new(), placed: false, last: None }
    }

    /// Goes before the first record whose key is not less than `key`.
    ///
    /// # Errors
    /// [`DataError::Corrupt`] when a page makes no sense, [`DataError::Io`].
    pub fn seek(&mut self, key: &[u8]) -> Result<(), DataError> {
        self.place(Towards::Key(key))
    }

    /// The next record, or `None` behind the last one.
    ///
    /// # Errors
    /// As [`seek`](Self::seek).
    pub fn next_record(&mut self) -> Result<Option<Record>, DataError> {
        let Some(key) = self.next_key()? else { return Ok(None) };
        let Some(leaf) = self.path.last() else { return Ok(None) };
        let value = leaf.page.value(leaf.next - 1);
        let value = match value.map_err(|fault| self.file.damaged(leaf.page.offset, fault))? {
            Value::Here(value) => value,
            Value::Overflow { page, size } => self.file.overflow(page, size)?,
        };
        Ok(Some(Record { key, value }))
    }

    /// The key of the next record, which is passed over, or `None` behind the last one.
    ///
    /// # Errors
    /// As [`seek`](Self::seek).
    pub fn next_key(&mut self) -> Result<Option<Bytes>, DataError> {
        if self.rest_of_leaf()? == 0 {
            return Ok(None);
        }
        let Some(leaf) = self.path.last_mut() else { return Ok(None) };
        leaf.next += 1;
        let key = leaf.page.key(leaf.next - 1);
        key.map(Some).map_err(|fault| self.file.damaged(leaf.page.offset, fault))
    }

    /// Passes over up to `n` records; gives how many there were. Values are not read.
    ///
    /// # Errors
    /// As [`seek`](Self::seek).
    pub fn skip(&mut self, n: u64) -> Result<u64, DataError> {
        let mut passed = 0;
        while passed < n {
            let here = (self.rest_of_leaf()? as u64).min(n - passed);
            match self.path.last_mut() {
                Some(leaf) if here > 0 => leaf.next += here as usize,
                _ => break,
            }
            passed += here;
        }
        Ok(passed)
    }

    /// Records left in the present leaf, going on to the next leaf where there are none; 0 at the
    /// end.
    fn rest_of_leaf(&mut self) -> Result<usize, DataError> {
        if !self.placed {
            self.place(Towards::First)?;
        }
        loop {
            let Some(leaf) = self.path.last() else { return Ok(0) };
            let rest = leaf.page.nodes().saturating_sub(leaf.next);
            if rest > 0 {
                return Ok(rest);
            }
            self.next_leaf()?;
        }
    }

    fn place(&mut self, towards: Towards<'_>) -> Result<(), DataError> {
        self.path.clear();
        self.placed = true;
        self.last = None;
        match self.file.meta.root {
            Some(root) => self.descend(root, towards),
            None => Ok(()),
        }
    }

    /// Leaves the finished leaf for the next one; at the end the path is empty.
    fn next_leaf(&mut self) -> Result<(), DataError> {
        self.path.pop();
        while let Some(branch) = self.path.last_mut() {
            if branch.next < branch.page.nodes() {
                let child = branch.page.child(branch.next);
                branch.next += 1;
                let child = child.map_err(|fault| self.file.damaged(branch.page.offset, fault))?;
                return self.descend(child, Towards::First);
            }
            self.path.pop();
        }
        Ok(())
    }

    /// Extends the path from page `number` down to a leaf.
    fn descend(&mut self, mut number: u64, towards: Towards<'_>) -> Result<(), DataError> {
        loop {
            let leaf = self.path.len() + 1 == self.file.meta.depth;
            let kind = if leaf { Kind::Leaf } else { Kind::Branch };
            let page = self.file.page(number, kind)?;
            if page.nodes() == 0 {
                return Err(self.file.damaged(page.offset, (12, "the page has no nodes")));
            }
            let at = |towards| position(&page, leaf, towards);
            let next = at(towards).map_err(|fault| self.file.damaged(page.offset, fault))?;
            if leaf {
                self.check_order(&page)?;
                self.path.push(Level { page, next });
                return Ok(());
            }
            number = page.child(next).map_err(|fault| self.file.damaged(page.offset, fault))?;
            self.path.push(Level { page, next: next + 1 });
        }
    }

    /// Keys that do not ascend: a damaged page, or one that the tree leads to twice.
    fn check_order(&mut self, leaf: &Page) -> Result<(), DataError> {
        for i in 0..leaf.nodes() {
            let key = leaf.key(i).map_err(|fault| self.file.damaged(leaf.offset, fault))?;
            if self.last.as_ref().is_some_and(|last| *last >= key) {
                let what = "the keys of this page are not in ascending order";
                return Err(self.file.damaged(leaf.offset, (0, what)));
            }
            self.last = Some(key);
        }
        Ok(())
    }
}

/// The node of `page` to take: in a leaf the first one whose key is not less than the one looked
/// for, in a branch the last one whose key is not greater.
fn position(page: &Page, leaf: bool, towards: Towards<'_>) -> Result<usize, super::page::Fault> {
    let Towards::Key(key) = towards else { return Ok(0) };
    // A branch's first key stands for everything below the second.
    let (mut low, mut high) = (usize::from(!leaf), page.nodes());
    while low < high {
        let middle = low.midpoint(high);
        let found = page.key(middle)?;
        let before = if leaf { &found[..] < key } else { &found[..] <= key };
        if before { low = middle + 1 } else { high = middle }
    }
    Ok(if leaf { low } else { low - 1 })
}
