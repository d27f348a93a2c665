//! Update rules: how a gradient becomes an update. One rule, one file; each works on a stretch of
//! one parameter, so that the caller may cut the arena to the size of its caches and threads.

mod adadelta;
mod adagrad;
mod adam;
mod cuda;
mod nesterov;
mod rmsprop;
mod sgd;

use caffe_proto::SolverParameter;

use crate::device::cuda::source::Source;
use crate::{Result, bail};

pub use cuda::OnDevice;
use cuda::update_kernels;

/// What one stretch of an update needs to know.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// Learning rate of this parameter at this iteration: rate · lr_mult.
    pub rate: f32,
    /// The iteration.
    pub iter: u64,
}

/// A rule with its numbers.
pub trait UpdateRule: Send + Sync {
    /// Caffe's solver type.
    fn type_name(&self) -> &'static str;

    /// Histories it keeps per parameter value: 0, 1 or 2.
    fn histories(&self) -> usize;

    /// Replaces the gradient `g` by the update (to be subtracted from the weights) and advances
    /// the histories. All slices have one length; unused histories are empty.
    fn update(&self, at: At, g: &mut [f32], h: [&mut [f32]; 2]);

    /// The same on a CUDA device, at an iteration.
    fn on_device(&self, iter: u64) -> OnDevice;
}

/// Builds a rule from its numbers.
type Build = fn(&SolverParameter) -> Result<Box<dyn UpdateRule>>;

/// Every rule: Caffe's solver type, and its kernel.
static RULES: [(&str, Build, &Source); 6] = [
    ("SGD", sgd::build, &sgd::KERNELS),
    ("Nesterov", nesterov::build, &nesterov::KERNELS),
    ("AdaGrad", adagrad::build, &adagrad::KERNELS),
    ("RMSProp", rmsprop::build, &rmsprop::KERNELS),
    ("AdaDelta", adadelta::build, &adadelta::KERNELS),
    ("Adam", adam::build, &adam::KERNELS),
];

/// The kernels of all rules.
pub fn sources() -> impl Iterator<Item = Source> {
    RULES.iter().map(|(.., kernels)| **kernels)
}

/// The rule of a solver, by its `type`.
///
/// # Errors
/// An unknown type, or numbers the rule cannot use.
pub fn rule_for(param: &SolverParameter) -> Result<Box<dyn UpdateRule>> {
    match RULES.iter().find(|(name, ..)| *name == param.r#type()) {
        Some((_, build, _)) => build(param),
        None => {
            let near = RULES
                .iter()
                .map(|(n, ..)| {
                    (
                        strsim::damerau_levenshtein(
                            &n.to_lowercase(),
                            &param.r#type().to_lowercase(),
                        ),
                        n,
                    )
                })
                .min();
            let hint = match near {
                Some((d, n)) if d <= 2 => format!("; did you mean \"{n}\"?"),
                _ => "; known are SGD, Nesterov, AdaGrad, RMSProp, AdaDelta, Adam".into(),
            };
            bail!("unknown solver type \"{}\"{hint}", param.r#type())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two steps of a rule on one weight, against values worked out by hand.
    fn two_steps(text: &str, g: [f32; 2]) -> [f32; 2] {
        let param: SolverParameter = caffe_proto::text::parse("test", text).unwrap();
        let rule = rule_for(&param).unwrap();
        let (mut h0, mut h1) = ([0.0], [0.0]);
        [0, 1].map(|i| {
            let mut d = [g[i]];
            rule.update(At { rate: 0.1, iter: i as u64 }, &mut d, [&mut h0, &mut h1]);
            d[0]
        })
    }

    fn close(ours: [f32; 2], theirs: [f64; 2]) {
        for (a, b) in ours.iter().zip(theirs) {
            assert!(
                (f64::from(*a) - b).abs() <= 1e-6 * b.abs().max(1e-3),
                "{ours:?} vs {theirs:?}"
            );
        }
    }

    #[test]
    fn sgd_adds_momentum() {
        close(two_steps("type: 'SGD' momentum: 0.9", [1.0, 2.0]), [0.1, 0.29]);
    }

    #[test]
    fn nesterov_looks_ahead() {
        // h1 = 0.1, u1 = 1.9·0.1; h2 = 0.09 + 0.2, u2 = 1.9·0.29 − 0.9·0.1
        close(two_steps("type: 'Nesterov' momentum: 0.9", [1.0, 2.0]), [0.19, 0.461]);
    }

    #[test]
    fn delta_stands_outside_the_root() {
        let ada = two_steps("type: 'AdaGrad' delta: 0.5", [2.0, 1.0]);
        close(ada, [0.1 * 2.0 / 2.5, 0.1 / (5f64.sqrt() + 0.5)]);
        let rms = two_steps("type: 'RMSProp' rms_decay: 0.75 delta: 0.5", [2.0, 1.0]);
        close(rms, [0.1 * 2.0 / 1.5, 0.1 / (1f64.sqrt() + 0.5)]);
    }

    #[test]
    fn delta_stands_inside_for_adadelta() {
        let (m, d) = (0.5, 0.1);
        let (g1, g2) = (2.0f64, 1.0);
        let (s1, u1) = (m * g1 * g1, g1 * (d / (d + m * g1 * g1)).sqrt());
        let t1 = m * u1 * u1;
        let s2 = m * s1 + m * g2 * g2;
        let u2 = g2 * ((d + t1) / (d + s2)).sqrt();
        let ours = two_steps("type: 'AdaDelta' momentum: 0.5 delta: 0.1", [2.0, 1.0]);
        close(ours, [0.1 * u1, 0.1 * u2]);
    }

    #[test]
    fn adam_corrects_its_start() {
        let (b1, b2, eps) = (0.9f64, 0.99f64, 0.1f64);
        let (m1, v1) = (0.1 * 2.0f64, 0.01 * 4.0f64);
        let u1 = 0.1 * (1.0 - b2).sqrt() / (1.0 - b1) * m1 / (v1.sqrt() + eps);
        let (m2, v2) = (b1 * m1 + 0.1, b2 * v1 + 0.01);
        let c2 = (1.0 - b2 * b2).sqrt() / (1.0 - b1 * b1);
        let u2 = 0.1 * c2 * m2 / (v2.sqrt() + eps);
        let ours = two_steps("type: 'Adam' momentum: 0.9 momentum2: 0.99 delta: 0.1", [2.0, 1.0]);
        close(ours, [u1, u2]);
    }

    #[test]
    fn unknown_types_get_a_hint() {
        let param = SolverParameter { r#type: Some("adam".into()), ..Default::default() };
        assert!(
            rule_for(&param).err().unwrap().to_string().contains("`Adam`")
                || rule_for(&param).err().unwrap().to_string().contains("\"Adam\"")
        );
    }
}
