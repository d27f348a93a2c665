//! `--log-records`: which records a replica trained on. A file for each replica, a line for each batch:
//! its number (its ticket), then the records' keys, in order, with what is not printable escaped.
//! Layers that make their batches up have no records and no keys.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::data::Batch;
use crate::{Error, Result};

/// The list of one replica.
pub struct RecordLog {
    path: PathBuf,
    file: BufWriter<File>,
}

impl RecordLog {
    /// Begins `records-replica-N.txt` in `folder`.
    ///
    /// # Errors
    /// A file that cannot be created.
    pub fn create(folder: &Path, replica: usize) -> Result<Self> {
        let path = folder.join(format!("records-replica-{replica}.txt"));
        let file = File::create(&path).map_err(|e| Error::file(&path, e))?;
        Ok(RecordLog { path, file: BufWriter::new(file) })
    }

    /// Adds a line.
    ///
    /// # Errors
    /// A full disk and the like.
    pub fn batch(&mut self, ticket: u64, batches: &[Batch]) -> Result<()> {
        let mut line = ticket.to_string();
        for key in batches.iter().flat_map(|batch| &batch.keys) {
            line.push(' ');
            line.extend(key.escape_ascii().map(|byte| match byte {
                b' ' => '_',
                byte => byte as char,
            }));
        }
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|e| Error::file(&self.path, e))
    }
}
