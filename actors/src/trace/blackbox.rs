//! The black box of a rank: the last events of each of its threads in a memory-mapped file, which
//! outlives the process however it dies, SIGKILL included.
//!
//! The file is a header and a ring for each lane, all in little-endian 64-bit words, written with
//! plain stores: the kernel has them the moment they are made. An event that was being written when
//! the process died may be torn; the others are whole. At a good end the file is removed.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::ring::{Event, Phase};
use super::{Kind, NO_ITER};

const MAGIC: u64 = u64::from_le_bytes(*b"caffebx1");
/// Lanes in a file; further ones are not recorded.
const LANES: usize = 64;
/// Events of a lane.
const EVENTS: usize = 128;
/// Words of a name, of the file's header, of a lane's header, of an event, of a lane.
const NAME: usize = 8;
const HEADER: usize = 8 + NAME;
const LANE_HEADER: usize = 1 + NAME;
const EVENT: usize = 3;
const LANE: usize = LANE_HEADER + EVENTS * EVENT;
const WORDS: usize = HEADER + LANES * LANE;
/// Files of jobs that died longer ago are cleared away.
const OLD: Duration = Duration::from_secs(7 * 24 * 3600);
const ENDING: &str = "blackbox";

/// A rank's file while it runs.
#[derive(Debug)]
pub(crate) struct BlackBox {
    words: *mut AtomicU64,
    path: PathBuf,
    lanes: AtomicUsize,
}

// SAFETY: the mapping is reached through atomics only, and lives until the last owner drops it.
unsafe impl Send for BlackBox {}
// SAFETY: as above.
unsafe impl Sync for BlackBox {}

impl BlackBox {
    /// Makes `DIR/JOB-rank-N.blackbox`.
    ///
    /// # Errors
    /// What the file system says, with the path.
    pub(crate) fn create(dir: &Path, rank: usize, host: &str) -> Result<Arc<Self>, String> {
        let path = dir.join(format!("{}-rank-{rank}.{ENDING}", job_name()));
        let explain =
            |e: std::io::Error| format!("cannot make the black box {}: {e}", path.display());
        std::fs::create_dir_all(dir).map_err(explain)?;
        clear_old(dir);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(explain)?;
        file.set_len((WORDS * size_of::<u64>()) as u64).map_err(explain)?;
        // SAFETY: a new shared mapping of a file of this very length; the kernel chooses where.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                WORDS * size_of::<u64>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(explain(std::io::Error::last_os_error()));
        }
        let black_box =
            BlackBox { words: address.cast(), path: path.clone(), lanes: AtomicUsize::new(0) };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let facts = [MAGIC, rank as u64, u64::from(std::process::id()), since.as_nanos() as u64];
        for (at, fact) in facts.into_iter().enumerate() {
            black_box.put(at, fact);
        }
        black_box.put_name(8, host);
        Ok(Arc::new(black_box))
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All has ended well: nobody will want to read it.
    pub(crate) fn discard(&self) {
        // What stays is cleared away in a week.
        let _ = std::fs::remove_file(&self.path);
    }

    /// A ring for a new lane, while there are some.
    pub(super) fn lane(self: &Arc<Self>, title: &str) -> Option<Slot> {
        let index = self.lanes.fetch_add(1, Ordering::Relaxed);
        if index >= LANES {
            return None;
        }
        let base = HEADER + index * LANE;
        self.put_name(base + 1, title);
        Some(Slot { file: self.clone(), base, count: AtomicU64::new(0) })
    }

    fn put(&self, at: usize, word: u64) {
        debug_assert!(at < WORDS);
        // SAFETY: inside the mapping: every index is made of the constants above.
        unsafe { (*self.words.add(at)).store(word.to_le(), Ordering::Relaxed) };
    }

    fn put_name(&self, at: usize, name: &str) {
        let mut bytes = [0; NAME * 8];
        bytes.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
        for (nth, word) in bytes.as_chunks::<8>().0.iter().enumerate() {
            self.put(at + nth, u64::from_le_bytes(*word));
        }
    }
}

impl Drop for BlackBox {
    fn drop(&mut self) {
        // SAFETY: this mapping, of this length; no lane is left that could reach it.
        unsafe { libc::munmap(self.words.cast(), WORDS * size_of::<u64>()) };
    }
}

/// A lane's ring.
#[derive(Debug)]
pub(super) struct Slot {
    file: Arc<BlackBox>,
    base: usize,
    count: AtomicU64,
}

impl Slot {
    /// Adds an event; the lane's lock is held.
    pub(super) fn push(&self, event: Event) {
        let nth = self.count.fetch_add(1, Ordering::Relaxed);
        let at = self.base + LANE_HEADER + (nth as usize % EVENTS) * EVENT;
        self.file.put(at, event.at);
        self.file.put(at + 1, event.iter);
        let what = u64::from(event.name) << 16 | u64::from(event.kind as u8) << 8;
        self.file.put(at + 2, what | event.phase as u64);
        self.file.put(self.base, nth + 1);
    }
}

