//! The MANIFEST: which tables and logs make up a database.
//!
//! Read here rather than by rusty-leveldb, for three reasons: the crate stops in silence at the
//! first bad record and then takes live tables for garbage; it cannot say which file is missing;
//! and it would start a compaction at open when a level looks full. [`Manifest::encode`] therefore
//! gives the crate a clean one-record MANIFEST that names exactly the live files, with size 0, so
//! that no level ever looks full.

use std::collections::BTreeMap;
use std::path::Path;

use super::damage::Damage;
use super::record_log::{self, Records};

/// The only key order Caffe databases use.
const BYTEWISE: &[u8] = b"leveldb.BytewiseComparator";

/// One live table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableMeta {
    pub(super) size: u64,
    smallest: Vec<u8>,
    largest: Vec<u8>,
}

/// The state after all edits.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Manifest {
    /// Live tables by (level, file number).
    pub(super) tables: BTreeMap<(u64, u64), TableMeta>,
    /// Logs from this number on hold records that are in no table yet; 0 means none.
    pub(super) log: u64,
    /// An older log still needed, 0 for none.
    pub(super) previous_log: u64,
    next_file: u64,
    last_sequence: u64,
}

impl Manifest {
    /// Decodes the whole content of the MANIFEST at `file`.
    pub(super) fn decode(file: &Path, bytes: &[u8]) -> Result<Self, Damage> {
        let mut manifest = Self::default();
        let mut records = Records::new(file, bytes);
        let mut record = Vec::new();
        let mut any = false;
        while let Some(at) = records.next_into(&mut record)? {
            any = true;
            manifest
                .apply(&mut Fields(&record))
                .map_err(|what| Damage::new(file, at as u64, what))?;
        }
        if !any || manifest.next_file == 0 {
            return Err(Damage::new(file, 0, "no complete database description"));
        }
        Ok(manifest)
    }

    fn apply(&mut self, fields: &mut Fields<'_>) -> Result<(), String> {
        while !fields.0.is_empty() {
            match fields.number()? {
                1 => {
                    let name = fields.bytes()?;
                    if name != BYTEWISE {
                        return Err(format!(
                            "keys are ordered by `{}`; only the default order is supported",
                            String::from_utf8_lossy(name)
                        ));
                    }
                }
                2 => self.log = fields.number()?,
                3 => self.next_file = fields.number()?,
                4 => self.last_sequence = fields.number()?,
                5 => {
                    // Where the last compaction of a level stopped: of no use to a reader.
                    fields.number()?;
                    fields.bytes()?;
                }
                6 => {
                    let table = (fields.number()?, fields.number()?);
                    self.tables.remove(&table);
                }
                7 => {
                    let table = (fields.number()?, fields.number()?);
                    let meta = TableMeta {
                        size: fields.number()?,
                        smallest: fields.bytes()?.to_vec(),
                        largest: fields.bytes()?.to_vec(),
                    };
                    self.tables.insert(table, meta);
                }
                9 => self.previous_log = fields.number()?,
                tag => return Err(format!("unknown field {tag} in the database description")),
            }
        }
        Ok(())
    }

    /// The same state as a MANIFEST of one record, every table with size 0.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut edit = Vec::new();
        put(&mut edit, 1);
        put_bytes(&mut edit, BYTEWISE);
        for (tag, value) in
            [(2, self.log), (9, self.previous_log), (3, self.next_file), (4, self.last_sequence)]
        {
            put(&mut edit, tag);
            put(&mut edit, value);
        }
        for ((level, number), table) in &self.tables {
            for value in [7, *level, *number, 0] {
                put(&mut edit, value);
            }
            put_bytes(&mut edit, &table.smallest);
            put_bytes(&mut edit, &table.largest);
        }
        let mut file = Vec::new();
        record_log::append(&mut file, &edit);
        file
    }
}

/// Reads varints and counted byte strings off the front of a slice.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn number(&mut self) -> Result<u64, String> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let Some((&byte, rest)) = self.0.split_first() else {
                return Err("a number is cut off".to_owned());
            };
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number is too long".to_owned())
    }

    fn bytes(&mut self) -> Result<&'a [u8], String> {
        let length = self.number()?;
        let split = usize::try_from(length).ok().and_then(|n| self.0.split_at_checked(n));
        let Some((now, rest)) = split else {
            return Err(format!("a key of {length} bytes is cut off"));
        };
        self.0 = rest;
        Ok(now)
    }
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes_to_the_same_state_without_sizes() {
        let mut manifest = Manifest { log: 300, next_file: 301, ..Manifest::default() };
        for number in 0..5_000 {
            let key = format!("{number:020}").into_bytes();
            let meta = TableMeta { size: 9, smallest: key.clone(), largest: key };
            manifest.tables.insert((number % 3, number), meta);
        }
        let bytes = manifest.encode();
        let back = Manifest::decode(Path::new("MANIFEST-000001"), &bytes).unwrap();
        for table in manifest.tables.values_mut() {
            table.size = 0;
        }
        assert_eq!(back, manifest);
    }

    #[test]
    fn an_empty_manifest_is_damage() {
        assert!(Manifest::decode(Path::new("MANIFEST-000001"), &[]).is_err());
    }
}
