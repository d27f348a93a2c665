//! The sidecar of a snapshot, `PREFIX_iter_N.resume`: where the run stood, beyond what Caffe's own
//! files can say.
//!
//! Layout: the line `caffe-mpi resume 2`, a line of JSON ([`Sidecar`] without histories), then for
//! each replica history the floats as little-endian f32, then length (u64) and CRC-32C (u32) of the
//! model file and of the state file, then a CRC-32C of everything before it. All numbers are
//! little-endian. Version 1 had no checksums of the other files.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;

use caffe_proto::files::Pending;
use serde::{Deserialize, Serialize};

use crate::solver::ScaleState;
use crate::{Error, Result, bail, ensure};

const MAGIC: &str = "caffe-mpi resume 2\n";
const MAGIC_1: &str = "caffe-mpi resume 1\n";
/// Bytes of one file's length and checksum.
const SUM: usize = 12;

/// What tells a file from every other, as far as damage goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSum {
    /// Its length.
    pub bytes: u64,
    /// CRC-32C of its content.
    pub crc: u32,
}

impl FileSum {
    /// Of a file's content.
    pub fn of(content: &[u8]) -> Self {
        FileSum { bytes: content.len() as u64, crc: crc32c::crc32c(content) }
    }

    /// Of a file.
    ///
    /// # Errors
    /// One that cannot be read.
    pub fn of_file(path: &Path) -> Result<Self> {
        let explain = |e| Error::file(path, e);
        let mut file = File::open(path).map_err(explain)?;
        let mut sum = FileSum::default();
        let mut piece = vec![0; 1 << 20];
        loop {
            let got = file.read(&mut piece).map_err(explain)?;
            if got == 0 {
                return Ok(sum);
            }
            sum.bytes += got as u64;
            sum.crc = crc32c::crc32c_append(sum.crc, &piece[..got]);
        }
    }

    fn encode(self) -> [u8; SUM] {
        let mut bytes = [0; SUM];
        bytes[..8].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[8..].copy_from_slice(&self.crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (length, crc) = bytes.split_first_chunk::<8>()?;
        let crc = crc.first_chunk::<4>()?;
        Some(FileSum { bytes: u64::from_le_bytes(*length), crc: u32::from_le_bytes(*crc) })
    }
}

/// What the files beside a sidecar hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// The weights.
    pub model: FileSum,
    /// The solver state.
    pub state: FileSum,
}

/// What the numbers of the nets and the solver had come to mean in a job: for the reader of a
/// snapshot; a resume goes by its own flags.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Meaning {
    /// Whose batch_size it was: "replica" or "global".
    pub batch_of: String,
    /// Records of one iteration, over all replicas and passes.
    pub records_per_iter: usize,
    /// The rate of the next iteration, after scaling and warm-up.
    pub lr: f32,
    /// How the rate grew with the replicas: "none", "linear" or "sqrt".
    pub lr_scaling: String,
    /// What that multiplied it with.
    pub lr_factor: f32,
    /// Iterations over which it rose.
    pub warmup_iters: u64,
    /// Number format between ranks.
    pub wire: String,
}

/// What an exact resume needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sidecar {
    /// Iterations done.
    pub iter: u64,
    /// First batch not yet trained on.
    pub ticket: u64,
    /// Next batch of each test net.
    pub test_cursors: Vec<u64>,
    /// Replicas in the job that wrote it.
    pub replicas: usize,
    /// Records of one replica's batch.
    pub batch: usize,
    /// Mode of the job.
    pub mode: String,
    /// Solver type.
    pub solver: String,
    /// Seed of the job.
    pub seed: u64,
    /// What batch and rate meant; not in snapshots of versions before this was written.
    #[serde(default)]
    pub meaning: Option<Meaning>,
    /// Where the loss scale stood, if it was a dynamic one.
    #[serde(default)]
    pub loss_scale: Option<ScaleState>,
    /// The table of convolutions' algorithms ([`Table`](crate::device::cuda::algorithms::Table)), if the
    /// job had one. Not read before it is used: what it says may be of another version.
    #[serde(default)]
    pub algorithms: Option<serde_json::Value>,
    /// Floats of one replica's history.
    pub history_len: usize,
    /// Every replica's own history, where they differ; empty when all equal the state's.
    #[serde(skip)]
    pub histories: Vec<Vec<f32>>,
    /// Histories in the file.
    pub history_count: usize,
    /// Checksums of model and state; a sidecar of version 1 has none.
    #[serde(skip)]
    pub sums: Option<Sums>,
}

impl Sidecar {
    /// The sidecar beside a state, if there is one.
    ///
    /// # Errors
    /// A sidecar that is damaged or belongs to another iteration: delete it to resume from the
    /// state alone.
    pub fn read_beside(state: &Path, iter: u64) -> Result<Option<Sidecar>> {
        // `x.solverstate` and `x.solverstate.h5` both stand beside `x.resume`.
        let stem = if state.extension().is_some_and(|e| e == "h5") {
            state.with_extension("")
        } else {
            state.to_owned()
        };
        let path = stem.with_extension("resume");
        if !path.exists() {
            return Ok(None);
        }
        let sidecar = Self::read(&path)?;
        ensure!(
            sidecar.iter == iter,
            "{}: is of iteration {}, the state of {iter}; delete it to resume from the state alone",
            path.display(),
            sidecar.iter
        );
        Ok(Some(sidecar))
    }

