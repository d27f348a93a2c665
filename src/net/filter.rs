//! Which layers of a prototxt belong to a net: `include` and `exclude` rules against the net's
//! state (phase, level, stages).

use caffe_proto::{LayerParameter, NetState, NetStateRule};

use crate::{Result, ensure};

/// Whether the layer is part of a net in `state`.
///
/// A layer without `include` rules is in unless an `exclude` rule holds; with `include` rules it is
/// in when any of them holds.
///
/// # Errors
/// When the layer has rules of both kinds.
pub fn is_included(layer: &LayerParameter, state: &NetState) -> Result<bool> {
    ensure!(
        layer.include.is_empty() || layer.exclude.is_empty(),
        "layer `{}` has both include and exclude rules; keep one kind",
        layer.name()
    );
    Ok(if layer.include.is_empty() {
        !layer.exclude.iter().any(|rule| holds(rule, state))
    } else {
        layer.include.iter().any(|rule| holds(rule, state))
    })
}

/// Whether every condition of the rule is met.
fn holds(rule: &NetStateRule, state: &NetState) -> bool {
    let level = state.level();
    (rule.phase.is_none() || rule.phase() == state.phase())
        && rule.min_level.is_none_or(|min| level >= min)
        && rule.max_level.is_none_or(|max| level <= max)
        && rule.stage.iter().all(|s| state.stage.contains(s))
        && !rule.not_stage.iter().any(|s| state.stage.contains(s))
}

#[cfg(test)]
mod tests {
    use super::*;
    use caffe_proto::Phase;

    fn layer(text: &str) -> LayerParameter {
        caffe_proto::text::parse("test", text).unwrap()
    }

    fn state(phase: Phase, level: i32, stage: &[&str]) -> NetState {
        NetState {
            phase: Some(phase as i32),
            level: Some(level),
            stage: stage.iter().map(|s| (*s).to_owned()).collect(),
        }
    }

    #[test]
    fn rules_combine_as_documented() {
        let train = state(Phase::Train, 0, &[]);
        let deploy = state(Phase::Test, 2, &["deploy"]);
        let is = |text: &str, s: &NetState| is_included(&layer(text), s).unwrap();
        assert!(is("name: 'a'", &train));
        assert!(is("include { phase: TRAIN }", &train));
        assert!(!is("include { phase: TRAIN }", &deploy));
        assert!(is("include { phase: TRAIN } include { stage: 'deploy' }", &deploy));
        assert!(is("include { min_level: 1 max_level: 2 }", &deploy));
        assert!(!is("include { min_level: 1 }", &train));
        assert!(!is("include { not_stage: 'deploy' }", &deploy));
        assert!(!is("exclude { stage: 'deploy' }", &deploy));
        assert!(is("exclude { stage: 'deploy' }", &train));
        let both = layer("name: 'x' include { phase: TRAIN } exclude { phase: TEST }");
        assert!(is_included(&both, &train).is_err());
    }
}
