//! Learning-rate policies: the rate as a function of the iteration.
//!
//! | `lr_policy` | rate at iteration i |
//! |---|---|
//! | `fixed` | base_lr |
//! | `step` | base_lr · gamma^⌊i / stepsize⌋ |
//! | `exp` | base_lr · gamma^i |
//! | `inv` | base_lr · (1 + gamma · i)^−power |
//! | `multistep` | base_lr · gamma^(number of stepvalues ≤ i) |
//! | `poly` | base_lr · (1 − i / max_iter)^power |
//! | `sigmoid` | base_lr / (1 + exp(−gamma · (i − stepsize))) |

use caffe_proto::SolverParameter;

use crate::{Result, bail, ensure};

/// A policy with its numbers.
#[derive(Clone, Debug)]
pub struct LrPolicy {
    base: f64,
    kind: Kind,
    ramp: Ramp,
}

/// A warm-up: over the first `iters` iterations the rate rises in a straight line from its `from`th
/// part to all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ramp {
    /// Part of the rate before the first iteration.
    pub from: f64,
    /// Iterations until it is whole; 0 for no warm-up.
    pub iters: u64,
}

impl Ramp {
    fn factor(self, iter: u64) -> f64 {
        if iter >= self.iters {
            return 1.0;
        }
        self.from + (1.0 - self.from) * (iter + 1) as f64 / self.iters as f64
    }
}

#[derive(Clone, Debug)]
enum Kind {
    Fixed,
    Step { gamma: f64, size: u64 },
    Exp { gamma: f64 },
    Inv { gamma: f64, power: f64 },
    MultiStep { gamma: f64, values: Vec<u64> },
    Poly { power: f64, max_iter: f64 },
    Sigmoid { gamma: f64, size: f64 },
}

impl LrPolicy {
    /// The policy a solver asks for.
    ///
    /// # Errors
    /// An unknown policy, a rate that is not a finite number, or a step of no size.
    pub fn new(param: &SolverParameter) -> Result<Self> {
        let base = param.base_lr();
        ensure!(base.is_finite(), "base_lr {base} is not a finite number");
        let gamma = f64::from(param.gamma());
        let power = f64::from(param.power());
        let kind = match param.lr_policy() {
            "fixed" => Kind::Fixed,
            "step" => {
                ensure!(param.stepsize() > 0, "lr_policy \"step\" needs a positive stepsize");
                Kind::Step { gamma, size: param.stepsize() as u64 }
            }
            "exp" => Kind::Exp { gamma },
            "inv" => Kind::Inv { gamma, power },
            "multistep" => {
                let values = param.stepvalue.iter().map(|&v| v.max(0) as u64).collect();
                Kind::MultiStep { gamma, values }
            }
            "poly" => Kind::Poly { power, max_iter: f64::from(param.max_iter().max(1)) },
            "sigmoid" => Kind::Sigmoid { gamma, size: f64::from(param.stepsize()) },
            "" => bail!("the solver has no lr_policy; \"fixed\" keeps base_lr"),
            other => bail!(
                "unknown lr_policy \"{other}\"; known are fixed, step, exp, inv, multistep, poly, \
                 sigmoid"
            ),
        };
        Ok(LrPolicy { base: f64::from(base), kind, ramp: Ramp::default() })
    }

    /// The policy behind a warm-up.
    #[must_use]
    pub fn ramped(self, ramp: Ramp) -> Self {
        LrPolicy { ramp, ..self }
    }

    /// The rate at an iteration.
    pub fn rate(&self, iter: u64) -> f32 {
        let i = iter as f64;
        let factor = match &self.kind {
            Kind::Fixed => 1.0,
            Kind::Step { gamma, size } => gamma.powf((iter / size) as f64),
            Kind::Exp { gamma } => gamma.powf(i),
            Kind::Inv { gamma, power } => (1.0 + gamma * i).powf(-power),
            Kind::MultiStep { gamma, .. } => gamma.powf(self.steps(iter) as f64),
            Kind::Poly { power, max_iter } => (1.0 - i / max_iter).max(0.0).powf(*power),
            Kind::Sigmoid { gamma, size } => 1.0 / (1.0 + (-gamma * (i - size)).exp()),
        };
        (self.base * factor * self.ramp.factor(iter)) as f32
    }

    /// Steps taken by an iteration: `current_step` of a solverstate.
    pub fn steps(&self, iter: u64) -> u64 {
        match &self.kind {
            Kind::Step { size, .. } => iter / size,
            Kind::MultiStep { values, .. } => {
                values.iter().take_while(|&&v| v <= iter).count() as u64
            }
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str, iter: u64) -> f32 {
        let param: SolverParameter = caffe_proto::text::parse("test", text).unwrap();
        LrPolicy::new(&param).unwrap().rate(iter)
    }

    #[test]
    fn a_ramp_rises_to_the_rate() {
        let param: SolverParameter =
            caffe_proto::text::parse("test", "base_lr: 1 lr_policy: 'fixed'").unwrap();
        let policy = LrPolicy::new(&param).unwrap().ramped(Ramp { from: 0.25, iters: 3 });
        assert_eq!([0, 1, 2, 3].map(|iter| policy.rate(iter)), [0.5, 0.75, 1.0, 1.0]);
    }

    #[test]
    fn every_policy_follows_its_formula() {
        let close = |a: f32, b: f32| assert!((a - b).abs() < 1e-6, "{a} is not {b}");
        close(rate("base_lr: 0.1 lr_policy: 'fixed'", 99), 0.1);
        close(rate("base_lr: 1 lr_policy: 'step' gamma: 0.5 stepsize: 10", 25), 0.25);
        close(rate("base_lr: 1 lr_policy: 'exp' gamma: 0.9", 2), 0.81);
        close(rate("base_lr: 1 lr_policy: 'inv' gamma: 1 power: 2", 1), 0.25);
        let multi = "base_lr: 1 lr_policy: 'multistep' gamma: 0.1 stepvalue: 5 stepvalue: 8";
        close(rate(multi, 4), 1.0);
        close(rate(multi, 5), 0.1);
        close(rate(multi, 9), 0.01);
        close(rate("base_lr: 1 lr_policy: 'poly' power: 2 max_iter: 10", 5), 0.25);
        close(rate("base_lr: 1 lr_policy: 'sigmoid' gamma: -1 stepsize: 5", 5), 0.5);
    }

    #[test]
    fn bad_settings_are_named() {
        let error = |text: &str| {
            let param: SolverParameter = caffe_proto::text::parse("test", text).unwrap();
            LrPolicy::new(&param).unwrap_err().to_string()
        };
        assert!(error("base_lr: 1 lr_policy: 'stepp'").contains("multistep"));
        assert!(error("base_lr: nan lr_policy: 'fixed'").contains("finite"));
        assert!(error("base_lr: 1 lr_policy: 'step'").contains("stepsize"));
    }
}
