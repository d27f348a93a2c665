//! Who needs a gradient: a layer runs backward when something before it learns and something
//! behind it is a loss.

use caffe_proto::LayerParameter;

use super::Node;
use crate::layers::LayerDef;
use crate::{Result, ensure};

/// Checks what a layer's `propagate_down` asks for.
///
/// # Errors
/// When it does not speak of every bottom, or asks for a gradient that does not exist.
pub fn check(param: &LayerParameter, def: &LayerDef) -> Result<()> {
    let (asked, bottoms) = (&param.propagate_down, &param.bottom);
    ensure!(
        asked.is_empty() || asked.len() == bottoms.len(),
        "has {} propagate_down entries for {} bottoms; give one for each, or none",
        asked.len(),
        bottoms.len()
    );
    for (i, (bottom, _)) in bottoms.iter().zip(asked).enumerate().filter(|(_, (_, a))| **a) {
        let can = def.differentiable.contains(i, bottoms.len());
        ensure!(
            can,
            "has no gradient for bottom `{bottom}`, but propagate_down asks for it; say false"
        );
    }
    Ok(())
}

/// Fills `propagate_down`, `param_needs_diff`, `top_has_diff` and `needs_backward` of every node.
///
/// `learns[p]` says whether parameter p has a learning rate; with `force` every layer and every
/// bottom that can have a gradient gets one (Caffe's `force_backward`).
pub fn decide(nodes: &mut [Node], blobs: usize, learns: &[bool], force: bool) {
    let mut wanted = vec![false; blobs];
    for node in nodes.iter_mut() {
        node.param_needs_diff = node.params.iter().map(|&p| learns[p] || force).collect();
        node.propagate_down = node
            .bottom
            .iter()
            .enumerate()
            .map(|(i, &b)| {
                let can = node.def.differentiable.contains(i, node.bottom.len());
                match node.param.propagate_down.get(i) {
                    Some(&asked) => asked && can,
                    None => can && (wanted[b] || force),
                }
            })
            .collect();
        let learns_here = node.params.iter().any(|&p| learns[p]);
        node.needs_backward = force || learns_here || node.propagate_down.contains(&true);
        for &top in &node.top {
            wanted[top] = node.needs_backward;
        }
    }

    let mut below_loss = vec![false; blobs];
    for node in nodes.iter_mut().rev() {
        let is_loss = |j: usize| node.loss_weight[j] != 0.0;
        node.top_has_diff = node
            .top
            .iter()
            .enumerate()
            .map(|(j, &t)| force || below_loss[t] || is_loss(j))
            .collect();
        if !node.top_has_diff.contains(&true) {
            node.needs_backward = false;
        }
        if !node.needs_backward {
            node.propagate_down.fill(false);
            node.param_needs_diff.fill(false);
        }
        for (i, &b) in node.bottom.iter().enumerate() {
            below_loss[b] = node.propagate_down[i];
        }
    }
}
