//! A database in the making: a hidden folder beside its final place, renamed when it is whole.
//!
//! A failure or a drop before [`Building::publish`] removes the folder, so that a database is there
//! whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{DataError, RecordProblem};

/// The keys put into a database: strictly ascending, and counted.
#[derive(Default)]
pub(super) struct Ascending {
    last: Vec<u8>,
    count: u64,
}

impl Ascending {
    /// Takes the next key of the database at `path`.
    ///
    /// # Errors
    /// [`DataError::Record`] when it does not follow the last one.
    pub(super) fn admit(&mut self, key: &[u8], path: &Path) -> Result<(), DataError> {
        if key <= self.last.as_slice() {
            return Err(DataError::Record {
                path: path.to_owned(),
                key: key.escape_ascii().to_string(),
                problem: RecordProblem::KeyOrder(self.last.escape_ascii().to_string()),
            });
        }
        self.last.clear();
        self.last.extend_from_slice(key);
        self.count += 1;
        Ok(())
    }

    /// Compares the number of keys with that of the records that read back.
    ///
    /// # Errors
    /// [`DataError::WriteLost`] when they differ.
    pub(super) fn expect(&self, read: u64, path: &Path) -> Result<(), DataError> {
        match read == self.count {
            true => Ok(()),
            false => Err(DataError::WriteLost { path: path.to_owned(), written: self.count, read }),
        }
    }
}

/// The folder in which a database is built.
pub(super) struct Building {
    target: PathBuf,
    folder: PathBuf,
}

impl Building {
    /// Makes a folder for what will appear at `target`.
    ///
    /// # Errors
    /// [`DataError::Exists`] when there is anything at `target`, [`DataError::Io`] when its parent
    /// cannot be written.
    pub(super) fn create(target: &Path) -> Result<Self, DataError> {
        refuse_existing(target)?;
        Ok(Self { target: target.to_owned(), folder: create_beside(target)? })
    }

    /// The final path.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Where to write.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes the files called `scratch`, brings the others to the disk, and gives the folder its
    /// final name.
    ///
    /// # Errors
    /// [`DataError::Exists`] when something has appeared there meanwhile, [`DataError::Io`].
    pub(super) fn publish(&self, scratch: &[&str]) -> Result<(), DataError> {
        let list = |source| DataError::io("list", &self.folder, source);
        for entry in fs::read_dir(&self.folder).map_err(list)? {
            let file = entry.map_err(list)?.path();
            let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            match scratch.contains(&name) {
                true => fs::remove_file(&file)
                    .map_err(|source| DataError::io("remove", &file, source))?,
                false => sync(&file)?,
            }
        }
        sync(&self.folder)?;
        refuse_existing(&self.target)?;
        fs::rename(&self.folder, &self.target)
            .map_err(|source| DataError::io("create", &self.target, source))?;
        let parent = self.target.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync(parent.unwrap_or(Path::new(".")))
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        // After `publish` the folder has its final name and this finds nothing.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn refuse_existing(target: &Path) -> Result<(), DataError> {
    match fs::symlink_metadata(target) {
        Ok(_) => Err(DataError::Exists { path: target.to_owned() }),
        Err(_) => Ok(()),
    }
}

/// Makes a hidden folder in the directory that `target` will be in, so that a rename suffices.
fn create_beside(target: &Path) -> Result<PathBuf, DataError> {
    let name = target.file_name().ok_or_else(|| DataError::Input {
        path: target.to_owned(),
        reason: "the output path has no last part to name the database".to_owned(),
    })?;
    let id = std::process::id();
    // A killed conversion leaves its folder, and process numbers come again.
    for attempt in 0..u16::MAX {
        let mut hidden = OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".partial-{id}-{attempt}"));
        let folder = target.with_file_name(hidden);
        match fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(DataError::io("create", &folder, source)),
        }
    }
    Err(DataError::Exists { path: target.to_owned() })
}

fn sync(path: &Path) -> Result<(), DataError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|source| DataError::io("flush", path, source))
}
