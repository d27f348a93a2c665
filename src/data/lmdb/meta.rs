//! The two meta pages at the start of `data.mdb`: which state of the tree is the last complete one.
//!
//! Source of the layout: `struct MDB_meta`, `MDB_db` and the comments beside them in LMDB's `mdb.c`
//! (data version 1): a 16-byte page header; then magic u32, version u32, address u64, map size u64;
//! two records of 48 bytes, for the list of free pages and for the main database, each {page size
//! (in the first one) u32, flags u16, depth u16, branch, leaf and overflow pages u64 each, entries
//! u64, root u64}; then last page used u64, transaction u64. All little-endian on x86 and ARM.

use super::page::{HEADER, number};

const MAGIC: u64 = 0xbeef_c0de;
const VERSION: u64 = 1;

/// Bytes of a meta page that mean something.
pub(super) const META_BYTES: usize = HEADER + 136;

/// Where the magic number is in files of 32-bit LMDB, whose page header is shorter.
const HEADER_32_BIT: usize = 12;

/// The page number of an empty tree's root.
const NO_PAGE: u64 = u64::MAX;

/// `MDB_REVERSEKEY`, `MDB_DUPSORT`, `MDB_INTEGERKEY` and all that follow: none of them Caffe's.
const FOREIGN_FLAGS: u64 = 0x7fff;

/// What a meta page says, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    /// Bytes of a page.
    pub(super) page_size: usize,
    /// Root of the tree; `None` when it is empty.
    pub(super) root: Option<u64>,
    /// Levels of the tree.
    pub(super) depth: usize,
    /// Number of records.
    pub(super) entries: u64,
    /// Number of the last page in use.
    pub(super) last_page: u64,
    /// The newer of two meta pages has the higher one.
    pub(super) transaction: u64,
}

/// Why a page is no meta page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotMeta {
    /// It is something else altogether.
    Foreign(&'static str),
    /// Its numbers make no sense.
    Damaged(&'static str),
}

impl Meta {
    /// Reads a meta page from its first [`META_BYTES`].
    pub(super) fn decode(page: &[u8; META_BYTES]) -> Result<Self, NotMeta> {
        use NotMeta::{Damaged, Foreign};
        let at = |offset, bytes| number(&page[HEADER + offset..][..bytes]);
        if at(0, 4) != MAGIC {
            return Err(match number(&page[HEADER_32_BIT..][..4]) {
                MAGIC => Foreign("it was written by a 32-bit LMDB; make it anew on a 64-bit one"),
                _ => Foreign("data.mdb does not begin like an LMDB file"),
            });
        }
        if at(4, 4) != VERSION {
            return Err(Foreign("data.mdb has another version of LMDB's format"));
        }
        let page_size = at(24, 4) as usize;
        if !page_size.is_power_of_two() || !(256..=1 << 16).contains(&page_size) {
            return Err(Damaged("the page size is no power of two between 256 and 65536"));
        }
        let main = 24 + 48;
        if at(main + 4, 2) & FOREIGN_FLAGS != 0 {
            return Err(Foreign(
                "its keys are ordered or repeated in a way that Caffe does not use",
            ));
        }
        let meta = Self {
            page_size,
            root: Some(at(main + 40, 8)).filter(|&root| root != NO_PAGE),
            depth: at(main + 6, 2) as usize,
            entries: at(main + 32, 8),
            last_page: at(120, 8),
            transaction: at(128, 8),
        };
        let (empty, depth) = (meta.root.is_none(), meta.depth);
        if (empty && (depth, meta.entries) != (0, 0)) || (!empty && !(1..=32).contains(&depth)) {
            return Err(Damaged("root, depth and number of records contradict each other"));
        }
        if meta.root.is_some_and(|root| root > meta.last_page) {
            return Err(Damaged("the root lies behind the last page"));
        }
        Ok(meta)
    }
}
