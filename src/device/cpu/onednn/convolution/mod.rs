//! Convolution: direct, Winograd and 1×1 kernels compiled by oneDNN.
//!
//! Weights come and go in Caffe's order (OC × IC/groups × KH × KW). The kernels want them blocked,
//! so a [`Convolution`] keeps packed copies: call [`Convolution::pack_weights`] whenever the weights
//! have changed, before the next forward. Gradients are added to the caller's, in Caffe's order.
//! Input and output have the layouts of the [`ConvConfig`], and their gradients the same ones;
//! padding channels must be zero on the way in and are zero on the way out.
//!
//! Not here: other than two spatial axes, and the choice of layouts (the net's).

mod config;
mod plan;
mod weights;

pub use config::ConvConfig;

use self::plan::{Pass, Plan};
use self::weights::{Packed, Rows, Unpack};
use super::context::Context;
use super::error::{Result, check_len};
use super::ffi;
use super::primitive::{Arg, Memory, Primitive, PrimitiveDesc, same_format};
use crate::blob::layout::Layout;
use crate::device::cpu::aligned::AlignedBuf;
use crate::device::cpu::reorder;

/// A compiled convolution of one shape.
pub struct Convolution {
    cx: Context,
    config: ConvConfig,
    src: Memory,
    dst: Memory,
    forward: Primitive,
    weights: Packed,
    weights_memory: Memory,
    /// Bias with its padding channels, and its memory; gradients use the second buffer.
    bias: Option<Bias>,
    backward_data: Option<BackwardData>,
    backward_weights: Option<BackwardWeights>,
}

struct Bias {
    memory: Memory,
    values: AlignedBuf,
    diff: AlignedBuf,
}

struct BackwardData {
    primitive: Primitive,
    /// Present where the kernel wants another format than forward's.
    own_weights: Option<(Packed, Memory)>,
    /// Present where the kernel's result is blocked and the caller's plain.
    blocked_src: Option<Memory>,
}

struct BackwardWeights {
    primitive: Primitive,
    memory: Memory,
    unpack: Unpack,
}

impl BackwardData {
    fn new(
        cx: &Context,
        config: &ConvConfig,
        plan: &Plan<'_>,
        forward: &PrimitiveDesc,
    ) -> Result<Self> {
        if config.src_layout == Layout::Plain && config.dst_layout.is_blocked() {
            return Self::through_blocks(cx, config);
        }
        let rows = Rows::new(config, &config.padded()?);
        let pd = plan.choose(Pass::BackwardData, Some(forward))?;
        let md = pd.wanted_md(ffi::dnnl_query_weights_md)?;
        let mut own_weights = None;
        if !same_format(cx, &md, &forward.wanted_md(ffi::dnnl_query_weights_md)?) {
            let packed = Packed::new(cx, rows, &plan.plain_weights, &md)?;
            own_weights = Some((packed, Memory::new(cx, &md, "packed weights")?));
        }
        let primitive = Primitive::new(pd, &|| format!("backward data of {config}"))?;
        Ok(Self { primitive, own_weights, blocked_src: None })
    }

    /// The gradient of a plain image: oneDNN reads plain images with compiled kernels, but writes
    /// their gradients with its reference loops, some hundred times slower. So the gradient is
    /// computed blocked, in the staging buffer, and reordered.
    fn through_blocks(cx: &Context, config: &ConvConfig) -> Result<Self> {
        let config = ConvConfig { src_layout: config.dst_layout, ..config.clone() };
        let padded = config.padded()?;
        let plan = Plan::new(cx, &padded)?;
        let forward = plan.choose(Pass::Forward, None)?;
        let pd = plan.choose(Pass::BackwardData, Some(&forward))?;
        let md = pd.wanted_md(ffi::dnnl_query_weights_md)?;
        let rows = Rows::new(&config, &padded);
        let packed = Packed::new(cx, rows, &plan.plain_weights, &md)?;
        let blocked_src = Memory::new(cx, &plan.src, "blocked input gradient")?;
        cx.staging().reserve(blocked_src.len());
        Ok(Self {
            primitive: Primitive::new(pd, &|| format!("backward data of {config}"))?,
            own_weights: Some((packed, Memory::new(cx, &md, "packed weights")?)),
            blocked_src: Some(blocked_src),
        })
    }
}