    /// Reads and checks a sidecar.
    ///
    /// # Errors
    /// An unreadable or damaged file.
    pub fn read(path: &Path) -> Result<Sidecar> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|mut f| f.read_to_end(&mut bytes))
            .map_err(|e| Error::file(path, e))?;
        let Some(mut sidecar) = parse(&bytes) else {
            bail!(
                "{}: damaged or not a resume file; delete it to resume from the state alone",
                path.display()
            )
        };
        sidecar.histories.shrink_to_fit();
        Ok(sidecar)
    }
}

/// The sidecar in the bytes of a file, if they are whole.
fn parse(bytes: &[u8]) -> Option<Sidecar> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (rest, sums) = match body.strip_prefix(MAGIC.as_bytes()) {
        Some(rest) => {
            let (rest, sums) = rest.split_at_checked(rest.len().checked_sub(2 * SUM)?)?;
            let (model, state) = sums.split_at(SUM);
            let (model, state) = (FileSum::decode(model)?, FileSum::decode(state)?);
            (rest, Some(Sums { model, state }))
        }
        None => (body.strip_prefix(MAGIC_1.as_bytes())?, None),
    };
    let end = rest.iter().position(|b| *b == b'\n')?;
    let mut sidecar: Sidecar = serde_json::from_slice(&rest[..end]).ok()?;
    let floats = &rest[end + 1..];
    let size = sidecar.history_len.checked_mul(4)?;
    if floats.len() != size.checked_mul(sidecar.history_count)? {
        return None;
    }
    sidecar.sums = sums;
    if size > 0 {
        sidecar.histories = floats.chunks_exact(size).map(to_floats).collect();
    }
    Some(sidecar)
}

fn to_floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Writes a sidecar history by history, so that only one of them is in memory; nothing appears
/// under the final name before [`SidecarWriter::close`] and [`Pending::finish`].
pub struct SidecarWriter {
    file: BufWriter<File>,
    pending: Pending,
    crc: u32,
    left: usize,
}

impl SidecarWriter {
    /// Starts a sidecar that will hold `sidecar.history_count` histories.
    ///
    /// # Errors
    /// A file that cannot be created.
    pub fn create(path: &Path, sidecar: &Sidecar) -> Result<Self> {
        let pending = Pending::create(path)?;
        let file =
            File::create(pending.temporary()).map_err(|e| Error::file(pending.temporary(), e))?;
        let left = sidecar.history_count;
        let mut writer = SidecarWriter { file: BufWriter::new(file), pending, crc: 0, left };
        let header = match serde_json::to_string(sidecar) {
            Ok(json) => format!("{MAGIC}{json}\n"),
            Err(e) => bail!("cannot describe the snapshot: {e}"),
        };
        writer.put(header.as_bytes())?;
        Ok(writer)
    }

    /// Adds the next replica's history.
    ///
    /// # Errors
    /// A full disk and the like, or more histories than announced.
    pub fn history(&mut self, values: &[f32]) -> Result<()> {
        ensure!(self.left > 0, "more histories than the sidecar announced");
        self.left -= 1;
        for run in values.chunks(16 * 1024) {
            let bytes: Vec<u8> = run.iter().flat_map(|v| v.to_le_bytes()).collect();
            self.put(&bytes)?;
        }
        Ok(())
    }

    /// Adds what the other files hold and syncs the file; its name is left to the caller.
    ///
    /// # Errors
    /// A full disk and the like, or histories that are missing.
    pub fn close(mut self, sums: Sums) -> Result<Pending> {
        ensure!(self.left == 0, "{} histories are missing from the sidecar", self.left);
        self.put(&sums.model.encode())?;
        self.put(&sums.state.encode())?;
        let crc = self.crc.to_le_bytes();
        self.file
            .write_all(&crc)
            .and_then(|()| self.file.flush())
            .map_err(|e| Error::file(self.pending.temporary(), e))?;
        self.pending.sync()?;
        Ok(self.pending)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.file.write_all(bytes).map_err(|e| Error::file(self.pending.temporary(), e))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn sample() -> Sidecar {
        Sidecar {
            iter: 10,
            ticket: 40,
            test_cursors: vec![3],
            replicas: 2,
            loss_scale: Some(ScaleState { scale: 1024.0, good: 17 }),
            history_len: 3,
            history_count: 2,
            ..Default::default()
        }
    }

    fn sums() -> Sums {
        Sums { model: FileSum::of(b"model"), state: FileSum::of(b"state") }
    }

    fn written(folder: &Path) -> PathBuf {
        let path = folder.join("x_iter_10.resume");
        let mut w = SidecarWriter::create(&path, &sample()).unwrap();
        w.history(&[1.0, 2.0, 3.0]).unwrap();
        w.history(&[4.0, 5.0, 6.0]).unwrap();
        w.close(sums()).unwrap().finish().unwrap();
        path
    }

    #[test]
    fn reads_back_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let read = Sidecar::read(&path).unwrap();
        assert_eq!(read.histories, [vec![1.0, 2.0, 3.0], vec![4.0, 5.0, 6.0]]);
        assert_eq!((read.ticket, read.sums), (40, Some(sums())));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path());
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(parse(&bad).is_none(), "byte {at}");
        }
        assert!(parse(&good[..good.len() - 1]).is_none());
    }

    #[test]
    fn an_unfinished_sidecar_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x_iter_10.resume");
        let w = SidecarWriter::create(&path, &sample()).unwrap();
        assert!(w.close(sums()).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
