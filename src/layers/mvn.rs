//! MVN: every image, or every channel of every image, with mean 0 and deviation 1,
//! y = (x − mean) / (deviation + eps).
//!
//! ```text
//! layer { name: "mvn" type: "MVN" bottom: "x" top: "y"
//!         mvn_param { across_channels: true normalize_variance: true eps: 1e-9 } }
//! ```
//! Groups are the first axis's indices with `across_channels`, else those of the first two axes.
//! `normalize_variance: false` only takes the mean away. The gradient is that of eps = 0 divided by
//! (deviation + eps), as in BVLC Caffe: exact for the small eps that the layer is made for.

use caffe_proto::MvnParameter;

use super::{Io, Layer, LayerDef, Setup};
use crate::Result;
use crate::blob::{Layout, Shape};
use crate::device::Run;

/// What a group's elements were reduced by, and then multiplied with.
#[derive(Clone, Copy, Default)]
struct Moments {
    mean: f32,
    inverse: f32,
}

/// The layer.
struct Mvn {
    param: MvnParameter,
    /// Elements of a group.
    len: usize,
    /// Of every group in the last forward pass.
    moments: Vec<Moments>,
    /// In place: the top, for the gradient, since the next layer may overwrite it.
    saved: Vec<f32>,
}

impl Mvn {
    fn measure(&self, x: &[f32]) -> Moments {
        let n = x.len() as f64;
        let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        if !self.param.normalize_variance() {
            return Moments { mean: mean as f32, inverse: 1.0 };
        }
        let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
        let deviation = variance.sqrt() as f32;
        Moments { mean: mean as f32, inverse: 1.0 / (deviation + self.param.eps()) }
    }
}

impl Layer for Mvn {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let x = &bottoms[0];
        let groups = if self.param.across_channels() { 1 } else { 2 }.min(x.axes());
        self.len = x.count_from(groups);
        self.moments.resize(x.count_to(groups), Moments::default());
        Ok(vec![x.clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let (x, y) = if io.in_place() {
            (None, io.top_update_in(0, Layout::Plain)?)
        } else {
            (Some(io.bottom(0)?), io.top_mut(0)?)
        };
        let mut moments = std::mem::take(&mut self.moments);
        run.threads().par_zip2_mut((&mut *y, self.len), (&mut moments[..], 1), |i, y, moments| {
            if let Some(x) = x {
                y.copy_from_slice(&x[i * self.len..][..self.len]);
            }
            moments[0] = self.measure(y);
            let Moments { mean, inverse } = moments[0];
            y.iter_mut().for_each(|y| *y = (*y - mean) * inverse);
        });
        self.moments = moments;
        self.saved.clear();
        if io.in_place() && io.propagate_down(0) {
            self.saved.extend_from_slice(y);
        }
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let (x, dy, dx) = if io.in_place() {
            (None, None, io.bottom_diff_update_in(0, Layout::Plain)?)
        } else {
            (Some(io.bottom(0)?), Some(io.top_diff(0)?), io.bottom_diff_mut(0)?)
        };
        let normalize = self.param.normalize_variance();
        run.threads().par_chunks_mut(dx, self.len, |i, dx| {
            let here = i * self.len..(i + 1) * self.len;
            if let Some(dy) = dy {
                dx.copy_from_slice(&dy[here.clone()]);
            }
            let Moments { mean, inverse } = self.moments[i];
            let normal = |k: usize| match x {
                Some(x) => (x[here.start + k] - mean) * inverse,
                None => self.saved[here.start + k],
            };
            let n = dx.len() as f64;
            let mean_dy = dx.iter().map(|dy| f64::from(*dy)).sum::<f64>() / n;
            let product = |(k, dy): (usize, &f32)| f64::from(*dy) * f64::from(normal(k));
            let mean_product =
                if normalize { dx.iter().enumerate().map(product).sum::<f64>() / n } else { 0.0 };
            let (mean_dy, mean_product) = (mean_dy as f32, mean_product as f32);
            for (k, dx) in dx.iter_mut().enumerate() {
                *dx = (*dx - mean_dy - normal(k) * mean_product) * inverse;
            }
        });
        Ok(())
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.mvn_param.as_deref().cloned().unwrap_or_default();
    Ok(Box::new(Mvn { param, len: 0, moments: Vec::new(), saved: Vec::new() }))
}

/// `MVN`.
pub static DEF: LayerDef =
    LayerDef::new("MVN", "every image or channel with mean 0 and deviation 1", build).in_place();

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{gradient, net, set, values};

    fn text(top: &str, param: &str) -> String {
        format!(
            "force_backward: true \
             layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ dim: 1 dim: 2 dim: 2 }} }} }} \
             layer {{ name: 'm' type: 'MVN' bottom: 'x' top: '{top}' mvn_param {{ {param} }} }}"
        )
    }

    #[test]
    fn groups_are_channels_or_images() {
        for (param, wanted) in [
            ("normalize_variance: false", [-1.0, 1.0, -2.0, 2.0]),
            ("", [-1.0, 1.0, -1.0, 1.0]),
            ("eps: 1", [-0.5, 0.5, -2.0 / 3.0, 2.0 / 3.0]),
            ("across_channels: true normalize_variance: false", [-4.0, -2.0, 1.0, 5.0]),
        ] {
            for top in ["y", "x"] {
                let mut net = net(&text(top, param), Phase::Test);
                set(&mut net, "x", &[1.0, 3.0, 6.0, 10.0]);
                net.forward().unwrap();
                assert_eq!(values(&mut net, top), wanted, "{param}");
            }
        }
    }

    #[test]
    fn the_gradient_is_the_same_in_place() {
        let gradient_with = |top: &str| {
            let mut net = net(&text(top, "across_channels: true"), Phase::Train);
            set(&mut net, "x", &[1.0, 3.0, 6.0, 11.0]);
            net.forward().unwrap();
            let top = net.blob(top).unwrap();
            net.diff_mut(top).unwrap().copy_from_slice(&[1.0, -2.0, 0.5, 3.0]);
            net.backward().unwrap();
            gradient(&mut net, "x")
        };
        let (apart, in_place) = (gradient_with("y"), gradient_with("x"));
        assert!(apart.iter().zip(&in_place).all(|(a, b)| (a - b).abs() < 1e-6), "{apart:?}");
        assert!(apart[0].abs() > 1e-3);
    }
}