impl Convolution {
    /// Compiles the passes that `config` asks for.
    ///
    /// # Errors
    /// [`super::Error::Unsupported`] where groups do not fill blocks; [`super::Error::Call`] where
    /// oneDNN has no implementation or the sizes contradict each other.
    pub fn new(cx: &Context, config: &ConvConfig) -> Result<Self> {
        let padded = config.padded()?;
        let plan = Plan::new(cx, &padded)?;
        let rows = Rows::new(config, &padded);
        let forward = plan.choose(Pass::Forward, None)?;
        let weights_md = forward.wanted_md(ffi::dnnl_query_weights_md)?;

        let mut backward_data = None;
        if config.backward_data {
            backward_data = Some(BackwardData::new(cx, config, &plan, &forward)?);
        }
        let mut backward_weights = None;
        if config.backward_weights {
            let pd = plan.choose(Pass::BackwardWeights, Some(&forward))?;
            let md = pd.wanted_md(ffi::dnnl_query_diff_weights_md)?;
            backward_weights = Some(BackwardWeights {
                memory: Memory::new(cx, &md, "packed weight gradient")?,
                unpack: Unpack::new(cx, rows, &md, &plan.plain_weights)?,
                primitive: Primitive::new(pd, &|| format!("backward weights of {config}"))?,
            });
        }
        let bias = config.bias.then(|| -> Result<Bias> {
            let values = AlignedBuf::zeroed(padded.oc);
            let memory = Memory::new(cx, &plan.bias, "bias")?;
            Ok(Bias { memory, diff: values.clone(), values })
        });
        Ok(Self {
            cx: cx.clone(),
            config: config.clone(),
            src: Memory::new(cx, &plan.src, "input")?,
            dst: Memory::new(cx, &plan.dst, "output")?,
            weights: Packed::new(cx, rows, &plan.plain_weights, &weights_md)?,
            weights_memory: Memory::new(cx, &weights_md, "packed weights")?,
            forward: Primitive::new(forward, &|| format!("forward of {config}"))?,
            bias: bias.transpose()?,
            backward_data,
            backward_weights,
        })
    }

    /// What it computes.
    pub fn config(&self) -> &ConvConfig {
        &self.config
    }

    /// Elements of the input buffer, in its layout.
    pub fn src_len(&self) -> usize {
        self.src.len()
    }

    /// Elements of the output buffer, in its layout.
    pub fn dst_len(&self) -> usize {
        self.dst.len()
    }

    /// Names of the implementations of forward, backward data and backward weights, for
    /// diagnostics; a name with `ref` in it is oneDNN's slow fallback.
    pub fn impl_info(&self) -> Vec<(&'static str, String)> {
        let mut found = vec![("forward", self.forward.desc().impl_info())];
        if let Some(b) = &self.backward_data {
            found.push(("backward data", b.primitive.desc().impl_info()));
        }
        if let Some(b) = &self.backward_weights {
            found.push(("backward weights", b.primitive.desc().impl_info()));
        }
        found
    }

    /// Takes weights (OC × IC/groups × KH × KW) and bias (OC; ignored without one) in Caffe's order.
    ///
    /// # Errors
    /// Where a length is wrong.
    pub fn pack_weights(&mut self, weights: &[f32], bias: &[f32]) -> Result<()> {
        self.weights.pack(&self.cx, weights)?;
        if let Some((packed, _)) =
            self.backward_data.as_mut().and_then(|backward| backward.own_weights.as_mut())
        {
            packed.pack(&self.cx, weights)?;
        }
        if let Some(own) = &mut self.bias {
            check_len("bias", bias.len(), self.config.oc, || self.config.to_string())?;
            own.values[..bias.len()].copy_from_slice(bias);
        }
        Ok(())
    }

