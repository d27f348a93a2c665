//! Correlations by their definition, in double precision, for any number of axes up to three.

use crate::device::cuda::backend::{Axis, Correlation};

/// Floats of the three arrays.
pub(super) struct Sizes {
    pub(super) x: usize,
    pub(super) w: usize,
    pub(super) y: usize,
}

impl Sizes {
    pub(super) fn of(shape: &Correlation) -> Sizes {
        let all = |of: fn(&Axis) -> usize| shape.axes.iter().map(of).product::<usize>();
        Sizes {
            x: shape.images * shape.channels * all(|axis| axis.image),
            w: shape.weights(),
            y: shape.images * shape.outputs * all(|axis| axis.positions),
        }
    }
}

/// Calls `f(x, w, y)` with the indices of every product that the definition adds up, y by y.
fn each(shape: &Correlation, mut f: impl FnMut(usize, usize, usize)) {
    let all = |of: fn(&Axis) -> usize| shape.axes.iter().map(of).product::<usize>();
    let (image, kernel, positions) =
        (all(|axis| axis.image), all(|axis| axis.kernel), all(|axis| axis.positions));
    let inputs = shape.channels / shape.groups;
    let outputs = shape.outputs / shape.groups;
    for n in 0..shape.images {
        for o in 0..shape.outputs {
            for at in 0..positions {
                let y = (n * shape.outputs + o) * positions + at;
                for c in 0..inputs {
                    let plane = (n * shape.channels + o / outputs * inputs + c) * image;
                    for k in 0..kernel {
                        if let Some(under) = under(&shape.axes, k, at) {
                            f(plane + under, (o * inputs + c) * kernel + k, y);
                        }
                    }
                }
            }
        }
    }
}

/// The image element under kernel element `k` at position `at`.
fn under(axes: &[Axis], mut k: usize, mut at: usize) -> Option<usize> {
    let (mut index, mut scale) = (0, 1);
    for axis in axes.iter().rev() {
        let place = at % axis.positions * axis.stride + k % axis.kernel * axis.dilation;
        let place = place.checked_sub(axis.pad).filter(|place| *place < axis.image)?;
        index += place * scale;
        (at, k, scale) = (at / axis.positions, k / axis.kernel, scale * axis.image);
    }
    Some(index)
}

pub(super) fn forward(shape: &Correlation, x: &[f32], w: &[f32]) -> Vec<f32> {
    let mut sums = vec![0.0f64; Sizes::of(shape).y];
    each(shape, |i, j, k| sums[k] += f64::from(x[i]) * f64::from(w[j]));
    rounded(&sums)
}

pub(super) fn back(shape: &Correlation, w: &[f32], dy: &[f32]) -> Vec<f32> {
    let mut sums = vec![0.0f64; Sizes::of(shape).x];
    each(shape, |i, j, k| sums[i] += f64::from(dy[k]) * f64::from(w[j]));
    rounded(&sums)
}

pub(super) fn weights(shape: &Correlation, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let mut sums = vec![0.0f64; Sizes::of(shape).w];
    each(shape, |i, j, k| sums[j] += f64::from(x[i]) * f64::from(dy[k]));
    rounded(&sums)
}

fn rounded(sums: &[f64]) -> Vec<f32> {
    sums.iter().map(|sum| *sum as f32).collect()
}
