//! Branch and leaf pages: sorted nodes in a page.
//!
//! Source of the layout: `struct MDB_page` and `MDB_node` and the comments beside them in LMDB's
//! `mdb.c` (data version 1). A page begins with its number u64, 2 bytes of padding, flags u16, and
//! lower u16 and upper u16 (for an overflow page: the number of its pages u32). Behind that header
//! stand the offsets u16 of the nodes, in key order, up to `lower`; the nodes lie from `upper` to
//! the end. A node is low u16, high u16, flags u16, key size u16, key, data. In a branch the child's
//! page number is low | high << 16 | flags << 32; in a leaf the data's size is low | high << 16, and
//! with flag 1 the data is the number u64 of the overflow page where the value begins.

use bytes::Bytes;

/// Bytes of a page's header.
pub(super) const HEADER: usize = 16;

const NODE_HEADER: usize = 8;

/// What is wrong with a page, and where in it.
pub(super) type Fault = (usize, &'static str);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Branch,
    Leaf,
    Overflow,
}

/// A page read from disk.
#[derive(Debug, Clone)]
pub(super) struct Page {
    bytes: Bytes,
    /// Byte of the file where it begins.
    pub(super) offset: u64,
}

/// Where a leaf's value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// In the leaf.
    Here(Bytes),
    /// So many bytes in overflow pages from this one on.
    Overflow { page: u64, size: usize },
}

impl Page {
    /// Takes the bytes of page `number`, which must be of `kind`.
    pub(super) fn new(bytes: Bytes, number: u64, offset: u64, kind: Kind) -> Result<Self, Fault> {
        let page = Self { bytes, offset };
        if page.number(0, 8) != number {
            return Err((0, "the page has another page's number"));
        }
        let found = match page.number(10, 2) & 0x2f {
            0x01 => Some(Kind::Branch),
            0x02 => Some(Kind::Leaf),
            0x04 => Some(Kind::Overflow),
            _ => None,
        };
        if found != Some(kind) {
            return Err((10, "the page is of another kind than the tree says"));
        }
        let (lower, upper) = (page.number(12, 2) as usize, page.number(14, 2) as usize);
        let sane = lower >= HEADER && lower % 2 == 0 && lower <= upper && upper <= page.bytes.len();
        match kind == Kind::Overflow || sane {
            true => Ok(page),
            false => Err((12, "the page's node offsets do not fit the page")),
        }
    }

    /// Number of nodes.
    pub(super) fn nodes(&self) -> usize {
        (self.number(12, 2) as usize - HEADER) / 2
    }

    /// Number of pages that an overflow page stands for.
    pub(super) fn pages(&self) -> u64 {
        self.number(12, 4)
    }

    /// The child of node `i` of a branch.
    pub(super) fn child(&self, i: usize) -> Result<u64, Fault> {
        let at = self.node(i)?;
        Ok(self.number(at, 2) | self.number(at + 2, 2) << 16 | self.number(at + 4, 2) << 32)
    }

    /// The key of node `i`; that of a branch's first node means nothing.
    pub(super) fn key(&self, i: usize) -> Result<Bytes, Fault> {
        let at = self.node(i)?;
        let size = self.number(at + 6, 2) as usize;
        self.slice(at + NODE_HEADER, size).ok_or((at + 6, "a key leaves the page"))
    }

    /// The value of node `i` of a leaf.
    pub(super) fn value(&self, i: usize) -> Result<Value, Fault> {
        let at = self.node(i)?;
        let size = (self.number(at, 2) | self.number(at + 2, 2) << 16) as usize;
        let data = at + NODE_HEADER + self.number(at + 6, 2) as usize;
        let leaves = (at, "a value leaves the page");
        match self.number(at + 4, 2) {
            0 => Ok(Value::Here(self.slice(data, size).ok_or(leaves)?)),
            1 => {
                let page = self.slice(data, 8).ok_or(leaves)?;
                Ok(Value::Overflow { page: number(&page), size })
            }
            _ => Err((at + 4, "a record is a database of its own; Caffe uses the unnamed one")),
        }
    }

    /// Where node `i` begins, with room for its header.
    fn node(&self, i: usize) -> Result<usize, Fault> {
        let slot = HEADER + 2 * i;
        let at = self.number(slot, 2) as usize;
        match at >= HEADER && at + NODE_HEADER <= self.bytes.len() {
            true => Ok(at),
            false => Err((slot, "a node leaves the page")),
        }
    }

    fn slice(&self, at: usize, len: usize) -> Option<Bytes> {
        (at + len <= self.bytes.len()).then(|| self.bytes.slice(at..at + len))
    }

    fn number(&self, at: usize, bytes: usize) -> u64 {
        self.bytes.get(at..at + bytes).map_or(0, number)
    }
}

/// A little-endian number of up to 8 bytes.
pub(super) fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |all, &byte| all << 8 | u64::from(byte))
}
