//! TanH: y = tanh(x), element by element, also in place.
//!
//! ```text
//! layer { name: "squash" type: "TanH" bottom: "x" top: "y" }
//! ```
//! `engine` makes no difference.

use super::elementwise::{self, AtZero, From};
use super::{Io, Layer, LayerDef, Setup};
use crate::Result;
use crate::blob::Shape;
use crate::device::Run;

/// The layer.
struct TanH;

impl Layer for TanH {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        elementwise::forward(run, &io, AtZero::Zero, f32::tanh)
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        elementwise::backward(run, &io, From::Top, |y, dy| dy * (1.0 - y * y))
    }
}

fn build(_setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    Ok(Box::new(TanH))
}

/// `TanH`.
pub static DEF: LayerDef = LayerDef::new("TanH", "y = tanh(x)", build).in_place();
