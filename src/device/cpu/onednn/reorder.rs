//! From one memory format to another, through oneDNN's compiled reorders.
//!
//! Used for weights, whose blocked formats oneDNN chooses itself. Activations are reordered by
//! [`crate::device::cpu::reorder`].

use std::ptr;

use super::context::Context;
use super::error::{Result, check};
use super::ffi;
use super::primitive::{Arg, Attr, Md, Memory, PostOp, Primitive, PrimitiveDesc};

/// A compiled reorder.
pub(super) struct Reorder {
    primitive: Primitive,
    from: Memory,
    to: Memory,
}

impl Reorder {
    /// From `from` to `to`, adding to what is there if `post_op` is [`PostOp::Accumulate`].
    pub(super) fn new(cx: &Context, from: &Md, to: &Md, post_op: PostOp) -> Result<Self> {
        let what = || "a reorder of weights".to_owned();
        let attr = Attr::new(cx, post_op)?;
        cx.enter();
        let mut raw = ptr::null_mut();
        // SAFETY: descriptors, engine and attributes are valid; writes a new handle.
        let status = unsafe {
            let engine = cx.engine();
            let api = cx.api();
            api.dnnl_reorder_primitive_desc_create(&mut raw, from, engine, to, engine, attr.raw())
        };
        check(status, "dnnl_reorder_primitive_desc_create", what)?;
        let pd = PrimitiveDesc::from_raw(cx, raw);
        Ok(Self {
            primitive: Primitive::new(pd, &what)?,
            from: Memory::new(cx, from, "source of a reorder")?,
            to: Memory::new(cx, to, "destination of a reorder")?,
        })
    }

    /// From a format without padding.
    pub(super) fn run(&self, from: &[f32], to: &mut [f32]) -> Result<()> {
        self.primitive.execute([
            Arg::In(ffi::DNNL_ARG_FROM, &self.from, from),
            Arg::Out(ffi::DNNL_ARG_TO, &self.to, to),
        ])
    }

    /// From a format that may have padding (see [`Arg::Out`]).
    pub(super) fn run_from_own(&self, from: &mut [f32], to: &mut [f32]) -> Result<()> {
        self.primitive.execute([
            Arg::Out(ffi::DNNL_ARG_FROM, &self.from, from),
            Arg::Out(ffi::DNNL_ARG_TO, &self.to, to),
        ])
    }
}
