//! Flatten: the axes from `axis` to `end_axis` as one; the values stay where they are.
//!
//! ```text
//! layer { name: "flat" type: "Flatten" bottom: "pool5" top: "flat" flatten_param { axis: 1 end_axis: -1 } }
//! ```

use super::{Alias, Io, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::device::Run;
use crate::{Result, ensure};

/// The layer.
struct Flatten {
    axis: i32,
    end_axis: i32,
}

impl Layer for Flatten {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let bottom = &bottoms[0];
        let (start, end) = (bottom.axis(self.axis)?, bottom.axis(self.end_axis)?);
        ensure!(
            start <= end,
            "axis {} lies behind end_axis {} in a bottom of shape {bottom}",
            self.axis,
            self.end_axis
        );
        let mut dims = bottom.dims()[..start].to_vec();
        dims.push(bottom.count_of(start..end + 1));
        dims.extend_from_slice(&bottom.dims()[end + 1..]);
        Ok(vec![Shape::new(dims)])
    }

    /// Nothing to do: the top is the bottom's memory, values and gradient.
    fn forward(&mut self, _run: &mut Run, _io: Io<'_>) -> Result<()> {
        Ok(())
    }

    fn backward(&mut self, _run: &mut Run, _io: Io<'_>) -> Result<()> {
        Ok(())
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.flatten_param.as_deref().cloned().unwrap_or_default();
    Ok(Box::new(Flatten { axis: param.axis(), end_axis: param.end_axis() }))
}

/// `Flatten`.
pub static DEF: LayerDef =
    LayerDef::new("Flatten", "the axes from axis to end_axis as one", build).aliasing(Alias::Both);
