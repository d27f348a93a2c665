//! What changes in a solver when several replicas share its work: rate, warm-up, momentum. Each is
//! an option that somebody asked for; by default nothing changes.

use caffe_actors::Mode;
use caffe_proto::SolverParameter;

use crate::solver::Ramp;
use crate::{Result, ensure};

/// How the learning rate grows with the number of replicas R.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LrScaling {
    /// Not at all.
    #[default]
    None,
    /// × R, as the batch grows.
    Linear,
    /// × √R, as the noise of the mean gradient shrinks.
    Sqrt,
}

impl LrScaling {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            LrScaling::None => "none",
            LrScaling::Linear => "linear",
            LrScaling::Sqrt => "sqrt",
        }
    }
}

/// The options.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tuning {
    /// Growth of the rate.
    pub scaling: LrScaling,
    /// Iterations over which the rate rises to its full height: from the published one when it is
    /// scaled, else from 0.
    pub warmup: u64,
    /// The momentum of replicas that push updates of their own.
    pub async_momentum: Option<f32>,
}

impl Tuning {
    /// What the rate is multiplied with.
    pub fn factor(&self, replicas: usize) -> f32 {
        match self.scaling {
            LrScaling::None => 1.0,
            LrScaling::Linear => replicas as f32,
            LrScaling::Sqrt => (replicas as f32).sqrt(),
        }
    }

    /// The solver that each of `replicas` replicas runs.
    ///
    /// # Errors
    /// A momentum outside 0..1.
    pub fn apply(
        &self,
        solver: &SolverParameter,
        mode: Mode,
        replicas: usize,
    ) -> Result<SolverParameter> {
        let mut solver = solver.clone();
        if let Some(rate) = &mut solver.base_lr {
            *rate *= self.factor(replicas);
        }
        if let Some(momentum) = self.async_momentum {
            ensure!((0.0..1.0).contains(&momentum), "--async-momentum must lie in 0..1");
            if replicas > 1 && matches!(mode, Mode::Hogwild | Mode::Ssp { .. }) {
                solver.momentum = Some(momentum);
            }
        }
        Ok(solver)
    }

    /// The warm-up.
    pub fn ramp(&self, replicas: usize) -> Ramp {
        let factor = f64::from(self.factor(replicas));
        Ramp { from: if factor > 1.0 { 1.0 / factor } else { 0.0 }, iters: self.warmup }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_and_ramps() {
        let solver = SolverParameter {
            base_lr: Some(0.1),
            momentum: Some(0.9),
            ..SolverParameter::default()
        };
        let tuning = Tuning { scaling: LrScaling::Linear, warmup: 10, async_momentum: Some(0.5) };
        let four = tuning.apply(&solver, Mode::Hogwild, 4).unwrap();
        assert_eq!((four.base_lr(), four.momentum()), (0.4, 0.5));
        assert_eq!(tuning.apply(&solver, Mode::Sync, 4).unwrap().momentum(), 0.9);
        assert_eq!(tuning.apply(&solver, Mode::Hogwild, 1).unwrap(), solver);
        assert_eq!(tuning.ramp(4), Ramp { from: 0.25, iters: 10 });
        assert_eq!(Tuning::default().apply(&solver, Mode::Hogwild, 4).unwrap(), solver);
        let wrong = Tuning { async_momentum: Some(1.0), ..tuning };
        assert!(wrong.apply(&solver, Mode::Sync, 2).is_err());
    }
}
