//! BatchNorm layers with three `param` specs: rates and decays of all three become 0.
//!
//! The three blobs are running statistics, which no solver may touch. Once that had to be written
//! as `param { lr_mult: 0 }` three times; nets that forgot, or wrote another rate, are put right.

use super::Change;
use crate::NetParameter;

/// Blobs of a BatchNorm layer: mean, variance, their weight.
const BLOBS: usize = 3;

/// Sets `lr_mult` and `decay_mult` to 0 where a BatchNorm layer has three specs.
pub(super) fn upgrade(net: &mut NetParameter) -> Vec<Change> {
    let mut changes = Vec::new();
    for layer in &mut net.layer {
        if layer.r#type() != "BatchNorm" || layer.param.len() != BLOBS {
            continue;
        }
        let settled = |spec: &crate::ParamSpec| spec.lr_mult() == 0.0 && spec.decay_mult() == 0.0;
        let news = !layer.param.iter().all(settled);
        for spec in &mut layer.param {
            spec.lr_mult = Some(0.0);
            spec.decay_mult = Some(0.0);
        }
        if news {
            changes.push(Change::BatchNormSpecs { layer: layer.name().to_owned() });
        }
    }
    changes
}
