//! The layers of a net as far as their prototxt alone goes: which belong to the state, what they
//! leave out, how many bottoms and tops they have.

use std::collections::HashMap;

use caffe_proto::{LayerParameter, NetParameter, NetState};

use super::filter;
use super::split::Placed;
use crate::layers::{LayerDef, by_type_name};
use crate::{Result, bail, ensure};

/// The layers of this state, with phase and automatic tops filled in.
///
/// # Errors
/// A layer with contradictory include and exclude rules.
pub fn select(param: &NetParameter, state: &NetState) -> Result<Vec<Placed>> {
    let mut placed = Vec::new();
    for (block, layer) in param.layer.iter().enumerate() {
        if filter::is_included(layer, state)? {
            let mut layer = layer.clone();
            layer.phase.get_or_insert(state.phase() as i32);
            if let Ok(def) = by_type_name(layer.r#type()) {
                complete_loss(&mut layer, def);
            }
            placed.push(Placed { param: layer, block });
        }
    }
    Ok(placed)
}

/// Which layer makes the blob of a name.
pub fn makers(placed: &[Placed]) -> HashMap<String, String> {
    let tops = |p: &Placed| {
        let layer = p.param.name().to_owned();
        p.param.top.clone().into_iter().map(move |top| (top, layer.clone()))
    };
    placed.iter().flat_map(tops).collect()
}

/// A loss may leave out its tops, and counts fully unless it says otherwise.
fn complete_loss(layer: &mut LayerParameter, def: &LayerDef) {
    if !def.is_loss {
        return;
    }
    if layer.top.is_empty() {
        layer.top.push(format!("(automatic){}", layer.name()));
    }
    if layer.loss_weight.is_empty() {
        layer.loss_weight.push(1.0);
    }
}

/// Checks the numbers of bottoms and tops.
///
/// # Errors
/// When the layer type takes or makes others.
pub fn check_counts(param: &LayerParameter, def: &LayerDef) -> Result<()> {
    let (bottoms, tops) = (param.bottom.len(), param.top.len());
    ensure!(
        def.bottoms.allows(bottoms, bottoms),
        "takes {} bottom blob(s), but the prototxt names {bottoms}",
        def.bottoms
    );
    ensure!(
        def.tops.allows(tops, bottoms),
        "makes {} top blob(s), but the prototxt names {tops}",
        def.tops
    );
    super::gradient_flow::check(param, def)
}

/// One loss weight per top; 0 where the prototxt says nothing.
///
/// # Errors
/// More weights than tops, or one that is not finite.
pub fn loss_weights(param: &LayerParameter) -> Result<Vec<f32>> {
    let mut weights = param.loss_weight.clone();
    ensure!(
        weights.len() <= param.top.len(),
        "has {} loss_weight entries for {} tops",
        weights.len(),
        param.top.len()
    );
    if let Some(w) = weights.iter().find(|w| !w.is_finite()) {
        bail!("loss_weight {w} is not a finite number");
    }
    weights.resize(param.top.len(), 0.0);
    Ok(weights)
}
