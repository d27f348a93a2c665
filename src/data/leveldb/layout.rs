//! Which files of a directory are the database, checked before anything else touches them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::data::{Backend, DataError};

use super::damage::Damage;
use super::manifest::Manifest;
use super::table::check_footer;

/// The live files of one database.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) manifest: Manifest,
    /// (number, path, size) of every live table.
    pub(super) tables: Vec<(u64, PathBuf, u64)>,
    /// Mean size of the tables' blocks, more or less, bytes.
    pub(super) block_bytes: u64,
    /// (number, path) of the logs whose records are in no table yet.
    pub(super) logs: Vec<(u64, PathBuf)>,
}

impl Layout {
    /// Reads CURRENT and the MANIFEST of the database at `path` and checks that every live table
    /// is there with its recorded size and an intact footer, and that no needed log is missing.
    pub(super) fn read(path: &Path) -> Result<Self, DataError> {
        let manifest_path = path.join(current_manifest(path)?);
        let bytes = match fs::read(&manifest_path) {
            Ok(bytes) => bytes,
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                let file = path.join("CURRENT");
                let what = format!("names `{}`, which is missing", manifest_path.display());
                return Err(Damage::new(&file, 0, what).into());
            }
            Err(source) => return Err(DataError::io("read", &manifest_path, source)),
        };
        let manifest = Manifest::decode(&manifest_path, &bytes)?;
        let (mut bytes, mut blocks) = (0, 0);
        let tables = manifest
            .tables
            .iter()
            .map(|(&(_, number), table)| {
                let (file, held) = find_table(path, &manifest_path, number, table.size)?;
                (bytes, blocks) = (bytes + table.size, blocks + held);
                Ok((number, file, table.size))
            })
            .collect::<Result<_, DataError>>()?;
        let logs = find_logs(path, &manifest_path, &manifest)?;
        Ok(Self { manifest, tables, logs, block_bytes: bytes / blocks.max(1) })
    }
}

/// The name of the MANIFEST that CURRENT points to.
fn current_manifest(path: &Path) -> Result<String, DataError> {
    let foreign = |reason: &str| DataError::NotADatabase {
        kind: Backend::LevelDb,
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let file = path.join("CURRENT");
    let bytes = match fs::read(&file) {
        Ok(bytes) => bytes,
        Err(_) if !path.exists() => return Err(foreign("there is no such directory")),
        Err(_) if !path.is_dir() => return Err(foreign("it is not a directory")),
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            return Err(match path.join("data.mdb").exists() {
                true => DataError::OtherBackend { path: path.to_owned(), found: Backend::Lmdb },
                false => foreign("the file CURRENT is missing"),
            });
        }
        Err(source) => return Err(DataError::io("read", &file, source)),
    };
    let name = std::str::from_utf8(&bytes).ok().and_then(|text| text.strip_suffix('\n'));
    match name {
        Some(name) if numbered(name.strip_prefix("MANIFEST-").unwrap_or_default()).is_some() => {
            Ok(name.to_owned())
        }
        _ => Err(Damage::new(&file, 0, "does not name a MANIFEST").into()),
    }
}

/// The file of a table, and its number of blocks. Newer databases call tables `*.ldb`, those written before LevelDB 1.14 `*.sst`.
fn find_table(
    dir: &Path,
    manifest: &Path,
    number: u64,
    size: u64,
) -> Result<(PathBuf, u64), DataError> {
    for extension in ["ldb", "sst"] {
        let file = dir.join(format!("{number:06}.{extension}"));
        match fs::metadata(&file) {
            Ok(found) if found.len() == size => {
                let blocks = check_footer(&file, size)?;
                return Ok((file, blocks));
            }
            Ok(found) => {
                let what = format!("is {} bytes long; {size} were written", found.len());
                return Err(Damage::new(&file, found.len().min(size), what).into());
            }
            Err(source) if source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(DataError::io("read", &file, source)),
        }
    }
    let file = dir.join(format!("{number:06}.ldb"));
    Err(DataError::MissingFile { file, named_by: manifest.to_owned() })
}

fn find_logs(
    dir: &Path,
    manifest_path: &Path,
    manifest: &Manifest,
) -> Result<Vec<(u64, PathBuf)>, DataError> {
    let mut logs = Vec::new();
    let entries = fs::read_dir(dir).map_err(|source| DataError::io("list", dir, source))?;
    for entry in entries {
        let file = entry.map_err(|source| DataError::io("list", dir, source))?.path();
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(number) = name.strip_suffix(".log").and_then(numbered) else { continue };
        if number >= manifest.log || number == manifest.previous_log {
            logs.push((number, file));
        }
    }
    // LevelDB creates the log before it names it in the MANIFEST, so without it records are lost.
    for wanted in [manifest.log, manifest.previous_log] {
        if wanted != 0 && !logs.iter().any(|(number, _)| *number == wanted) {
            let file = dir.join(format!("{wanted:06}.log"));
            return Err(DataError::MissingFile { file, named_by: manifest_path.to_owned() });
        }
    }
    logs.sort();
    Ok(logs)
}

/// A file number written as LevelDB does: decimal digits only.
fn numbered(digits: &str) -> Option<u64> {
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}
