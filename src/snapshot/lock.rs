//! One writer for a prefix: a job holds `.PREFIX.lock` while it trains, and clears away what a
//! killed one left half-written.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::find::split;
use crate::{Error, Result, bail};

/// So long a job that is just being killed may hold on.
const PATIENCE: Duration = Duration::from_secs(10);

/// Held while a job may write snapshots under a prefix.
#[derive(Debug)]
pub struct PrefixLock {
    path: PathBuf,
    /// Holds the lock.
    _file: File,
}

impl PrefixLock {
    /// Takes the lock of a prefix, whose folder exists. A file system without locks gives none.
    ///
    /// # Errors
    /// When another job holds it for longer than a dying one would, or the file cannot be made.
    pub fn take(prefix: &str) -> Result<Option<Self>> {
        let (folder, base) = split(prefix);
        let path = folder.join(format!(".{base}.lock"));
        let start = Instant::now();
        loop {
            let file = File::create(&path).map_err(|e| Error::file(&path, e))?;
            match file.try_lock() {
                // Its last holder may have removed the name between our two calls.
                Ok(()) if same_file(&file, &path) => {
                    remove_leftovers(&folder, &base);
                    return Ok(Some(PrefixLock { path, _file: file }));
                }
                Err(TryLockError::Error(_)) => return Ok(None),
                Ok(()) | Err(TryLockError::WouldBlock) => {}
            }
            if start.elapsed() > PATIENCE {
                bail!(
                    "another job writes snapshots under \"{prefix}\" ({} is locked); end it, or give \
                     this one a snapshot_prefix of its own",
                    path.display()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for PrefixLock {
    fn drop(&mut self) {
        // A name that stays does no harm.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn same_file(file: &File, path: &Path) -> bool {
    let (Ok(held), Ok(named)) = (file.metadata(), std::fs::metadata(path)) else { return false };
    (held.dev(), held.ino()) == (named.dev(), named.ino())
}

/// Temporary files of writers that were killed: `.PREFIX_iter_N.ending.PID.N.tmp`.
fn remove_leftovers(folder: &Path, base: &str) {
    let begin = format!(".{base}_iter_");
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(&begin)) else { continue };
        let number = rest.split('.').next().unwrap_or_default();
        let ours = rest.contains(".caffemodel")
            || rest.contains(".solverstate")
            || rest.contains(".resume");
        if ours && rest.ends_with(".tmp") && number.parse::<u64>().is_ok() {
            // What cannot be removed is in nobody's way.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clears_leftovers_of_its_prefix_only_and_leaves_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = folder.path().join("snap").to_string_lossy().into_owned();
        let names = [
            ".snap_iter_20.caffemodel.77.0.tmp",
            ".snap_iter_20.resume.77.1.tmp",
            ".snap_iter_x.caffemodel.77.0.tmp",
            ".other_iter_20.caffemodel.77.0.tmp",
            "snap_iter_20.caffemodel",
        ];
        for name in names {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let lock = PrefixLock::take(&prefix).unwrap();
        assert!(lock.is_some());
        drop(lock);
        let mut left: Vec<String> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [names[3], names[2], names[4]]);
    }
}
