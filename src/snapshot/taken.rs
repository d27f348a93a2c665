//! A snapshot in two steps: [`take`] copies what it holds out of a solver, quickly, so that training
//! can go on; [`Taken::write`] makes the files, on any thread.

use std::path::Path;

use caffe_proto::files::Pending;
use caffe_proto::solver_parameter::SnapshotFormat;
use caffe_proto::{Message, NetParameter, SolverState};

use super::{FileSum, Paths, SidecarWriter, Sums, add_diffs, h5, to_blobs};
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
///
/// # Errors
/// A device that has them and failed.
pub fn take(
    solver: &mut Solver,
    prefix: &str,
    iter: u64,
    history: Option<Vec<f32>>,
) -> Result<Taken> {
    let format = solver.param().snapshot_format();
    let diff = solver.param().snapshot_diff();
    let (net, optimizer) = solver.parts();
    let mut model = net.to_proto()?;
    if diff {
        add_diffs(net, &mut model)?;
    }
    let owned = net.layers().iter().enumerate();
    let owned = owned.map(|(i, node)| (0..node.params.len()).map(|j| net.owns(i, j)).collect());
    let history = match history {
        Some(history) => history,
        None => optimizer.histories()?.concat(),
    };
    Ok(Taken {
        paths: Paths::new(prefix, iter, format),
        format,
        owned: owned.collect(),
        model,
        diff,
        iter,
        history,
        stride: net.arena().learnable_len(),
        params: net.arena().params().to_vec(),
        // Of the last iteration done, as Caffe counts it.
        current_step: optimizer.steps(iter.saturating_sub(1)) as i32,
    })
}

impl Taken {
    /// Writes the model, the state and the sidecar, if there is one. All are on the disk before the
    /// first gets its name.
    ///
    /// # Errors
    /// A file that cannot be written: then none appears, and earlier snapshots stay as they are.
    pub fn write(self, sidecar: Option<SidecarWriter>) -> Result<Paths> {
        let (model, model_sum) = match self.format {
            SnapshotFormat::Hdf5 => {
                let (net, owned) = (&self.model, &self.owned);
                summed(h5::write_model(&self.paths.model, net, owned, self.diff)?)?
            }
            SnapshotFormat::Binaryproto => holding(&self.paths.model, &self.model)?,
        };
        drop(self.model);
        let state = SolverState {
            iter: Some(self.iter as i32),
            learned_net: Some(self.paths.model.to_string_lossy().into_owned()),
            history: to_blobs(&self.params, self.stride, &self.history),
            current_step: Some(self.current_step),
        };
        let (state, state_sum) = match self.format {
            SnapshotFormat::Hdf5 => summed(h5::write_state(&self.paths.state, &state)?)?,
            SnapshotFormat::Binaryproto => holding(&self.paths.state, &state)?,
        };
        let sums = Sums { model: model_sum, state: state_sum };
        let sidecar = sidecar.map(|writer| writer.close(sums)).transpose()?;
        for file in [Some(model), Some(state), sidecar].into_iter().flatten() {
            file.finish()?;
        }
        Ok(self.paths)
    }
}

/// A file that holds `message`, and its sum.
fn holding(path: &Path, message: &impl Message) -> Result<(Pending, FileSum)> {
    let bytes = message.encode_to_vec();
    Ok((Pending::holding(path, &bytes)?, FileSum::of(&bytes)))
}

fn summed(file: Pending) -> Result<(Pending, FileSum)> {
    let sum = FileSum::of_file(file.temporary())?;
    Ok((file, sum))
}
