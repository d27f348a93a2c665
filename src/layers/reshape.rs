//! Reshape: other extents for the axes from `axis` on, `num_axes` of them; the values stay where
//! they are. An extent of 0 is copied from the bottom, one of −1 follows from the others.
//!
//! ```text
//! layer { name: "rows" type: "Reshape" bottom: "x" top: "y" reshape_param { shape { dim: 0 dim: -1 } } }
//! ```

use super::{Alias, Io, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::device::Run;
use crate::{Result, bail, ensure};

/// The layer.
struct Reshape {
    dims: Vec<i64>,
    axis: i32,
    num_axes: i32,
}

impl Reshape {
    /// The bottom's axes that are replaced.
    fn replaced(&self, bottom: &Shape) -> Result<std::ops::Range<usize>> {
        // One more place than axes: new axes may be put behind the last one.
        let places = bottom.axes() as i64 + 1;
        let start = i64::from(self.axis) + if self.axis < 0 { places } else { 0 };
        ensure!(
            (0..places).contains(&start),
            "axis {} is outside a bottom of shape {bottom}",
            self.axis
        );
        ensure!(self.num_axes >= -1, "num_axes must be at least -1, got {}", self.num_axes);
        let end = if self.num_axes == -1 { places - 1 } else { start + i64::from(self.num_axes) };
        ensure!(
            end < places,
            "axis {} and num_axes {} go beyond a bottom of shape {bottom}",
            self.axis,
            self.num_axes
        );
        Ok(start as usize..end as usize)
    }
}

impl Layer for Reshape {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let bottom = &bottoms[0];
        let replaced = self.replaced(bottom)?;
        let mut dims = bottom.dims()[..replaced.start].to_vec();
        let mut inferred = None;
        for (i, &dim) in self.dims.iter().enumerate() {
            match dim {
                0 => match bottom.dims().get(replaced.start + i) {
                    Some(&d) => dims.push(d),
                    None => {
                        bail!("dim {i} is 0 (copy), but the bottom of shape {bottom} ends before")
                    }
                },
                -1 => {
                    ensure!(inferred.is_none(), "only one dim may be -1");
                    inferred = Some(dims.len());
                    dims.push(1);
                }
                d => dims.push(d as usize),
            }
        }
        dims.extend_from_slice(&bottom.dims()[replaced.end..]);
        let known = Shape::new(&dims[..]).count();
        if let Some(at) = inferred {
            ensure!(
                known > 0 && bottom.count().is_multiple_of(known),
                "cannot infer the dim of -1: {} elements do not divide by {known}",
                bottom.count()
            );
            dims[at] = bottom.count() / known;
        }
        let top = Shape::new(dims);
        ensure!(
            top.count() == bottom.count(),
            "a bottom of shape {bottom} cannot take the shape {top}: the counts differ"
        );
        Ok(vec![top])
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
    let param = setup.param.reshape_param.as_deref().cloned().unwrap_or_default();
    let (axis, num_axes) = (param.axis(), param.num_axes());
    let dims = param.shape.unwrap_or_default().dim;
    if let Some(dim) = dims.iter().find(|d| **d < -1) {
        bail!("a dim must be -1 (infer), 0 (copy) or an extent, got {dim}");
    }
    Ok(Box::new(Reshape { dims, axis, num_axes }))
}

/// `Reshape`.
pub static DEF: LayerDef =
    LayerDef::new("Reshape", "other extents for the same values", build).aliasing(Alias::Both);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::CpuRun;

    fn reshaped(bottom: &[usize], dims: &[i64], axis: i32, num_axes: i32) -> Option<Vec<usize>> {
        let mut layer = Reshape { dims: dims.to_vec(), axis, num_axes };
        let mut run = Run::Cpu(CpuRun::new(1, true));
        let tops = layer.reshape(&mut run, &[Shape::new(bottom)]).ok()?;
        Some(tops[0].dims().to_vec())
    }

    #[test]
    fn copies_infers_and_replaces() {
        let x = [2, 3, 4, 5];
        assert_eq!(reshaped(&x, &[0, -1], 0, -1), Some(vec![2, 60]));
        assert_eq!(reshaped(&x, &[0, 0, -1], 0, -1), Some(vec![2, 3, 20]));
        assert_eq!(reshaped(&x, &[12], 1, 2), Some(vec![2, 12, 5]));
        assert_eq!(reshaped(&x, &[20], -3, 2), Some(vec![2, 3, 20]));
        assert_eq!(reshaped(&x, &[1], -1, 0), Some(vec![2, 3, 4, 5, 1]));
        assert_eq!(reshaped(&x, &[1], 0, 0), Some(vec![1, 2, 3, 4, 5]));
        assert_eq!(reshaped(&[1], &[], 0, -1), Some(vec![]));
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let x = [2, 3, 4];
        assert_eq!(reshaped(&x, &[-1, -1], 0, -1), None);
        assert_eq!(reshaped(&x, &[5, -1], 0, -1), None);
        assert_eq!(reshaped(&x, &[2, 3, 4, 0], 0, -1), None);
        assert_eq!(reshaped(&x, &[2, 3], 0, -1), None);
        assert_eq!(reshaped(&x, &[2], 4, -1), None);
        assert_eq!(reshaped(&x, &[2], 2, 3), None);
    }
}