/// A name that all ranks of a job have in common and other jobs have not.
fn job_name() -> String {
    let names = ["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "SLURM_JOB_ID", "PMI_ID_JOB"];
    let name = names.iter().find_map(|name| std::env::var(name).ok());
    let name = name.unwrap_or_else(|| format!("pid{}", std::process::id()));
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

fn clear_old(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        let ours = entry.path().extension().is_some_and(|ending| ending == ENDING);
        if ours && age.is_some_and(|age| age > OLD) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// What a black box tells.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// The rank.
    pub rank: u64,
    /// Its process.
    pub pid: u64,
    /// Its host.
    pub host: String,
    /// When it was made.
    pub begun: SystemTime,
    /// Each thread's title and last events, oldest first.
    pub lanes: Vec<(String, Vec<Entry>)>,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Time since the recording began.
    pub at: Duration,
    /// The iteration the thread was in, if it had one.
    pub iter: Option<u64>,
    /// What it was, as in "compute".
    pub what: &'static str,
    /// Which one, of things that overlap (a bucket's exchange) or have names (a layer).
    pub number: u64,
    /// Whether it began or ended.
    pub begins: bool,
}

/// Reads a black box, whole or from a process that died.
///
/// # Errors
/// A file that cannot be read, or is none.
pub fn read_recording(path: &Path) -> Result<Recording, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|w| u64::from_le_bytes(*w)).collect();
    if words.len() != WORDS || words[0] != MAGIC {
        return Err(format!("{}: is no black box of this version", path.display()));
    }
    let name = |at: usize| -> String {
        let bytes = words[at..at + NAME].iter().flat_map(|word| word.to_le_bytes());
        let bytes: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let mut lanes = Vec::new();
    for base in (0..LANES).map(|lane| HEADER + lane * LANE) {
        let title = name(base + 1);
        if title.is_empty() {
            break;
        }
        let count = words[base] as usize;
        let events = (count.saturating_sub(EVENTS)..count).filter_map(|nth| {
            let at = base + LANE_HEADER + nth % EVENTS * EVENT;
            entry(words[at], words[at + 1], words[at + 2])
        });
        lanes.push((title, events.collect()));
    }
    let begun = UNIX_EPOCH + Duration::from_nanos(words[3]);
    Ok(Recording { rank: words[1], pid: words[2], host: name(8), begun, lanes })
}

fn entry(at: u64, iter: u64, what: u64) -> Option<Entry> {
    let kind = Kind::ALL.get((what >> 8 & 0xff) as usize)?;
    let phase = what & 0xff;
    Some(Entry {
        at: Duration::from_nanos(at),
        iter: Some(iter).filter(|iter| *iter != NO_ITER),
        what: kind.name(),
        number: what >> 16,
        begins: phase == Phase::Begin as u64 || phase == Phase::Open as u64,
    })
}

/// The black boxes in a folder, by name.
///
/// # Errors
/// A folder that cannot be read.
pub fn recordings_in(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut paths: Vec<PathBuf> =
        paths.filter(|path| path.extension().is_some_and(|e| e == ENDING)).collect();
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::{Traces, Wanted};

    #[test]
    fn the_last_events_are_in_the_file_while_the_process_lives() {
        let folder = tempfile::tempdir().unwrap();
        let black_box = BlackBox::create(folder.path(), 3, "node7").unwrap();
        let clock = Arc::new(crate::SystemClock::default());
        let traces = Traces::new(clock, Wanted::default()).recorded(Some(black_box.clone()));
        let tracer = traces.lane("device 0");
        for iter in 0..1000 {
            tracer.set_iter(iter);
            drop(tracer.span(Kind::Compute));
        }
        let _open = tracer.span(Kind::Update);
        let paths = recordings_in(folder.path()).unwrap();
        let read = read_recording(&paths[0]).unwrap();
        assert_eq!((read.rank, read.host.as_str(), read.lanes.len()), (3, "node7", 1));
        let (title, events) = &read.lanes[0];
        assert_eq!((title.as_str(), events.len()), ("device 0", EVENTS));
        let last = &events[EVENTS - 1];
        assert_eq!((last.what, last.iter, last.begins), ("update", Some(999), true));
        assert!(events.windows(2).all(|pair| pair[0].at <= pair[1].at));
        black_box.discard();
        assert!(recordings_in(folder.path()).unwrap().is_empty());
        std::fs::write(folder.path().join("x.blackbox"), "no").unwrap();
        assert!(read_recording(&folder.path().join("x.blackbox")).is_err());
    }
}
