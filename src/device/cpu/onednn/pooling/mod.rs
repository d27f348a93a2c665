//! Maximum and average pooling, where oneDNN's rules are Caffe's.
//!
//! Maximum: always. Windows are clipped to the image, and among equal values the first in scan order
//! receives the gradient, as in Caffe.
//!
//! Average: Caffe divides by the window's size clipped at H + pad, so the padding at the top and
//! left, and as much of it at the bottom and right, counts; an overhang beyond that (the ceil rule)
//! does not. oneDNN counts either all or nothing:
//! * without padding, an overhang counts in neither (`avg_exclude_padding`);
//! * with padding and no overhang beyond it, all counts in both (`avg_include_padding`);
//! * with padding and an overhang, neither fits: [`Pooling::new`] returns
//!   [`Error::Unsupported`], and the plain loop has to do it.
//!
//! Not here: stochastic pooling, and the mask as a second output.

use std::ffi::c_void;
use std::fmt;

use super::context::Context;
use super::error::{Error, Result, check};
use super::ffi;
use super::primitive::{
    Arg, Attr, Md, Memory, PostOp, Primitive, PrimitiveDesc, activation_md, dims,
};
use crate::blob::layout::Layout;
use crate::device::cpu::aligned::AlignedBuf;

/// Maximum or average.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMethod {
    /// The greatest value of the window.
    Max,
    /// The mean of the window, with Caffe's divisor.
    Average,
}

/// A 2-D pooling N×C×IH×IW → N×C×OH×OW.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolConfig {
    /// Maximum or average.
    pub method: PoolMethod,
    /// Images.
    pub n: usize,
    /// Channels, without padding.
    pub channels: usize,
    /// Input height and width.
    pub input: [usize; 2],
    /// Output height and width, by Caffe's rule (the caller's work: ceil or floor, and no window
    /// that starts in the end padding).
    pub output: [usize; 2],
    /// Window height and width.
    pub kernel: [usize; 2],
    /// Step height and width.
    pub stride: [usize; 2],
    /// Padding at the top and at the left.
    pub pad: [usize; 2],
    /// Layout of all four activations.
    pub layout: Layout,
    /// Whether the input's gradient will be asked for.
    pub backward: bool,
}

impl PoolConfig {
    /// How far the last window reaches beyond the image.
    fn pad_end(&self) -> [usize; 2] {
        [0, 1].map(|i| {
            let reached = self.output[i].saturating_sub(1) * self.stride[i] + self.kernel[i];
            reached.saturating_sub(self.input[i] + self.pad[i])
        })
    }

    /// oneDNN's algorithm with Caffe's semantics, if there is one.
    fn algorithm(&self) -> Option<ffi::dnnl_alg_kind_t> {
        if self.method == PoolMethod::Max {
            return Some(ffi::dnnl_pooling_max);
        }
        if self.pad == [0, 0] {
            return Some(ffi::dnnl_pooling_avg_exclude_padding);
        }
        let end = self.pad_end();
        let inside = end[0] <= self.pad[0] && end[1] <= self.pad[1];
        inside.then_some(ffi::dnnl_pooling_avg_include_padding)
    }
}

impl fmt::Display for PoolConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([kh, kw], [ih, iw], [oh, ow]) = (self.kernel, self.input, self.output);
        write!(f, "{:?} pooling {kh}x{kw} of {}x{}x{ih}x{iw}", self.method, self.n, self.channels)?;
        write!(f, " {} -> {oh}x{ow}", self.layout)?;
        write!(f, " (stride {:?}, pad {:?})", self.stride, self.pad)
    }
}

/// A compiled pooling of one shape.
pub struct Pooling {
    config: PoolConfig,
    src: Memory,
    dst: Memory,
    forward: Primitive,
    backward: Option<Primitive>,
    workspace: Option<(Memory, AlignedBuf)>,
}

