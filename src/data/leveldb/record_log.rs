//! The record format that LevelDB's MANIFEST and write-ahead logs share, read without mercy.
//!
//! A file is a run of 32 KiB blocks; a fragment is `crc32c(masked) u32 | length u16 | kind u8 |
//! bytes` and never crosses a block; a record is one `FULL` fragment or `FIRST MIDDLE* LAST`.
//!
//! LevelDB itself forgives a damaged tail, since it may be what a crash left of an unfinished
//! write. A reader of training data must not: a forgiven tail is missing records. Everything that
//! does not check out is [`Damage`] here.

use std::path::Path;

use super::damage::Damage;

const BLOCK: usize = 32 * 1024;
const HEADER: usize = 7;

const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// The checksum LevelDB stores: crc32c, rotated and offset so that a checksum of data which
/// itself holds checksums stays useful.
pub(crate) fn masked_crc(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A piece of a record: its offset in the file, its kind, its bytes.
type Fragment<'a> = (usize, u8, &'a [u8]);

/// Walks over the records of one file held in memory.
pub(super) struct Records<'a> {
    file: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    /// `file` is only named in messages; `bytes` is its whole content.
    pub(super) fn new(file: &'a Path, bytes: &'a [u8]) -> Self {
        Self { file, bytes, at: 0 }
    }

    /// Puts the next record into `out` and returns the offset it starts at, or `None` at the end.
    pub(super) fn next_into(&mut self, out: &mut Vec<u8>) -> Result<Option<usize>, Damage> {
        out.clear();
        let mut start = None;
        loop {
            let Some((at, kind, payload)) = self.fragment()? else {
                return match start {
                    None => Ok(None),
                    Some(at) => Err(self.damage(at, "the file ends inside a record")),
                };
            };
            match (kind, start) {
                (FULL | FIRST, None) => start = Some(at),
                (MIDDLE | LAST, Some(_)) => {}
                _ => return Err(self.damage(at, "record fragments are out of order")),
            }
            out.extend_from_slice(payload);
            if matches!(kind, FULL | LAST) {
                // rusty-leveldb takes an empty record for the end of the file.
                return match out.is_empty() {
                    true => Err(self.damage(at, "empty record")),
                    false => Ok(start),
                };
            }
        }
    }

    fn fragment(&mut self) -> Result<Option<Fragment<'a>>, Damage> {
        let left = BLOCK - self.at % BLOCK;
        if left < HEADER {
            self.at = (self.at + left).min(self.bytes.len());
        }
        let at = self.at;
        let rest = self.bytes.get(at..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let Some((header, body)) = rest.split_at_checked(HEADER) else {
            return Err(self.damage(at, "the file ends inside a record header"));
        };
        let stored = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
        let Some(payload) = body.get(..length) else {
            return Err(self.damage(at, "the file ends inside a record"));
        };
        if masked_crc(crc32c::crc32c(&rest[6..HEADER + length])) != stored {
            return Err(self.damage(at, "record checksum mismatch"));
        }
        self.at += HEADER + length;
        Ok(Some((at, header[6], payload)))
    }

    fn damage(&self, at: usize, what: &str) -> Damage {
        Damage::new(self.file, at as u64, what)
    }
}

/// Checks every record of a write-ahead log.
pub(super) fn verify_log(file: &Path, bytes: &[u8]) -> Result<(), Damage> {
    // A write batch opens with its sequence number (8 bytes) and its count (4).
    const BATCH_HEADER: usize = 12;
    let mut records = Records::new(file, bytes);
    let mut record = Vec::new();
    while let Some(at) = records.next_into(&mut record)? {
        if record.len() < BATCH_HEADER {
            return Err(Damage::new(file, at as u64, "write batch without a header"));
        }
    }
    Ok(())
}

/// Appends one record to `out`, which holds a whole file from its start.
pub(super) fn append(out: &mut Vec<u8>, mut record: &[u8]) {
    let mut first = true;
    loop {
        let left = BLOCK - out.len() % BLOCK;
        if left < HEADER {
            out.resize(out.len() + left, 0);
            continue;
        }
        let (now, later) = record.split_at(record.len().min(left - HEADER));
        let kind = match (first, later.is_empty()) {
            (true, true) => FULL,
            (true, false) => FIRST,
            (false, false) => MIDDLE,
            (false, true) => LAST,
        };
        let crc = crc32c::crc32c_append(crc32c::crc32c(&[kind]), now);
        out.extend_from_slice(&masked_crc(crc).to_le_bytes());
        // `now` is shorter than a block, so its length fits.
        out.extend_from_slice(&(now.len() as u16).to_le_bytes());
        out.push(kind);
        out.extend_from_slice(now);
        if later.is_empty() {
            return;
        }
        record = later;
        first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(sizes: &[usize]) -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut bytes = Vec::new();
        let records: Vec<Vec<u8>> =
            sizes.iter().enumerate().map(|(i, &n)| vec![i as u8 + 1; n]).collect();
        for record in &records {
            append(&mut bytes, record);
        }
        (bytes, records)
    }

    fn read(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Damage> {
        let mut all = Vec::new();
        let mut records = Records::new(Path::new("MANIFEST-000001"), bytes);
        let mut record = Vec::new();
        while records.next_into(&mut record)?.is_some() {
            all.push(record.clone());
        }
        Ok(all)
    }

    #[test]
    fn records_of_every_length_around_a_block_survive() {
        for first in BLOCK - 3 * HEADER..BLOCK + HEADER {
            let (bytes, records) = file(&[first, 5, 3 * BLOCK, 1]);
            assert_eq!(read(&bytes).unwrap(), records, "first record of {first} bytes");
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_inside_a_record_is_seen() {
        let (bytes, records) = file(&[20, 40]);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad).is_err(), "bit {bit} flipped unseen");
        }
        for end in 0..bytes.len() {
            match read(&bytes[..end]) {
                Err(_) => {}
                // A cut between two records is a shorter file that is whole in itself.
                Ok(got) => {
                    assert!(end == 0 || end == HEADER + 20, "cut at {end} unseen");
                    assert_eq!(got, records[..got.len()]);
                }
            }
        }
    }

    #[test]
    fn a_tail_of_zeros_is_damage() {
        let (mut bytes, _) = file(&[20]);
        bytes.resize(200, 0);
        let damage = read(&bytes).unwrap_err();
        assert_eq!(damage.offset, 27);
    }
}
