//! Snapshots: `PREFIX_iter_N.caffemodel` and `.solverstate`, which BVLC Caffe reads, and beside
//! them `PREFIX_iter_N.resume` with what an exact resume needs ([`Sidecar`]). With
//! `snapshot_format: HDF5` they are `.caffemodel.h5` and `.solverstate.h5` ([`h5`]); what is read is
//! told by the content, not the name.
//!
//! A state's history holds one blob for each parameter with an owner, in net order, of the first
//! history; then the same of the second, where the solver keeps two: first and second moments (Adam),
//! squared gradients and squared updates (AdaDelta). `current_step` is written for other programs;
//! here the rate is a function of the iteration alone.
//!
//! All files are written to temporary names and synced before the first is renamed: the model, then
//! the state, which names it, then the sidecar, which holds the checksums of both. So [`find`] can
//! tell which snapshots are whole, whenever the process died or the disk was full. [`taken`] is a snapshot on its way from a solver
//! to the files, [`keep`] decides which ones stay, [`lock`] sees to it that one job writes.

pub mod find;
pub mod h5;
pub mod keep;
pub mod lock;
mod sidecar;
pub mod taken;

use std::path::{Path, PathBuf};

pub use keep::{Best, Keep, Keeper};
pub use lock::PrefixLock;
pub use sidecar::{FileSum, Meaning, Sidecar, SidecarWriter, Sums};
pub use taken::{Taken, take};

use caffe_proto::solver_parameter::SnapshotFormat;
use caffe_proto::{BlobProto, NetParameter, SolverState, model_from_file, read_binary_file};

use crate::hdf5::is_hdf5;
use crate::net::{CopyReport, Net};
use crate::params::Param;
use crate::solver::Solver;
use crate::{Error, Result, bail, ensure};

/// The files of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Weights.
    pub model: PathBuf,
    /// Solver state.
    pub state: PathBuf,
    /// What only this program needs.
    pub sidecar: PathBuf,
}

impl Paths {
    /// The files of iteration `iter` under a prefix.
    pub fn new(prefix: &str, iter: u64, format: SnapshotFormat) -> Self {
        let h5 = if format == SnapshotFormat::Hdf5 { ".h5" } else { "" };
        let with = |ending: &str| PathBuf::from(format!("{prefix}_iter_{iter}.{ending}"));
        Paths {
            model: with(&format!("caffemodel{h5}")),
            state: with(&format!("solverstate{h5}")),
            sidecar: with("resume"),
        }
    }
}

/// What a resumed run starts from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resumed {
    /// Iterations done.
    pub iter: u64,
    /// The sidecar, where there is one; a state of BVLC Caffe has none.
    pub sidecar: Option<Sidecar>,
}

impl Resumed {
    /// Reads where a state stood, without a net.
    ///
    /// # Errors
    /// A file that is missing, damaged or no solver state.
    pub fn peek(state_path: &Path) -> Result<Resumed> {
        Self::of(&read_state(state_path)?, state_path)
    }

    fn of(state: &SolverState, state_path: &Path) -> Result<Resumed> {
        let iter = state.iter().max(0) as u64;
        Ok(Resumed { iter, sidecar: Sidecar::read_beside(state_path, iter)? })
    }
}

fn read_state(path: &Path) -> Result<SolverState> {
    if is_hdf5(path) {
        return h5::read_state(path);
    }
    let state: SolverState = read_binary_file(path)?;
    ensure!(
        state.iter.is_some() || !state.history.is_empty(),
        "{}: this is not a solver state; give a .solverstate file",
        path.display()
    );
    Ok(state)
}

/// Reads a model in either format, in today's form.
///
/// # Errors
/// A file that is missing, damaged or no model.
pub fn read_model(path: &Path) -> Result<NetParameter> {
    match is_hdf5(path) {
        true => h5::read_model(path),
        false => Ok(model_from_file(path)?.0),
    }
}

/// Reads a model, which has to hold weights.
///
/// # Errors
/// As [`read_model`]; a net without weights.
pub fn read_weights(path: &Path) -> Result<NetParameter> {
    let model = read_model(path)?;
    let any = model.layer.iter().any(|layer| !layer.blobs.is_empty());
    ensure!(any, "{}: holds no weights; give a .caffemodel", path.display());
    Ok(model)
}

/// Copies weights from a file into a net, by layer name.
///
/// # Errors
/// As [`read_weights`], and weights that do not fit: nothing has been copied then.
pub fn copy_weights(net: &mut Net, path: &Path) -> Result<CopyReport> {
    fit(net, &read_weights(path)?, path)
}