    /// dst ← src ∗ weights + bias (then max(0, ·) if fused).
    ///
    /// # Errors
    /// Where a length is wrong.
    pub fn forward(&mut self, src: &[f32], dst: &mut [f32]) -> Result<()> {
        let src = Arg::In(ffi::DNNL_ARG_SRC, &self.src, src);
        let weights =
            Arg::Out(ffi::DNNL_ARG_WEIGHTS, &self.weights_memory, &mut self.weights.values);
        let dst = Arg::Out(ffi::DNNL_ARG_DST, &self.dst, dst);
        match &self.bias {
            Some(bias) => {
                let bias = Arg::In(ffi::DNNL_ARG_BIAS, &bias.memory, &bias.values);
                self.forward.execute([src, weights, bias, dst])
            }
            None => self.forward.execute([src, weights, dst]),
        }
    }

    /// diff_src ← the gradient with respect to the input (overwritten).
    ///
    /// # Errors
    /// Where a length is wrong, or backward data was not asked for.
    pub fn backward_data(&mut self, diff_dst: &[f32], diff_src: &mut [f32]) -> Result<()> {
        let Some(backward) = &mut self.backward_data else {
            return Err(self.not_compiled("backward data was not asked for when it was made"));
        };
        let (memory, values) = match &mut backward.own_weights {
            Some((packed, memory)) => (&*memory, &mut packed.values),
            None => (&self.weights_memory, &mut self.weights.values),
        };
        let diff_dst = Arg::In(ffi::DNNL_ARG_DIFF_DST, &self.dst, diff_dst);
        let weights = Arg::Out(ffi::DNNL_ARG_WEIGHTS, memory, values);
        let Some(blocked) = &backward.blocked_src else {
            let diff_src = Arg::Out(ffi::DNNL_ARG_DIFF_SRC, &self.src, diff_src);
            return backward.primitive.execute([diff_dst, weights, diff_src]);
        };
        let what = || self.config.to_string();
        check_len("input gradient", diff_src.len(), self.src.len(), what)?;
        let mut staging = self.cx.staging();
        let staged = &mut staging[..blocked.len()];
        let staged_src = Arg::Out(ffi::DNNL_ARG_DIFF_SRC, blocked, &mut *staged);
        backward.primitive.execute([diff_dst, weights, staged_src])?;
        let ConvConfig { n, ic: channels, input: [h, w], dst_layout, .. } = self.config;
        let shape = reorder::Shape { n, channels, pixels: h * w };
        let (from, to) = ((&*staged, dst_layout), (diff_src, Layout::Plain));
        reorder::reorder(self.cx.threads(), shape, from, to);
        Ok(())
    }

    /// Adds the gradients of weights and bias, in Caffe's order, to what the slices hold. Without a
    /// bias, `diff_bias` is ignored.
    ///
    /// # Errors
    /// Where a length is wrong, or backward weights was not asked for.
    pub fn backward_weights(
        &mut self,
        src: &[f32],
        diff_dst: &[f32],
        diff_weights: &mut [f32],
        diff_bias: &mut [f32],
    ) -> Result<()> {
        let Some(BackwardWeights { primitive, memory, unpack }) = &self.backward_weights else {
            return Err(self.not_compiled("backward weights was not asked for when it was made"));
        };
        if self.bias.is_some() {
            let what = || self.config.to_string();
            check_len("bias gradient", diff_bias.len(), self.config.oc, what)?;
        }
        let (input, output) = (&self.src, &self.dst);
        let bias = self.bias.as_mut();
        unpack.add(&self.cx, diff_weights, |packed| {
            let src = Arg::In(ffi::DNNL_ARG_SRC, input, src);
            let diff_dst = Arg::In(ffi::DNNL_ARG_DIFF_DST, output, diff_dst);
            let weights = Arg::Out(ffi::DNNL_ARG_DIFF_WEIGHTS, memory, packed);
            match bias {
                Some(bias) => {
                    let bias = Arg::Out(ffi::DNNL_ARG_DIFF_BIAS, &bias.memory, &mut bias.diff);
                    primitive.execute([src, diff_dst, weights, bias])
                }
                None => primitive.execute([src, diff_dst, weights]),
            }
        })?;
        if let Some(bias) = &self.bias {
            for (to, from) in diff_bias.iter_mut().zip(bias.diff.iter()) {
                *to += from;
            }
        }
        Ok(())
    }

    fn not_compiled(&self, reason: &'static str) -> super::Error {
        super::Error::Unsupported { what: self.config.to_string(), reason }
    }
}

#[cfg(test)]
mod tests;
