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

mod cuda;
mod plain;

use caffe_proto::lrn_parameter::NormRegion;

use super::{CudaLayer, Io, Layer, LayerDef, Setup};
use crate::blob::{Layout, Shape};
use crate::device::Run;
use crate::device::cpu::lrn::{Across, Shape as Sizes};
use crate::device::cpu::onednn::{LrnAcross, LrnConfig};
use crate::device::cuda::memory::Scratch;
use crate::{Result, ensure};
use plain::{Formula, Plain};

/// The layer.
struct Lrn {
    /// ACROSS_CHANNELS, as the fast path takes it.
    across: Option<Across>,
    fast: Option<(Layout, LrnAcross)>,
    plain: Plain,
    /// Layout of the last forward pass.
    layout: Layout,
    /// Whether `plain` is ready for the present shape and this layout.
    ready: Option<Layout>,
    /// On a device: the sums of the last forward pass, and terms of the gradient.
    on_device: [Scratch; 2],
}

impl Lrn {
    /// Makes oneDNN's kernels ready; `false` where it has none for the formula or is missing.
    fn prepare_fast(&mut self, run: &mut Run, io: &Io<'_>) -> Result<bool> {
        let (Some(across), Some(cx)) = (self.across, &run.cpu()?.onednn) else {
            return Ok(false);
        };
        let layout = io.bottom_layout(0);
        if self.fast.as_ref().is_none_or(|(made_for, _)| *made_for != layout) {
            let [n, channels, h, w] = io.bottom_shape(0).nchw()?;
            let shape = Sizes { n, channels, pixels: h * w, layout };
            let config = LrnConfig { shape, across, backward: io.propagate_down(0) };
            self.fast = Some((layout, LrnAcross::new(cx, &config)?));
        }
        Ok(true)
    }

    /// Makes the own loops ready for the layout they can work in.
    fn prepare_plain(&mut self, run: &mut Run, io: &Io<'_>) -> Result<()> {
        let any = self.across.is_none() && run.cpu()?.onednn.is_some();
        self.layout = if any { io.bottom_layout(0) } else { Layout::Plain };
        if self.ready != Some(self.layout) {
            self.plain.reshape(io.bottom_shape(0), self.layout);
            self.ready = Some(self.layout);
        }
        Ok(())
    }
}

impl Layer for Lrn {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let bottom = &bottoms[0];
        ensure!(bottom.axes() == 4, "needs a bottom with axes N, C, H, W; its shape is {bottom}");
        (self.fast, self.ready) = (None, None);
        Ok(vec![bottom.clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if self.prepare_fast(run, &io)?
            && let Some((layout, fast)) = &mut self.fast
        {
            let (x, y) = (io.bottom_in(0, *layout)?, io.top_mut_in(0, *layout)?);
            return Ok(fast.forward(x, y)?);
        }
        self.prepare_plain(run, &io)?;
        let (x, y) = (io.bottom_in(0, self.layout)?, io.top_mut_in(0, self.layout)?);
        self.plain.forward(run.threads(), x, y);
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let layout = self.fast.as_ref().map_or(self.layout, |(layout, _)| *layout);
        let (x, dy) = (io.bottom_in(0, layout)?, io.top_diff_in(0, layout)?);
        let dx = io.bottom_diff_mut_in(0, layout)?;
        match &mut self.fast {
            Some((_, fast)) => fast.backward(x, dy, dx)?,
            None => self.plain.backward(run.threads(), x, dy, dx),
        }
        Ok(())
    }

    fn kernels(&self) -> Vec<(&'static str, String)> {
        self.fast.as_ref().map_or_else(Vec::new, |(_, fast)| fast.impl_info())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.lrn_param.as_deref().cloned().unwrap_or_default();
    let size = param.local_size() as usize;
    ensure!(size % 2 == 1, "local_size must be odd, got {size}");
    let within = param.norm_region() == NormRegion::WithinChannel;
    let neighbours = if within { size * size } else { size };
    let (alpha, beta, k) = (param.alpha(), param.beta(), param.k());
    Ok(Box::new(Lrn {
        across: (!within).then_some(Across { size, alpha, beta, k }),
        fast: None,
        layout: Layout::Plain,
        ready: None,
        on_device: Default::default(),
        plain: Plain::new(Formula {
            within,
            reach: size / 2,
            alpha: alpha / neighbours as f32,
            beta,
            k: if within { 1.0 } else { k },
        }),
    }))
}

/// `LRN`.
pub static DEF: LayerDef =
    LayerDef::new("LRN", "divides by a power of the neighbours' squares", build)
        .kernels(&[&cuda::KERNELS]);
