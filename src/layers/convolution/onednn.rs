//! The fast path: oneDNN's kernels on blocked activations, for images with two spatial axes.
//!
//! Inputs and outputs keep the layout the kernels are fastest in, from layer to layer; only images
//! with a handful of channels stay plain. Weights come from the arena in Caffe's order and are
//! packed anew when its version has changed. What must be compiled is known when the first forward
//! pass comes, since by then the net has decided who needs a gradient and who does a ReLU's work.
//!
//! Not here: other numbers of axes, and groups whose channels do not fill whole blocks. Those take
//! the plain path.

use super::Setting;
use super::geometry::Axis;
use crate::Result;
use crate::blob::{Layout, Shape};
use crate::device::cpu::onednn::{Context, ConvConfig, Convolution, Error};
use crate::layers::Io;
use crate::layers::per_channel::Channels;

/// A convolution of one size on the fast path.
pub struct Fast {
    /// Directions and ReLU are filled in when it is compiled.
    config: ConvConfig,
    compiled: Option<Convolution>,
    /// Version of the weights that are packed.
    packed: Option<u64>,
    /// Takes a bias gradient that nobody asked for.
    unasked: Vec<f32>,
    partial: Vec<[f64; 1]>,
}

impl Fast {
    /// The fast path of this convolution; `None` where there is none.
    pub fn new(setting: &Setting, bottom: &Shape, axes: &[Axis]) -> Option<Fast> {
        let blocked = Layout::preferred_blocked();
        let [rows, columns] = axes else { return None };
        if setting.axis != 1 || !blocked.is_blocked() {
            return None;
        }
        let both = |f: fn(&Axis) -> usize| [f(rows), f(columns)];
        let config = ConvConfig {
            n: bottom[0],
            ic: setting.channels,
            input: both(|a| a.image),
            oc: setting.outputs,
            output: both(|a| a.positions),
            kernel: both(|a| a.kernel),
            stride: both(|a| a.stride),
            pad: both(|a| a.pad),
            dilation: both(|a| a.dilation),
            groups: setting.groups,
            bias: setting.param.bias_term(),
            fuse_relu: false,
            winograd: true,
            src_layout: ConvConfig::preferred_src_layout(setting.channels, setting.groups),
            dst_layout: blocked,
            backward_data: false,
            backward_weights: false,
        };
        let unasked = vec![0.0; setting.outputs];
        Some(Fast { config, compiled: None, packed: None, unasked, partial: Vec::new() })
    }

    /// Names of the compiled kernels, by direction.
    pub fn kernels(&self) -> Vec<(&'static str, String)> {
        self.compiled.as_ref().map_or_else(Vec::new, Convolution::impl_info)
    }

    /// Compiles what these blobs need, if that is not done, and packs the weights, if they have
    /// changed. `false` where oneDNN cannot do this convolution.
    ///
    /// # Errors
    /// Where oneDNN fails.
    pub fn prepare(&mut self, cx: &Context, io: &Io<'_>, relu: bool) -> Result<bool> {
        let wanted = ConvConfig {
            fuse_relu: relu,
            backward_data: (0..io.bottoms()).any(|i| io.propagate_down(i)),
            backward_weights: io.param_needs_diff(0),
            ..self.config.clone()
        };
        if self.compiled.is_none() || wanted != self.config {
            self.packed = None;
            self.compiled = match Convolution::new(cx, &wanted) {
                Ok(compiled) => Some(compiled),
                Err(Error::Unsupported { .. }) => return Ok(false),
                Err(e) => return Err(e.into()),
            };
            self.config = wanted;
        }
        self.pack(io)?;
        Ok(true)
    }

    fn pack(&mut self, io: &Io<'_>) -> Result<()> {
        let version = Some(io.param_version());
        if let Some(compiled) = &mut self.compiled
            && self.packed != version
        {
            let bias = if self.config.bias { io.param(1)? } else { &[] };
            compiled.pack_weights(io.param(0)?, bias)?;
            self.packed = version;
        }
        Ok(())
    }

    /// tops ← bottoms ∗ weights + bias.
    ///
    /// # Errors
    /// Where oneDNN fails.
    pub fn forward(&mut self, io: &Io<'_>) -> Result<()> {
        let Some(compiled) = &mut self.compiled else { return Ok(()) };
        for i in 0..io.tops() {
            let x = io.bottom_in(i, self.config.src_layout)?;
            compiled.forward(x, io.top_mut_in(i, self.config.dst_layout)?)?;
        }
        Ok(())
    }

    /// The gradients that are wanted.
    ///
    /// # Errors
    /// Where oneDNN fails.
    pub fn backward(&mut self, cx: &Context, io: &Io<'_>) -> Result<()> {
        self.pack(io)?;
        let ConvConfig { src_layout, dst_layout, .. } = self.config;
        let weights = self.config.backward_weights;
        let bias = self.config.bias && io.param_needs_diff(1);
        let mut dw = if weights { Some(io.param_diff_mut(0)?) } else { None };
        let mut db = if bias { Some(io.param_diff_mut(1)?) } else { None };
        let Some(compiled) = &mut self.compiled else { return Ok(()) };
        for i in (0..io.tops()).filter(|&i| io.top_has_diff(i)) {
            let dy = io.top_diff_in(i, dst_layout)?;
            if let Some(dw) = &mut dw {
                let db = db.as_deref_mut().unwrap_or(&mut self.unasked);
                compiled.backward_weights(io.bottom_in(i, src_layout)?, dy, dw, db)?;
            } else if let Some(db) = &mut db {
                let channels = Channels::of_images(io.top_shape(i), dst_layout);
                let sums = channels.sums(cx.threads(), &mut self.partial, |_, i| [dy[i]]);
                db.iter_mut().zip(sums).for_each(|(db, [s])| *db += s as f32);
            }
            if io.propagate_down(i) {
                compiled.backward_data(dy, io.bottom_diff_mut_in(i, src_layout)?)?;
            }
        }
        Ok(())
    }
}
