//! Writing a file so that it is there whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use super::error::FileError;

/// Writes `bytes` under a temporary name in the folder of `path`, syncs them to disk, and renames
/// the file to `path`; then syncs the folder, so that the name lasts too.
///
/// # Errors
/// Whatever the system refuses. Then `path` is as it was and the temporary file is removed.
pub fn write_file_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<(), FileError> {
    Pending::holding(path, bytes)?.finish()
}

fn writing(path: &Path, source: io::Error) -> FileError {
    FileError::Write { path: path.to_owned(), source }
}

/// A file in the making, for content that another library writes by name. Dropped unfinished, it
/// leaves nothing behind.
///
/// ```
/// use caffe_proto::files::Pending;
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("x.h5");
/// let pending = Pending::create(&path)?;
/// std::fs::write(pending.temporary(), "whatever")?;
/// assert!(!path.exists());
/// pending.finish()?;
/// assert!(path.exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Pending {
    path: PathBuf,
    temporary: Temporary,
}

impl Pending {
    /// An empty file under a temporary name in the folder of `path`.
    ///
    /// # Errors
    /// A folder that is missing or cannot be written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = path.as_ref();
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))
            .map_err(|source| writing(path, source))?;
        let temporary = create_beside(folder_of(path), &name.to_string_lossy())
            .map_err(|source| writing(path, source))?;
        Ok(Pending { path: path.to_owned(), temporary })
    }

    /// A file that holds `bytes`, on the disk but without its name: of files that belong together each
    /// can be made so before the first one appears.
    ///
    /// # Errors
    /// Whatever the system refuses; nothing is left then.
    pub fn holding(path: impl AsRef<Path>, bytes: &[u8]) -> Result<Self, FileError> {
        let pending = Self::create(path)?;
        fs::write(pending.temporary(), bytes).map_err(|source| writing(&pending.path, source))?;
        pending.sync()?;
        Ok(pending)
    }

    /// Brings the content to the disk.
    ///
    /// # Errors
    /// Whatever the system refuses.
    pub fn sync(&self) -> Result<(), FileError> {
        let file = OpenOptions::new().write(true).open(&self.temporary.path);
        file.and_then(|file| file.sync_all()).map_err(|source| writing(&self.path, source))
    }

    /// The temporary name; whoever writes the content may truncate the file, but not replace it.
    pub fn temporary(&self) -> &Path {
        &self.temporary.path
    }

    /// Syncs the content to disk and gives the file its name.
    ///
    /// # Errors
    /// Whatever the system refuses; the temporary file is then removed.
    pub fn finish(self) -> Result<(), FileError> {
        self.sync()?;
        let Pending { path, temporary } = self;
        fs::rename(&temporary.path, &path).map_err(|source| writing(&path, source))?;
        temporary.keep();
        // Some network file systems cannot sync folders; the file itself is safe by now.
        let _ = File::open(folder_of(&path)).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A new file `.name.PID.N.tmp`, where N makes the name unique.
fn create_beside(folder: &Path, name: &str) -> io::Result<Temporary> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!(".{name}.{}.{n}.tmp", process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(_) => return Ok(Temporary { path, kept: false }),
            // Left by a killed process that had our number.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Removes its file unless that was renamed.
struct Temporary {
    path: PathBuf,
    kept: bool,
}

impl Temporary {
    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}
