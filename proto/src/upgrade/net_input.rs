//! `input: "data" input_shape { … }` (or four `input_dim`s) to an Input layer before all others.

use std::mem;

use super::{Change, UpgradeError};
use crate::{BlobShape, InputParameter, LayerParameter, NetParameter};

/// Extents that `input_dim` gives for each input: number, channels, height, width.
const DIMS: usize = 4;

/// Makes one Input layer of all inputs of the net. Inputs without any shape, as some models have
/// them, cannot be built; they are dropped.
pub(super) fn upgrade(net: &mut NetParameter) -> Result<Option<Change>, UpgradeError> {
    let inputs = mem::take(&mut net.input);
    let mut shapes = mem::take(&mut net.input_shape);
    let dims = mem::take(&mut net.input_dim);
    if inputs.is_empty() {
        return Ok(None);
    }
    if shapes.is_empty() && dims.is_empty() {
        return Ok(Some(Change::InputsDropped { inputs }));
    }
    if shapes.is_empty() {
        check(inputs.len(), dims.len(), "input_dim", DIMS)?;
        let shape = |dims: &[i32]| BlobShape { dim: dims.iter().map(|&d| d.into()).collect() };
        shapes = dims.chunks(DIMS).map(shape).collect();
    }
    check(inputs.len(), shapes.len(), "input_shape", 1)?;
    let layer = LayerParameter {
        name: Some("input".to_owned()),
        r#type: Some("Input".to_owned()),
        top: inputs.clone(),
        input_param: Some(Box::new(InputParameter { shape: shapes })),
        ..Default::default()
    };
    net.layer.insert(0, layer);
    Ok(Some(Change::NetInput { inputs }))
}

fn check(
    inputs: usize,
    shapes: usize,
    field: &'static str,
    per_input: usize,
) -> Result<(), UpgradeError> {
    if shapes == inputs * per_input {
        return Ok(());
    }
    Err(UpgradeError::InputShapes { inputs, shapes, field, per_input })
}
