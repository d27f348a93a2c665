//! A solver's or net's files: do they parse, can every data layer's source be opened and a record be
//! read, can snapshots be written.

use std::path::Path;

use caffe_proto::{Phase, net_from_file, solver_from_file};

use super::Finding;
use crate::Result;
use crate::data::Reading;
use crate::data::readers;
use crate::net::Origin;
use crate::snapshot;
use crate::solver::{DataLayers, NetPlan, NetPlans};

pub(super) fn solver(path: &Path) -> Vec<Finding> {
    let read = || -> Result<_> {
        let solver = solver_from_file(path)?.solver;
        let plans = NetPlans::read(&solver, 0, &[])?;
        Ok((solver, plans))
    };
    let (solver, plans) = match read() {
        Ok(both) => both,
        Err(error) => {
            return vec![Finding::bad("solver", error.to_string(), "correct the file")];
        }
    };
    let text = format!("{}: 1 train net, {} test net(s)", path.display(), plans.test.len());
    let mut all = vec![Finding::ok("solver", text)];
    for plan in std::iter::once(&plans.train).chain(&plans.test) {
        all.extend(data(plan));
    }
    if solver.snapshot() > 0 || solver.snapshot_after_train() {
        let prefix = solver.snapshot_prefix();
        all.push(match snapshot::check_writable(prefix) {
            Ok(()) => Finding::ok("snapshots", format!("{prefix}_iter_N can be written")),
            Err(error) => Finding::bad(
                "snapshots",
                error.to_string(),
                "give another snapshot_prefix, or make its folder writable",
            ),
        });
    }
    all
}

pub(super) fn model(path: &Path) -> Vec<Finding> {
    let file = match net_from_file(path) {
        Ok(file) => file,
        Err(error) => return vec![Finding::bad("net", error.to_string(), "correct the file")],
    };
    let mut all = vec![Finding::ok("net", path.display().to_string())];
    for phase in [Phase::Train, Phase::Test] {
        let state = caffe_proto::NetState { phase: Some(phase as i32), ..Default::default() };
        let lines = (0..file.net.layer.len()).map(|i| file.line(i).unwrap_or(0)).collect();
        let origin = Origin { file: path.display().to_string(), lines };
        all.extend(data(&NetPlan { param: file.net.clone(), state, origin }));
    }
    all
}

/// Opens the source of each data layer and reads a batch from it.
fn data(plan: &NetPlan) -> Vec<Finding> {
    let layers = match DataLayers::of(plan) {
        Ok(layers) => layers,
        Err(error) => return vec![Finding::bad("data", error.to_string(), "correct the net")],
    };
    let phase = if layers.phase == Phase::Train { "TRAIN" } else { "TEST" };
    let mut all = Vec::new();
    for layer in &layers.layers {
        let about = readers::describe(layer);
        let one = DataLayers { phase: layers.phase, layers: vec![layer.clone()] };
        let read = || -> Result<u64> {
            let mut source = one.open(Reading::new(1))?;
            source.fill(0, &mut Vec::new())?;
            Ok(source.batch_size())
        };
        all.push(match read() {
            Ok(batch) => {
                let text =
                    format!("{about} ({phase}, layer `{}`): {batch} records read", layer.name());
                Finding::ok("data", text)
            }
            Err(error) => Finding::bad(
                "data",
                format!("{about} ({phase}, layer `{}`): {error}", layer.name()),
                "paths are relative to the folder where the program starts; every rank's host must \
                 see them",
            ),
        });
    }
    all
}
