//! Silence: reads blobs that nobody else wants, so that they are no outputs of the net.
//!
//! ```text
//! layer { name: "hush" type: "Silence" bottom: "unused" }
//! ```

use super::{Count, Io, Layer, LayerDef, Setup};
use crate::Result;
use crate::blob::Shape;
use crate::device::Run;

/// The layer.
struct Silence;

impl Layer for Silence {
    fn reshape(&mut self, _run: &mut Run, _bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(Vec::new())
    }

    fn forward(&mut self, _run: &mut Run, _io: Io<'_>) -> Result<()> {
        Ok(())
    }

    fn backward(&mut self, _run: &mut Run, io: Io<'_>) -> Result<()> {
        for i in (0..io.bottoms()).filter(|&i| io.propagate_down(i)) {
            io.bottom_diff_mut(i)?.fill(0.0);
        }
        Ok(())
    }
}

fn build(_setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    Ok(Box::new(Silence))
}

/// `Silence`.
pub static DEF: LayerDef = LayerDef::new("Silence", "reads blobs that nobody else wants", build)
    .counts(Count::AtLeast(1), Count::Exactly(0));
