//! `solver_type: ADAGRAD` to `type: "AdaGrad"`.

use super::{Change, UpgradeError};
use crate::{SolverParameter, solver_parameter::SolverType};

/// Names the solver's type if it is given by number.
pub(super) fn upgrade(solver: &mut SolverParameter) -> Result<Option<Change>, UpgradeError> {
    if solver.solver_type.is_none() {
        return Ok(None);
    }
    if let Some(name) = &solver.r#type {
        return Err(UpgradeError::TwoSolverTypes { name: name.clone() });
    }
    let name = match solver.solver_type() {
        SolverType::Sgd => "SGD",
        SolverType::Nesterov => "Nesterov",
        SolverType::Adagrad => "AdaGrad",
        SolverType::Rmsprop => "RMSProp",
        SolverType::Adadelta => "AdaDelta",
        SolverType::Adam => "Adam",
    };
    solver.solver_type = None;
    solver.r#type = Some(name.to_owned());
    Ok(Some(Change::SolverType { name }))
}
