//! Snapshots: `PREFIX_iter_N.caffemodel` and `.solverstate`, which BVLC Caffe reads, and beside
//! them `PREFIX_iter_N.resume` with what an exact resume needs ([`Sidecar`]).
//!
//! Each file is written to a temporary name, synced and renamed; the state, which names the model,
//! comes last. So a snapshot that can be found is whole, whenever the process dies.

mod sidecar;

use std::path::{Path, PathBuf};

pub use sidecar::{Sidecar, SidecarWriter};

use caffe_proto::{
    BlobProto, NetParameter, SolverState, model_from_file, read_binary_file,
    write_binary_file_atomic,
};

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
    pub fn new(prefix: &str, iter: u64) -> Self {
        let with = |ending: &str| PathBuf::from(format!("{prefix}_iter_{iter}.{ending}"));
        Paths { model: with("caffemodel"), state: with("solverstate"), sidecar: with("resume") }
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
    let state: SolverState = read_binary_file(path)?;
    ensure!(
        state.iter.is_some() || !state.history.is_empty(),
        "{}: this is not a solver state; give a .solverstate file",
        path.display()
    );
    Ok(state)
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

/// Writes weights and solver state after `iter` iterations. `history` (one run of learnable
/// parameters per history) replaces the optimizer's own where replicas have several.
///
/// # Errors
/// A file that cannot be written; earlier snapshots stay as they are.
pub fn write(
    solver: &mut Solver,
    prefix: &str,
    iter: u64,
    history: Option<&[f32]>,
) -> Result<Paths> {
    let paths = Paths::new(prefix, iter);
    let diff = solver.param().snapshot_diff();
    let (net, optimizer) = solver.parts();
    let mut model = net.to_proto();
    if diff {
        add_diffs(net, &mut model);
    }
    write_binary_file_atomic(&paths.model, &model)?;
    drop(model);

    let own: Vec<f32>;
    let flat = match history {
        Some(mean) => mean,
        None => {
            own = optimizer.histories().iter().flat_map(|h| h.iter().copied()).collect();
            &own
        }
    };
    let state = SolverState {
        iter: Some(iter as i32),
        learned_net: Some(paths.model.to_string_lossy().into_owned()),
        history: to_blobs(net.arena().params(), net.arena().learnable_len(), flat),
        current_step: Some(optimizer.steps(iter) as i32),
    };
    write_binary_file_atomic(&paths.state, &state)?;
    Ok(paths)
}

/// Loads weights (from the model the state names, or that lies beside it) and histories.
///
/// # Errors
/// Missing or damaged files, another net, or a state of another kind of solver. The solver is
/// unchanged unless everything fits.
pub fn restore(solver: &mut Solver, state_path: &Path) -> Result<Resumed> {
    let state = read_state(state_path)?;
    let (net, optimizer) = solver.parts();
    let kept = optimizer.histories().len();
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
        net.copy_trained_from(&model_from_file(&model)?.0)?;
    }
    for (k, history) in optimizer.histories_mut().iter_mut().enumerate() {
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

fn add_diffs(net: &mut crate::net::Net, model: &mut NetParameter) {
    for (i, layer) in model.layer.iter_mut().enumerate() {
        for (j, blob) in layer.blobs.iter_mut().enumerate() {
            let id = net.layers()[i].params[j];
            blob.diff = net.params().gradient(id).to_vec();
        }
    }
}
