//! Split: one blob read by several layers. The tops share the bottom's values; the gradients of
//! the tops are summed. Nets insert it by themselves.
//!
//! ```text
//! layer { name: "x_split" type: "Split" bottom: "x" top: "x_split_0" top: "x_split_1" }
//! ```

use super::{Alias, Count, Io, Layer, LayerDef, Setup};
use crate::Result;
use crate::blob::{Layout, Shape};
use crate::device::Run;

/// Elements per task.
const CHUNK: usize = 8 * 1024;

/// The layer.
struct Split {
    tops: usize,
}

impl Layer for Split {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone(); self.tops])
    }

    /// Nothing to do: the tops are the bottom's memory.
    fn forward(&mut self, _run: &mut Run, _io: Io<'_>) -> Result<()> {
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        // Tops that feed no loss (an Accuracy) bring no gradient. Work in a blocked layout as soon
        // as one of the others is: its producer is a fast primitive, and so is the reader.
        let live: Vec<usize> = (0..io.tops()).filter(|&j| io.top_has_diff(j)).collect();
        let layouts = live.iter().map(|&j| io.top_diff_layout(j));
        let layout = layouts.into_iter().find(|l| *l != Layout::Plain).unwrap_or_default();
        let dys: Vec<&[f32]> =
            live.iter().map(|&j| io.top_diff_in(j, layout)).collect::<Result<_>>()?;
        let dx = io.bottom_diff_mut_in(0, layout)?;
        run.threads().par_chunks_mut(dx, CHUNK, |i, dx| {
            let at = i * CHUNK..i * CHUNK + dx.len();
            let Some((first, rest)) = dys.split_first() else { return dx.fill(0.0) };
            match rest.split_first() {
                None => dx.copy_from_slice(&first[at.clone()]),
                Some((second, _)) => {
                    let pairs = first[at.clone()].iter().zip(&second[at.clone()]);
                    dx.iter_mut().zip(pairs).for_each(|(dx, (a, b))| *dx = a + b);
                }
            }
            for dy in rest.iter().skip(1) {
                dx.iter_mut().zip(&dy[at.clone()]).for_each(|(dx, dy)| *dx += dy);
            }
        });
        Ok(())
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    Ok(Box::new(Split { tops: setup.tops }))
}

/// `Split`.
pub static DEF: LayerDef =
    LayerDef::new("Split", "one blob for several readers; gradients are summed", build)
        .counts(Count::Exactly(1), Count::AtLeast(1))
        .aliasing(Alias::Values);
