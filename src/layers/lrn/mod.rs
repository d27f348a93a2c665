//! LRN, local response normalization: y = x / s^beta with s = k + alpha / n · Σ x² over the n =
//! `local_size` channels around (ACROSS_CHANNELS), or s = 1 + alpha / n² · Σ x² over the n × n
//! elements around in the same plane (WITHIN_CHANNEL, which has no k).
//!
//! ```text
//! layer { name: "norm1" type: "LRN" bottom: "pool1" top: "norm1"
//!         lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 norm_region: ACROSS_CHANNELS } }
//! ```
//! The gradient: dx = dy · s^−beta − 2 · alpha · beta / n · x · Σ dy · x · s^(−beta−1) over the same
//! neighbours (n² for WITHIN_CHANNEL). `engine` makes no difference.

mod plain;

use caffe_proto::lrn_parameter::NormRegion;

use super::{Io, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::device::Run;
use crate::{Result, ensure};
use plain::{Formula, Plain};

/// The layer.
struct Lrn {
    plain: Plain,
}

impl Layer for Lrn {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let bottom = &bottoms[0];
        ensure!(bottom.axes() == 4, "needs a bottom with axes N, C, H, W; its shape is {bottom}");
        self.plain.reshape(bottom);
        Ok(vec![bottom.clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        self.plain.forward(run.threads(), io.bottom(0)?, io.top_mut(0)?);
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if io.propagate_down(0) {
            let (x, dy, dx) = (io.bottom(0)?, io.top_diff(0)?, io.bottom_diff_mut(0)?);
            self.plain.backward(run.threads(), x, dy, dx);
        }
        Ok(())
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.lrn_param.as_deref().cloned().unwrap_or_default();
    let size = param.local_size() as usize;
    ensure!(size % 2 == 1, "local_size must be odd, got {size}");
    let within = param.norm_region() == NormRegion::WithinChannel;
    let neighbours = if within { size * size } else { size };
    Ok(Box::new(Lrn {
        plain: Plain::new(Formula {
            within,
            reach: size / 2,
            alpha: param.alpha() / neighbours as f32,
            beta: param.beta(),
            k: if within { 1.0 } else { param.k() },
        }),
    }))
}

/// `LRN`.
pub static DEF: LayerDef =
    LayerDef::new("LRN", "divides by a power of the neighbours' squares", build);
