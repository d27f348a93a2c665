//! The world as rusty-leveldb sees it while it reads: one flat directory of live files.
//!
//! Live tables are read from disk through checks; the MANIFEST is a clean copy in memory; logs are
//! verified as they are opened. Whatever the crate writes (it always writes a new MANIFEST and a
//! new log at open, and turns old logs into tables) goes to memory, and its deletions and renames
//! change only this directory. It takes no lock and keeps no info log. So nothing on disk changes,
//! and any number of processes can read one database, also from a read-only mount.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusty_leveldb::env::{Env, FileLock, Logger, RandomAccess};
use rusty_leveldb::{Result, Status, StatusCode};

use super::damage::{Damage, FaultCell};
use super::layout::Layout;
use super::record_log::verify_log;
use super::table::CheckedTable;

/// What may be written to memory, bytes. A log becomes a table of its own size; Caffe's logs are
/// at most 256 MB.
const MEMORY_LIMIT: usize = 2 << 30;

type Bytes = Rc<RefCell<Vec<u8>>>;

#[derive(Clone)]
enum Node {
    Table { file: PathBuf, size: u64 },
    Log { file: PathBuf },
    Memory(Bytes),
}

/// The read-only environment of one database. Clones share everything.
#[derive(Clone)]
pub(super) struct ReadOnlyEnv {
    nodes: Rc<RefCell<BTreeMap<OsString, Node>>>,
    fault: FaultCell,
    used: Rc<Cell<usize>>,
}

impl ReadOnlyEnv {
    pub(super) fn new(layout: &Layout, fault: FaultCell) -> Self {
        let memory = |bytes: &[u8]| Node::Memory(Rc::new(RefCell::new(bytes.to_vec())));
        let mut nodes = BTreeMap::new();
        // The number of the MANIFEST means nothing to a reader.
        nodes.insert("CURRENT".into(), memory(b"MANIFEST-000001\n"));
        nodes.insert("MANIFEST-000001".into(), memory(&layout.manifest.encode()));
        for (number, file, size) in &layout.tables {
            let node = Node::Table { file: file.clone(), size: *size };
            nodes.insert(format!("{number:06}.ldb").into(), node);
        }
        for (number, file) in &layout.logs {
            nodes.insert(format!("{number:06}.log").into(), Node::Log { file: file.clone() });
        }
        Self { nodes: Rc::new(RefCell::new(nodes)), fault, used: Rc::default() }
    }

    fn name(path: &Path) -> &OsStr {
        path.file_name().unwrap_or_default()
    }

    fn node(&self, path: &Path) -> Result<Node> {
        self.nodes.borrow().get(Self::name(path)).cloned().ok_or_else(|| absent(path))
    }

    fn writer(&self, path: &Path, bytes: Bytes) -> Box<dyn Write> {
        let file = path.to_owned();
        Box::new(MemoryWriter { bytes, file, used: self.used.clone(), fault: self.fault.clone() })
    }

    fn unreadable(&self, file: &Path, source: &io::Error) -> Status {
        self.fault.report(Damage::new(file, 0, format!("read failed ({source})")))
    }
}

fn absent(path: &Path) -> Status {
    Status::new(StatusCode::NotFound, &format!("{}: no such file", path.display()))
}

impl Env for ReadOnlyEnv {
    fn open_sequential_file(&self, path: &Path) -> Result<Box<dyn Read>> {
        match self.node(path)? {
            Node::Memory(bytes) => Ok(Box::new(io::Cursor::new(bytes.borrow().clone()))),
            Node::Log { file } => {
                let bytes = fs::read(&file).map_err(|source| self.unreadable(&file, &source))?;
                verify_log(&file, &bytes).map_err(|damage| self.fault.report(damage))?;
                Ok(Box::new(io::Cursor::new(bytes)))
            }
            Node::Table { .. } => Err(Status::new(StatusCode::NotSupported, "a table as a stream")),
        }
    }

