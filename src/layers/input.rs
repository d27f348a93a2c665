//! Input: blobs that the caller fills.
//!
//! ```text
//! layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 224 dim: 224 } } }
//! ```
//! One shape serves all tops; otherwise there is one per top.

use super::{Count, Io, Layer, LayerDef, Setup, dims};
use crate::blob::Shape;
use crate::device::Run;
use crate::{Result, ensure};

/// The layer.
struct Input {
    shapes: Vec<Shape>,
}

impl Layer for Input {
    fn reshape(&mut self, _run: &mut Run, _bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(self.shapes.clone())
    }

    fn forward(&mut self, _run: &mut Run, _io: Io<'_>) -> Result<()> {
        Ok(())
    }

    fn backward(&mut self, _run: &mut Run, _io: Io<'_>) -> Result<()> {
        Ok(())
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let given = setup.param.input_param.as_ref().map_or(&[][..], |p| &p.shape);
    ensure!(
        given.len() == 1 || given.len() == setup.tops,
        "input_param needs one `shape`, or one for each of the {} tops; it has {}",
        setup.tops,
        given.len()
    );
    let mut shapes = given.iter().map(dims::of_message).collect::<Result<Vec<_>>>()?;
    if shapes.len() < setup.tops {
        shapes = vec![shapes[0].clone(); setup.tops];
    }
    Ok(Box::new(Input { shapes }))
}

/// `Input`.
pub static DEF: LayerDef = LayerDef::new("Input", "blobs that the caller fills", build)
    .counts(Count::Exactly(0), Count::AtLeast(1));
