//! From a [`ConvConfig`] to primitive descriptors.

use std::ffi::c_void;

use super::super::context::Context;
use super::super::error::{Result, check};
use super::super::ffi;
use super::super::primitive::{Attr, Md, PostOp, PrimitiveDesc, activation_md, dims, md};
use super::config::ConvConfig;

/// The descriptors of one convolution (whose channels are whole blocks already).
pub(super) struct Plan<'a> {
    cx: &'a Context,
    config: &'a ConvConfig,
    pub(super) src: Md,
    pub(super) dst: Md,
    pub(super) bias: Md,
    /// Weights in whatever format suits the implementation.
    any_weights: Md,
    /// Weights as Caffe has them: (G)OIHW.
    pub(super) plain_weights: Md,
}

/// Which of the three passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    Forward,
    BackwardData,
    BackwardWeights,
}

impl<'a> Plan<'a> {
    pub(super) fn new(cx: &'a Context, config: &'a ConvConfig) -> Result<Self> {
        let ConvConfig { n, ic, oc, groups, .. } = *config;
        let ([ih, iw], [oh, ow], [kh, kw]) = (config.input, config.output, config.kernel);
        let grouped = [groups, oc / groups, ic / groups, kh, kw];
        let (sizes, plain) = if groups == 1 {
            (&grouped[1..], ffi::dnnl_abcd)
        } else {
            (&grouped[..], ffi::dnnl_abcde)
        };
        Ok(Self {
            cx,
            config,
            src: activation_md(cx, [n, ic, ih, iw], config.src_layout)?,
            dst: activation_md(cx, [n, oc, oh, ow], config.dst_layout)?,
            bias: md(cx, &[oc], ffi::dnnl_a)?,
            any_weights: md(cx, sizes, ffi::dnnl_format_tag_any)?,
            plain_weights: md(cx, sizes, plain)?,
        })
    }

    /// The implementation of one pass: Winograd where it is wanted and oneDNN has compiled kernels
    /// for it, direct otherwise.
    pub(super) fn choose(
        &self,
        pass: Pass,
        forward: Option<&PrimitiveDesc>,
    ) -> Result<PrimitiveDesc> {
        if self.config.wants_winograd() {
            match self.desc(pass, ffi::dnnl_convolution_winograd, forward) {
                Ok(pd) if pd.impl_info().contains("wino") => return Ok(pd),
                // Not for these sizes or this CPU: the direct algorithm always exists.
                Ok(_) | Err(_) => {}
            }
        }
        self.desc(pass, ffi::dnnl_convolution_direct, forward)
    }

    fn desc(
        &self,
        pass: Pass,
        algorithm: ffi::dnnl_alg_kind_t,
        forward: Option<&PrimitiveDesc>,
    ) -> Result<PrimitiveDesc> {
        let what = || format!("{pass:?} of {}", self.config);
        let relu = pass == Pass::Forward && self.config.fuse_relu;
        let attr = Attr::new(self.cx, if relu { PostOp::Relu } else { PostOp::None })?;
        let op = self.op_desc(pass, algorithm)?;
        let op: *const c_void = (&raw const op).cast();
        // SAFETY: `op` was filled by `op_desc`.
        unsafe { PrimitiveDesc::new(self.cx, op, &attr, forward, &what) }
    }

    fn op_desc(
        &self,
        pass: Pass,
        algorithm: ffi::dnnl_alg_kind_t,
    ) -> Result<ffi::dnnl_convolution_desc_t> {
        let api = self.cx.api();
        let (src, dst, weights) = (&raw const self.src, &raw const self.dst, &self.any_weights);
        let weights: *const Md = weights;
        let bias = if self.config.bias { &raw const self.bias } else { std::ptr::null() };
        let (stride, begin) = (dims(&self.config.stride), dims(&self.config.pad));
        let end = dims(&self.config.pad_end());
        // oneDNN counts the gaps between taps, Caffe the distance.
        let gaps = dims(&self.config.dilation.map(|d| d.saturating_sub(1)));
        let (s, g, b, e) = (stride.as_ptr(), gaps.as_ptr(), begin.as_ptr(), end.as_ptr());
        let mut op = ffi::dnnl_convolution_desc_t::default();
        let o = &raw mut op;
        // SAFETY: all pointers are to live, initialised values; a null bias means none.
        let status = unsafe {
            match pass {
                Pass::Forward => api.dnnl_dilated_convolution_forward_desc_init(
                    o,
                    // Not inference: its Winograd weights would be in an opaque format.
                    ffi::dnnl_forward_training,
                    algorithm,
                    src,
                    weights,
                    bias,
                    dst,
                    s,
                    g,
                    b,
                    e,
                ),
                Pass::BackwardData => api.dnnl_dilated_convolution_backward_data_desc_init(
                    o, algorithm, src, weights, dst, s, g, b, e,
                ),
                Pass::BackwardWeights => api.dnnl_dilated_convolution_backward_weights_desc_init(
                    o, algorithm, src, weights, bias, dst, s, g, b, e,
                ),
            }
        };
        check(status, "dnnl_dilated_convolution_desc_init", || {
            format!("{pass:?} of {}", self.config)
        })?;
        Ok(op)
    }
}