impl Pooling {
    /// Compiles the passes that `config` asks for.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where oneDNN's divisor is not Caffe's (see above), [`Error::Call`]
    /// where the sizes contradict each other.
    pub fn new(cx: &Context, config: &PoolConfig) -> Result<Self> {
        let Some(algorithm) = config.algorithm() else {
            let reason = "average windows overhang the padding, whose divisor differs from Caffe's";
            return Err(Error::Unsupported { what: config.to_string(), reason });
        };
        let ([ih, iw], [oh, ow]) = (config.input, config.output);
        let channels = config.layout.padded_channels(config.channels);
        let src = activation_md(cx, [config.n, channels, ih, iw], config.layout)?;
        let dst = activation_md(cx, [config.n, channels, oh, ow], config.layout)?;
        let forward = describe(cx, config, algorithm, [&src, &dst], None)?;
        let workspace = match forward.md(ffi::dnnl_query_workspace_md) {
            Some(md) => {
                let memory = Memory::new(cx, &md, "pooling workspace")?;
                let buffer = AlignedBuf::zeroed(memory.len());
                Some((memory, buffer))
            }
            None => None,
        };
        let mut backward = None;
        if config.backward {
            let pd = describe(cx, config, algorithm, [&src, &dst], Some(&forward))?;
            backward = Some(Primitive::new(pd, &|| format!("backward of {config}"))?);
        }
        Ok(Self {
            config: config.clone(),
            src: Memory::new(cx, &src, "input")?,
            dst: Memory::new(cx, &dst, "output")?,
            forward: Primitive::new(forward, &|| format!("forward of {config}"))?,
            backward,
            workspace,
        })
    }

    /// What it computes.
    pub fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// Names of the implementations of forward and backward.
    pub fn impl_info(&self) -> Vec<(&'static str, String)> {
        let mut found = vec![("forward", self.forward.desc().impl_info())];
        if let Some(backward) = &self.backward {
            found.push(("backward", backward.desc().impl_info()));
        }
        found
    }

    /// dst ← pooled src; remembers where the maxima were.
    ///
    /// # Errors
    /// Where a length is wrong.
    pub fn forward(&mut self, src: &[f32], dst: &mut [f32]) -> Result<()> {
        let src = Arg::In(ffi::DNNL_ARG_SRC, &self.src, src);
        let dst = Arg::Out(ffi::DNNL_ARG_DST, &self.dst, dst);
        match &mut self.workspace {
            Some((memory, buffer)) => {
                let workspace = Arg::Out(ffi::DNNL_ARG_WORKSPACE, memory, buffer);
                self.forward.execute([src, dst, workspace])
            }
            None => self.forward.execute([src, dst]),
        }
    }

    /// diff_src ← the gradient with respect to the input of the last forward (overwritten).
    ///
    /// # Errors
    /// Where a length is wrong, or backward was not asked for.
    pub fn backward(&mut self, diff_dst: &[f32], diff_src: &mut [f32]) -> Result<()> {
        let Some(backward) = &self.backward else {
            let reason = "backward was not asked for when it was made";
            return Err(Error::Unsupported { what: self.config.to_string(), reason });
        };
        let diff_dst = Arg::In(ffi::DNNL_ARG_DIFF_DST, &self.dst, diff_dst);
        let diff_src = Arg::Out(ffi::DNNL_ARG_DIFF_SRC, &self.src, diff_src);
        match &mut self.workspace {
            Some((memory, buffer)) => {
                let workspace = Arg::Out(ffi::DNNL_ARG_WORKSPACE, memory, buffer);
                backward.execute([diff_dst, workspace, diff_src])
            }
            None => backward.execute([diff_dst, diff_src]),
        }
    }
}

/// The descriptor of forward, or of backward where forward's is given.
fn describe(
    cx: &Context,
    config: &PoolConfig,
    algorithm: ffi::dnnl_alg_kind_t,
    [src, dst]: [&Md; 2],
    forward: Option<&PrimitiveDesc>,
) -> Result<PrimitiveDesc> {
    let what = || config.to_string();
    let (stride, kernel) = (dims(&config.stride), dims(&config.kernel));
    let (begin, end) = (dims(&config.pad), dims(&config.pad_end()));
    let (s, k, b, e) = (stride.as_ptr(), kernel.as_ptr(), begin.as_ptr(), end.as_ptr());
    let mut op = ffi::dnnl_pooling_desc_t::default();
    let (api, o) = (cx.api(), &raw mut op);
    // SAFETY: all pointers are to live, initialised values.
    let status = unsafe {
        if forward.is_none() {
            let kind = ffi::dnnl_forward_training;
            api.dnnl_pooling_forward_desc_init(o, kind, algorithm, src, dst, s, k, b, e)
        } else {
            api.dnnl_pooling_backward_desc_init(o, algorithm, src, dst, s, k, b, e)
        }
    };
    check(status, "dnnl_pooling_desc_init", what)?;
    let attr = Attr::new(cx, PostOp::None)?;
    let op: *const c_void = o.cast_const().cast();
    // SAFETY: `op` was filled above.
    unsafe { PrimitiveDesc::new(cx, op, &attr, forward, &what) }
}

#[cfg(test)]
mod tests;
