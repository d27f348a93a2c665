//! A snapshot in two steps: [`take`] copies what it holds out of a solver, quickly, so that training
//! can go on; [`Taken::write`] makes the files, on any thread.

use caffe_proto::solver_parameter::SnapshotFormat;
use caffe_proto::{Message, NetParameter, SolverState, write_file_atomic};

use super::{FileSum, Paths, Sums, add_diffs, h5, to_blobs};
use crate::Result;
use crate::params::Param;
use crate::solver::Solver;

/// Weights and history after some iterations, apart from the solver they came from.
pub struct Taken {
    paths: Paths,
    format: SnapshotFormat,
    model: NetParameter,
    /// Of each layer, which of its blobs are its own.
    owned: Vec<Vec<bool>>,
    diff: bool,
    iter: u64,
    /// Runs of `stride` values, one for each history.
    history: Vec<f32>,
    stride: usize,
    params: Vec<Param>,
    current_step: i32,
}

/// Copies weights and history out of `solver` after `iter` iterations. `history` (one run of
/// learnable parameters per history) replaces the optimizer's own where replicas have several.
pub fn take(solver: &mut Solver, prefix: &str, iter: u64, history: Option<Vec<f32>>) -> Taken {
    let format = solver.param().snapshot_format();
    let diff = solver.param().snapshot_diff();
    let (net, optimizer) = solver.parts();
    let mut model = net.to_proto();
    if diff {
        add_diffs(net, &mut model);
    }
    let owned = net.layers().iter().enumerate();
    let owned = owned.map(|(i, node)| (0..node.params.len()).map(|j| net.owns(i, j)).collect());
    let own = || optimizer.histories().iter().flat_map(|h| h.iter().copied()).collect();
    Taken {
        paths: Paths::new(prefix, iter, format),
        format,
        owned: owned.collect(),
        model,
        diff,
        iter,
        history: history.unwrap_or_else(own),
        stride: net.arena().learnable_len(),
        params: net.arena().params().to_vec(),
        // Of the last iteration done, as Caffe counts it.
        current_step: optimizer.steps(iter.saturating_sub(1)) as i32,
    }
}

impl Taken {
    /// Writes the model, then the state; says where, and what they hold.
    ///
    /// # Errors
    /// A file that cannot be written; earlier snapshots stay as they are.
    pub fn write(self) -> Result<(Paths, Sums)> {
        let model = match self.format {
            SnapshotFormat::Hdf5 => {
                h5::write_model(&self.paths.model, &self.model, &self.owned, self.diff)?;
                FileSum::of_file(&self.paths.model)?
            }
            SnapshotFormat::Binaryproto => {
                let bytes = self.model.encode_to_vec();
                write_file_atomic(&self.paths.model, &bytes)?;
                FileSum::of(&bytes)
            }
        };
        drop(self.model);
        let state = SolverState {
            iter: Some(self.iter as i32),
            learned_net: Some(self.paths.model.to_string_lossy().into_owned()),
            history: to_blobs(&self.params, self.stride, &self.history),
            current_step: Some(self.current_step),
        };
        let state = match self.format {
            SnapshotFormat::Hdf5 => {
                h5::write_state(&self.paths.state, &state)?;
                FileSum::of_file(&self.paths.state)?
            }
            SnapshotFormat::Binaryproto => {
                let bytes = state.encode_to_vec();
                write_file_atomic(&self.paths.state, &bytes)?;
                FileSum::of(&bytes)
            }
        };
        Ok((self.paths, Sums { model, state }))
    }
}