    fn open_random_access_file(&self, path: &Path) -> Result<Box<dyn RandomAccess>> {
        match self.node(path)? {
            Node::Memory(bytes) => Ok(Box::new(MemoryTable(bytes))),
            Node::Table { file, size } => {
                let table = File::open(&file).map_err(|source| self.unreadable(&file, &source))?;
                Ok(Box::new(CheckedTable { table, file, size, fault: self.fault.clone() }))
            }
            Node::Log { .. } => Err(Status::new(StatusCode::NotSupported, "a log as a table")),
        }
    }

    fn open_writable_file(&self, path: &Path) -> Result<Box<dyn Write>> {
        let bytes = Bytes::default();
        let node = Node::Memory(bytes.clone());
        self.nodes.borrow_mut().insert(Self::name(path).to_owned(), node);
        Ok(self.writer(path, bytes))
    }

    fn open_appendable_file(&self, path: &Path) -> Result<Box<dyn Write>> {
        match self.node(path) {
            Ok(Node::Memory(bytes)) => Ok(self.writer(path, bytes)),
            Ok(_) => Err(Status::new(StatusCode::NotSupported, "appending to a file on disk")),
            Err(_) => self.open_writable_file(path),
        }
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        Ok(self.nodes.borrow().contains_key(Self::name(path)))
    }

    fn children(&self, _: &Path) -> Result<Vec<PathBuf>> {
        Ok(self.nodes.borrow().keys().map(PathBuf::from).collect())
    }

    fn size_of(&self, path: &Path) -> Result<usize> {
        match self.node(path)? {
            Node::Memory(bytes) => Ok(bytes.borrow().len()),
            Node::Table { size, .. } => Ok(size as usize),
            Node::Log { file } => match fs::metadata(&file) {
                Ok(meta) => Ok(meta.len() as usize),
                Err(source) => Err(self.unreadable(&file, &source)),
            },
        }
    }

    fn delete(&self, path: &Path) -> Result<()> {
        if let Some(Node::Memory(bytes)) = self.nodes.borrow_mut().remove(Self::name(path)) {
            self.used.set(self.used.get().saturating_sub(bytes.borrow().len()));
        }
        Ok(())
    }

    fn mkdir(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn rmdir(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let mut nodes = self.nodes.borrow_mut();
        let node = nodes.remove(Self::name(from)).ok_or_else(|| absent(from))?;
        nodes.insert(Self::name(to).to_owned(), node);
        Ok(())
    }

    fn lock(&self, path: &Path) -> Result<FileLock> {
        Ok(FileLock { id: path.display().to_string() })
    }

    fn unlock(&self, _: FileLock) -> Result<()> {
        Ok(())
    }

    fn new_logger(&self, _: &Path) -> Result<Logger> {
        Ok(Logger::new(Box::new(io::sink())))
    }

    fn micros(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.as_micros() as u64
    }

    fn sleep_for(&self, micros: u32) {
        std::thread::sleep(Duration::from_micros(micros.into()));
    }
}

struct MemoryWriter {
    bytes: Bytes,
    file: PathBuf,
    used: Rc<Cell<usize>>,
    fault: FaultCell,
}

impl Write for MemoryWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut bytes = self.bytes.borrow_mut();
        let used = self.used.get() + data.len();
        if used > MEMORY_LIMIT {
            // The crate drops the tables it was merging when a merge fails, and says nothing: the
            // fault is what keeps records from vanishing.
            let what = "its logs and unmerged tables need more memory than a reader may use; \
                        open it once with LevelDB itself to merge them";
            self.fault.report(Damage::new(&self.file, bytes.len() as u64, what));
            return Err(io::Error::other(what));
        }
        self.used.set(used);
        bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A table the crate made in memory from a log; its bytes were checked as the log's.
struct MemoryTable(Bytes);

impl RandomAccess for MemoryTable {
    fn read_at(&self, offset: usize, into: &mut [u8]) -> Result<usize> {
        let bytes = self.0.borrow();
        let rest = bytes.get(offset..).unwrap_or_default();
        let n = rest.len().min(into.len());
        into[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}