/// Copies what was read from `path`.
fn fit(net: &mut Net, model: &NetParameter, path: &Path) -> Result<CopyReport> {
    net.copy_trained_from(model)
        .map_err(|e| Error::Invalid(format!("{} does not fit: {e}", path.display())))
}

/// Makes sure, before any training, that snapshots can be written under a prefix: creates the
/// folder and, for a moment, a file in it.
///
/// # Errors
/// [`Error::File`] naming the folder or file.
pub fn check_writable(prefix: &str) -> Result<()> {
    let probe = PathBuf::from(format!("{prefix}.writable.{}", std::process::id()));
    let folder = match probe.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    let explain = |e: std::io::Error| {
        let text = format!("snapshot_prefix \"{prefix}\" cannot be written: {e}");
        Error::file(folder, std::io::Error::new(e.kind(), text))
    };
    std::fs::create_dir_all(folder).map_err(explain)?;
    std::fs::write(&probe, b"").map_err(explain)?;
    std::fs::remove_file(&probe).map_err(explain)
}

/// Writes weights and solver state after `iter` iterations, without a sidecar.
///
/// # Errors
/// A file that cannot be written; earlier snapshots stay as they are.
pub fn write(solver: &mut Solver, prefix: &str, iter: u64) -> Result<Paths> {
    take(solver, prefix, iter, None)?.write(None)
}

/// Loads weights (from the model the state names, or that lies beside it) and histories.
///
/// # Errors
/// Missing or damaged files, another net, or a state of another kind of solver. The solver is
/// unchanged unless everything fits.
pub fn restore(solver: &mut Solver, state_path: &Path) -> Result<Resumed> {
    let state = read_state(state_path)?;
    let (net, optimizer) = solver.parts();
    let kept = optimizer.history_count();
    let params = net.arena().params().to_vec();
    ensure!(
        state.history.len() == kept * params.len(),
        "{}: holds {} history blobs, but a {} solver of this net has {}; it was written by another \
         solver type or for another net",
        state_path.display(),
        state.history.len(),
        optimizer.type_name(),
        kept * params.len()
    );
    for (k, blob) in state.history.iter().enumerate() {
        let param = &params[k % params.len()];
        ensure!(
            param.shape.accepts(blob) && blob.data.len() == param.range.len(),
            "{}: history blob {k} has shape {}, this net needs {}",
            state_path.display(),
            crate::blob::Shape::of_proto(blob),
            param.shape
        );
    }
    if let Some(model) = find_model(&state, state_path)? {
        fit(net, &read_model(&model)?, &model)?;
    }
    for (k, history) in optimizer.histories_mut()?.into_iter().enumerate() {
        for (param, blob) in params.iter().zip(&state.history[k * params.len()..]) {
            if !param.statistic {
                history[param.range.clone()].copy_from_slice(&blob.data);
            }
        }
    }
    Resumed::of(&state, state_path)
}

/// The model a state belongs to: the named one, or its namesake beside the state when files have
/// been moved.
fn find_model(state: &SolverState, state_path: &Path) -> Result<Option<PathBuf>> {
    let Some(named) = state.learned_net.as_ref().map(PathBuf::from) else { return Ok(None) };
    if named.exists() {
        return Ok(Some(named));
    }
    let beside = named.file_name().map(|name| state_path.with_file_name(name));
    match beside {
        Some(path) if path.exists() => Ok(Some(path)),
        _ => bail!(
            "{}: its weights {} are neither there nor beside it",
            state_path.display(),
            named.display()
        ),
    }
}

/// One blob per parameter and history, all parameters of the first history first. Parameters that
/// no solver touches have a history of zeros in Caffe.
fn to_blobs(params: &[Param], stride: usize, flat: &[f32]) -> Vec<BlobProto> {
    let runs = flat.len().checked_div(stride).unwrap_or(0);
    let blob = |p: &Param, run: usize| BlobProto {
        shape: Some(p.shape.to_proto()),
        data: match p.statistic {
            true => vec![0.0; p.range.len()],
            false => flat[run * stride..][p.range.clone()].to_vec(),
        },
        ..Default::default()
    };
    (0..runs).flat_map(|run| params.iter().map(move |p| blob(p, run))).collect()
}

fn add_diffs(net: &mut Net, model: &mut NetParameter) -> Result<()> {
    for (i, layer) in model.layer.iter_mut().enumerate() {
        for (j, blob) in layer.blobs.iter_mut().enumerate() {
            let id = net.layers()[i].params[j];
            blob.diff = net.params().gradient(id)?.to_vec();
        }
    }
    Ok(())
}
