//! Tables (`*.ldb`, `*.sst`) read with every byte checked.
//!
//! rusty-leveldb reads a table in two ways only: the 48-byte footer, and whole blocks with their
//! 5-byte trailer (filter blocks would be a third, see [`NoFilter`]). So [`CheckedTable`] can
//! verify each read and report what the crate would step over in silence. The crate also trusts a
//! footer so far that a flipped bit in it ends in a panic or in a huge allocation; hence
//! [`check_footer`], before the crate sees the file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rusty_leveldb::env::RandomAccess;

use crate::data::DataError;

use super::damage::{Damage, FaultCell};
use super::manifest::Fields;
use super::record_log::masked_crc;

const FOOTER: usize = 48;
const HANDLES: usize = 40;
const MAGIC: [u8; 8] = 0xdb47_7524_8b80_fb57_u64.to_le_bytes();
/// Compression type and checksum behind each block.
const TRAILER: usize = 5;

/// Bytes of the index for one block: its key of some ten bytes, its place, and what separates entries.
const INDEX_ENTRY: u64 = 32;

/// Checks that the table `file` of `size` bytes ends in a footer whose two block handles lie
/// inside the file. Gives the table's number of blocks, as the length of its index lets guess.
pub(super) fn check_footer(file: &Path, size: u64) -> Result<u64, DataError> {
    let start = match size.checked_sub(FOOTER as u64) {
        Some(start) => start,
        None => return Err(Damage::new(file, size, "too short for a table").into()),
    };
    let mut footer = [0; FOOTER];
    File::open(file)
        .and_then(|table| table.read_exact_at(&mut footer, start))
        .map_err(|source| DataError::io("read", file, source))?;
    let (handles, magic) = footer.split_at(HANDLES);
    if magic != MAGIC {
        let what = "bad table magic: not a LevelDB table, or cut short";
        return Err(Damage::new(file, start + HANDLES as u64, what).into());
    }
    let mut fields = Fields(handles);
    let mut blocks = 1;
    for block in ["metaindex", "index"] {
        let (Ok(offset), Ok(length)) = (fields.number(), fields.number()) else {
            return Err(Damage::new(file, start, "bad table footer").into());
        };
        let end = offset.checked_add(length).and_then(|end| end.checked_add(TRAILER as u64));
        if length == 0 || end.is_none_or(|end| end > start) {
            let what = format!("the footer puts the {block} block outside the file");
            return Err(Damage::new(file, start, what).into());
        }
        blocks = length.div_ceil(INDEX_ENTRY);
    }
    Ok(blocks)
}

/// A table on disk whose footer has been checked.
pub(super) struct CheckedTable {
    pub(super) table: File,
    pub(super) file: PathBuf,
    pub(super) size: u64,
    pub(super) fault: FaultCell,
}

impl CheckedTable {
    fn read_checked(&self, offset: u64, into: &mut [u8]) -> Result<(), Damage> {
        let damage = |what: &str| Damage::new(&self.file, offset, what);
        self.table
            .read_exact_at(into, offset)
            .map_err(|source| damage(&format!("read failed ({source})")))?;
        if into.len() == FOOTER && offset + FOOTER as u64 == self.size {
            return Ok(());
        }
        let Some((block, stored)) = into.split_last_chunk::<4>() else {
            return Err(damage("block without a checksum"));
        };
        match masked_crc(crc32c::crc32c(block)) == u32::from_le_bytes(*stored) {
            true => Ok(()),
            false => Err(damage("block checksum mismatch")),
        }
    }
}

impl RandomAccess for CheckedTable {
    fn read_at(&self, offset: usize, into: &mut [u8]) -> rusty_leveldb::Result<usize> {
        match self.read_checked(offset as u64, into) {
            Ok(()) => Ok(into.len()),
            Err(damage) => Err(self.fault.report(damage)),
        }
    }
}

/// A filter policy that filters nothing.
///
/// Filter blocks have no checksum that the crate would hand to [`CheckedTable`], so they must not
/// be read. The crate takes whichever entry of the metaindex follows `filter.<name>` in order,
/// without comparing names; this one sorts behind all real ones.
pub(super) struct NoFilter;

impl rusty_leveldb::FilterPolicy for NoFilter {
    fn name(&self) -> &'static str {
        "zzzzzzzz.no-filter"
    }
    fn create_filter(&self, _: &[u8], _: &[usize]) -> Vec<u8> {
        Vec::new()
    }
    fn key_may_match(&self, _: &[u8], _: &[u8]) -> bool {
        true
    }
}
