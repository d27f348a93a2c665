//! Which nets a solver prototxt asks for: one train net, any number of test nets, each with its
//! state and its place for messages.

use caffe_proto::{NetParameter, NetState, Phase, SolverParameter, net_from_file};

use crate::net::Origin;
use crate::{Result, ensure};

/// A net to build.
#[derive(Clone, Debug)]
pub struct NetPlan {
    /// Its prototxt, upgraded.
    pub param: NetParameter,
    /// Where it was read.
    pub origin: Origin,
    /// Phase, level and stages.
    pub state: NetState,
}

/// All nets of a solver.
#[derive(Clone, Debug)]
pub struct NetPlans {
    /// The train net.
    pub train: NetPlan,
    /// The test nets, in Caffe's order: test_net_param, test_net, then `net` for what is left.
    pub test: Vec<NetPlan>,
    /// What was upgraded while reading, one line each.
    pub changes: Vec<String>,
}

impl NetPlans {
    /// Reads the nets a solver names. `level` and `stages` (from the command line) go into every
    /// state.
    ///
    /// # Errors
    /// None or several train nets, unreadable files, or test settings that do not match.
    pub fn read(solver: &SolverParameter, level: i32, stages: &[String]) -> Result<NetPlans> {
        let mut changes = Vec::new();
        let train = train_net(solver, &mut changes)?;
        let mut test: Vec<(NetParameter, Origin)> = Vec::new();
        for (i, param) in solver.test_net_param.iter().enumerate() {
            test.push((param.clone(), inline(&format!("test_net_param {i}"))));
        }
        for path in &solver.test_net {
            test.push(read(path, &mut changes)?);
        }
        fill_generic(solver, &mut test, &mut changes)?;
        check_tests(solver, test.len())?;
        let state = |own: &NetParameter, more: Option<&NetState>, phase| {
            let mut state = merge(own.state.as_ref(), more);
            state.phase = Some(phase as i32);
            if level != 0 {
                state.level = Some(level);
            }
            state.stage.extend(stages.iter().cloned());
            state
        };
        let plan = |(param, origin): (NetParameter, Origin), more, phase| NetPlan {
            state: state(&param, more, phase),
            param,
            origin,
        };
        Ok(NetPlans {
            train: plan(train, solver.train_state.as_ref(), Phase::Train),
            test: test
                .into_iter()
                .enumerate()
                .map(|(i, net)| plan(net, solver.test_state.get(i), Phase::Test))
                .collect(),
            changes,
        })
    }
}

fn train_net(
    solver: &SolverParameter,
    changes: &mut Vec<String>,
) -> Result<(NetParameter, Origin)> {
    let given = [
        solver.net.is_some(),
        solver.net_param.is_some(),
        solver.train_net.is_some(),
        solver.train_net_param.is_some(),
    ];
    ensure!(
        given.iter().filter(|g| **g).count() == 1,
        "the solver must name one train net, by exactly one of net, net_param, train_net, \
         train_net_param; it has {}",
        given.iter().filter(|g| **g).count()
    );
    if let Some(path) = solver.train_net.as_ref().or(solver.net.as_ref()) {
        return read(path, changes);
    }
    let param = solver.train_net_param.as_ref().or(solver.net_param.as_ref());
    Ok((param.cloned().unwrap_or_default(), inline("net_param")))
}

/// `net` and `net_param` serve as test nets for all `test_iter` entries that no other net takes.
fn fill_generic(
    solver: &SolverParameter,
    test: &mut Vec<(NetParameter, Origin)>,
    changes: &mut Vec<String>,
) -> Result<()> {
    let missing = solver.test_iter.len().saturating_sub(test.len());
    if missing == 0 {
        return Ok(());
    }
    let generic = match (&solver.net_param, &solver.net) {
        (Some(param), _) => Some((param.clone(), inline("net_param"))),
        (None, Some(path)) => Some(read(path, changes)?),
        (None, None) => None,
    };
    if let Some(net) = generic {
        test.extend(std::iter::repeat_n(net, missing));
    }
    Ok(())
}

fn check_tests(solver: &SolverParameter, nets: usize) -> Result<()> {
    ensure!(
        solver.test_iter.len() == nets,
        "the solver has {} test_iter entries for {nets} test nets; each test net needs one",
        solver.test_iter.len()
    );
    ensure!(
        solver.test_state.is_empty() || solver.test_state.len() == nets,
        "the solver has {} test_state entries for {nets} test nets; give one each or none",
        solver.test_state.len()
    );
    if let Some(n) = solver.test_iter.iter().find(|n| **n <= 0) {
        crate::bail!("test_iter must be positive, got {n}");
    }
    ensure!(
        nets == 0 || solver.test_interval() > 0,
        "the solver has test nets but no test_interval; set it, or remove test_iter"
    );
    Ok(())
}

fn read(path: &str, changes: &mut Vec<String>) -> Result<(NetParameter, Origin)> {
    let file = net_from_file(path)?;
    changes.extend(file.changes.iter().map(|c| format!("{path}: {c}")));
    let lines = (0..file.net.layer.len()).map(|i| file.line(i).unwrap_or(0)).collect();
    Ok((file.net, Origin { file: path.to_owned(), lines }))
}

fn inline(name: &str) -> Origin {
    Origin { file: name.to_owned(), lines: Vec::new() }
}

/// A state with another one laid over it, as protobuf merges messages.
fn merge(base: Option<&NetState>, more: Option<&NetState>) -> NetState {
    let mut state = base.cloned().unwrap_or_default();
    if let Some(more) = more {
        state.level = more.level.or(state.level);
        state.stage.extend(more.stage.iter().cloned());
    }
    state
}
