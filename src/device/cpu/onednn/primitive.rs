//! Descriptors, primitives and memories: the handles every primitive is built from.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use super::context::Context;
use super::error::{Error, Result, check, check_len};
use super::ffi;
use crate::blob::layout::Layout;

/// A memory descriptor: dimensions, type and format.
pub(super) type Md = ffi::dnnl_memory_desc_t;

/// Makes a dnnl dims array.
pub(super) fn dims(values: &[usize]) -> ffi::dnnl_dims_t {
    let mut dims = ffi::dnnl_dims_t::default();
    for (to, &from) in dims.iter_mut().zip(values) {
        *to = i64::try_from(from).unwrap_or(i64::MAX);
    }
    dims
}

/// A descriptor of f32 values in the format `tag`.
pub(super) fn md(cx: &Context, sizes: &[usize], tag: ffi::dnnl_format_tag_t) -> Result<Md> {
    let mut md = Md::default();
    let ndims = c_int::try_from(sizes.len()).unwrap_or(c_int::MAX);
    // SAFETY: `md` is written; `dims` has 12 entries, more than any `ndims` used here.
    let status = unsafe {
        let dims = dims(sizes);
        cx.api().dnnl_memory_desc_init_by_tag(&mut md, ndims, dims.as_ptr(), ffi::dnnl_f32, tag)
    };
    check(status, "dnnl_memory_desc_init_by_tag", || format!("a tensor of {sizes:?}"))?;
    Ok(md)
}

/// A descriptor of an activation. Channels are counted with the padding of `layout`.
pub(super) fn activation_md(cx: &Context, [n, c, h, w]: [usize; 4], layout: Layout) -> Result<Md> {
    let tag = match layout {
        Layout::Plain => ffi::dnnl_abcd,
        Layout::Blocked8 => ffi::dnnl_aBcd8b,
        Layout::Blocked16 => ffi::dnnl_aBcd16b,
    };
    md(cx, &[n, layout.padded_channels(c), h, w], tag)
}

/// Whether two descriptors mean the same bytes.
pub(super) fn same_format(cx: &Context, a: &Md, b: &Md) -> bool {
    // SAFETY: both point to initialised descriptors.
    unsafe { cx.api().dnnl_memory_desc_equal(a, b) != 0 }
}

/// Elements (f32) a descriptor's memory takes, its own padding included.
pub(super) fn md_len(cx: &Context, md: &Md) -> usize {
    // SAFETY: `md` is an initialised descriptor.
    unsafe { cx.api().dnnl_memory_desc_get_size(md) }.div_ceil(4)
}

/// Attributes: scratchpad from us, and at most one post-operation.
pub(super) struct Attr {
    cx: Context,
    raw: ffi::dnnl_primitive_attr_t,
}

/// What follows a primitive within the same pass over memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PostOp {
    None,
    /// max(0, x)
    Relu,
    /// Add the destination's old value.
    Accumulate,
}

impl Attr {
    pub(super) fn new(cx: &Context, post_op: PostOp) -> Result<Self> {
        let (api, what) = (cx.api(), || "primitive attributes".to_owned());
        let mut attr = Self { cx: cx.clone(), raw: ptr::null_mut() };
        // SAFETY: writes a new handle, owned by `attr`.
        let status = unsafe { api.dnnl_primitive_attr_create(&raw mut attr.raw) };
        check(status, "dnnl_primitive_attr_create", what)?;
        let mode = ffi::dnnl_scratchpad_mode_user;
        // SAFETY: the handle is valid.
        let status = unsafe { api.dnnl_primitive_attr_set_scratchpad_mode(attr.raw, mode) };
        check(status, "dnnl_primitive_attr_set_scratchpad_mode", what)?;
        if post_op != PostOp::None {
            attr.append(post_op)?;
        }
        Ok(attr)
    }

    fn append(&mut self, post_op: PostOp) -> Result<()> {
        let (api, what) = (self.cx.api(), || format!("post-operation {post_op:?}"));
        let mut ops = ptr::null_mut();
        // SAFETY: writes a new handle, destroyed below; the attribute takes a copy of the list.
        unsafe {
            check(api.dnnl_post_ops_create(&raw mut ops), "dnnl_post_ops_create", what)?;
            let appended = match post_op {
                PostOp::Relu => {
                    api.dnnl_post_ops_append_eltwise(ops, 1.0, ffi::dnnl_eltwise_relu, 0.0, 0.0)
                }
                _ => api.dnnl_post_ops_append_sum(ops, 1.0),
            };
            let set = api.dnnl_primitive_attr_set_post_ops(self.raw, ops);
            api.dnnl_post_ops_destroy(ops);
            check(appended, "dnnl_post_ops_append", what)?;
            check(set, "dnnl_primitive_attr_set_post_ops", what)
        }
    }

    pub(super) fn raw(&self) -> ffi::dnnl_primitive_attr_t {
        self.raw
    }
}

impl Drop for Attr {
    fn drop(&mut self) {
        // SAFETY: owned handle (or null, which is refused without harm).
        unsafe { self.cx.api().dnnl_primitive_attr_destroy(self.raw) };
    }
}

/// A primitive descriptor: an operation with its formats and its implementation chosen.
pub(super) struct PrimitiveDesc {
    cx: Context,
    raw: ffi::dnnl_primitive_desc_t,
}

impl PrimitiveDesc {
    /// Chooses an implementation for an operation descriptor.
    ///
    /// # Safety
    /// `op` points to an operation descriptor that a `dnnl_*_desc_init` call has filled.
    pub(super) unsafe fn new(
        cx: &Context,
        op: *const c_void,
        attr: &Attr,
        forward: Option<&Self>,
        what: &dyn Fn() -> String,
    ) -> Result<Self> {
        // oneDNN divides the work when it chooses, so the team's size must be known by now.
        cx.enter();
        let hint = forward.map_or(ptr::null(), |pd| pd.raw.cast_const());
        let mut pd = Self { cx: cx.clone(), raw: ptr::null_mut() };
        // SAFETY: the caller vouches for `op`; the other handles are valid.
        let status = unsafe {
            cx.api().dnnl_primitive_desc_create(&raw mut pd.raw, op, attr.raw, cx.engine(), hint)
        };
        check(status, "dnnl_primitive_desc_create", what)?;
        Ok(pd)
    }

    /// Takes over a descriptor that another call has made.
    pub(super) fn from_raw(cx: &Context, raw: ffi::dnnl_primitive_desc_t) -> Self {
        Self { cx: cx.clone(), raw }
    }

    /// One of its memory descriptors; `None` where the primitive has no such argument.
    pub(super) fn md(&self, query: ffi::dnnl_query_t) -> Option<Md> {
        // SAFETY: returns null or a descriptor that lives as long as `self`; it is copied.
        let md = unsafe { self.cx.api().dnnl_primitive_desc_query_md(self.raw, query, 0).as_ref() };
        md.copied().filter(|md| md.ndims > 0)
    }

    /// A memory descriptor the primitive must have.
    pub(super) fn wanted_md(&self, query: ffi::dnnl_query_t) -> Result<Md> {
        self.md(query).ok_or_else(|| Error::Call {
            call: "dnnl_primitive_desc_query_md",
            what: self.impl_info(),
            status: "the argument is unknown",
        })
    }

    /// The implementation's name, such as `jit:avx512_core` or `ref:any`.
    pub(super) fn impl_info(&self) -> String {
        let mut name: *const c_char = ptr::null();
        // SAFETY: this query writes a pointer to a static string.
        unsafe {
            let result = (&raw mut name).cast();
            let query = ffi::dnnl_query_impl_info_str;
            self.cx.api().dnnl_primitive_desc_query(self.raw, query, 0, result);
            if name.is_null() {
                return "unknown".to_owned();
            }
            CStr::from_ptr(name).to_string_lossy().into_owned()
        }
    }
}

impl Drop for PrimitiveDesc {
    fn drop(&mut self) {
        // SAFETY: owned handle (or null, which is refused without harm).
        unsafe { self.cx.api().dnnl_primitive_desc_destroy(self.raw) };
    }
}

/// A memory object without a buffer of its own, pointed at a slice for each call.
pub(super) struct Memory {
    cx: Context,
    raw: ffi::dnnl_memory_t,
    len: usize,
    padded: bool,
    name: &'static str,
}

impl Memory {
    pub(super) fn new(cx: &Context, md: &Md, name: &'static str) -> Result<Self> {
        let (cx, len, padded) = (cx.clone(), md_len(cx, md), md.padded_dims != md.dims);
        let mut memory = Self { cx, raw: ptr::null_mut(), len, padded, name };
        // SAFETY: `md` is initialised; a null handle (DNNL_MEMORY_NONE) means no buffer.
        let status = unsafe {
            let (api, engine) = (memory.cx.api(), memory.cx.engine());
            api.dnnl_memory_create(&raw mut memory.raw, md, engine, ptr::null_mut())
        };
        check(status, "dnnl_memory_create", || name.to_owned())?;
        Ok(memory)
    }

    /// Elements of the slices it takes.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: owned handle (or null, which is refused without harm).
        unsafe { self.cx.api().dnnl_memory_destroy(self.raw) };
    }
}

/// An argument of one call.
pub(super) enum Arg<'a> {
    /// Read only.
    In(u32, &'a Memory, &'a [f32]),
    /// Written, or read from a format with padding of its own: oneDNN zeroes such padding whenever
    /// a memory is pointed somewhere, so even as a source it needs an exclusive borrow.
    Out(u32, &'a Memory, &'a mut [f32]),
}

/// A compiled primitive.
pub(super) struct Primitive {
    cx: Context,
    raw: ffi::dnnl_primitive_t,
    pd: PrimitiveDesc,
    scratch: Option<Memory>,
    what: String,
}

/// Arguments a call may have, the scratchpad included.
const MAX_ARGS: usize = 6;

impl Primitive {
    /// Compiles the kernel and makes sure the context's scratchpad is large enough.
    pub(super) fn new(pd: PrimitiveDesc, what: &dyn Fn() -> String) -> Result<Self> {
        let cx = pd.cx.clone();
        cx.enter();
        let scratch = match pd.md(ffi::dnnl_query_scratchpad_md) {
            Some(md) if md_len(&cx, &md) > 0 => Some(Memory::new(&cx, &md, "scratchpad")?),
            _ => None,
        };
        if let Some(scratch) = &scratch {
            cx.scratchpad().reserve(scratch.len);
        }
        let mut primitive = Self { cx, raw: ptr::null_mut(), pd, scratch, what: what() };
        // SAFETY: the descriptor is valid; writes a handle owned by `primitive`.
        let status = unsafe {
            primitive.cx.api().dnnl_primitive_create(&raw mut primitive.raw, primitive.pd.raw)
        };
        check(status, "dnnl_primitive_create", what)?;
        Ok(primitive)
    }

    /// The descriptor it was made from.
    pub(super) fn desc(&self) -> &PrimitiveDesc {
        &self.pd
    }

    /// Points the memories at the slices, after checking their lengths, and runs.
    pub(super) fn execute<const N: usize>(&self, args: [Arg<'_>; N]) -> Result<()> {
        const { assert!(N < MAX_ARGS) };
        let mut raw = [ffi::dnnl_exec_arg_t { arg: 0, memory: ptr::null_mut() }; MAX_ARGS];
        for (slot, arg) in raw.iter_mut().zip(args) {
            let (id, memory, data, len) = match arg {
                Arg::In(_, memory, _) if memory.padded => {
                    let reason = "a read-only argument is in a format with padding";
                    return Err(Error::Unsupported { what: self.what.clone(), reason });
                }
                Arg::In(id, memory, s) => (id, memory, s.as_ptr().cast_mut(), s.len()),
                Arg::Out(id, memory, s) => (id, memory, s.as_mut_ptr(), s.len()),
            };
            check_len(memory.name, len, memory.len, || self.what.clone())?;
            self.point(memory, data)?;
            *slot = ffi::dnnl_exec_arg_t { arg: id.cast_signed(), memory: memory.raw };
        }
        let twice = |i: usize| raw[..i].iter().any(|other| other.memory == raw[i].memory);
        if (0..N).any(twice) {
            // It would point at the last one's slice, for both.
            let reason = "one memory stands for two arguments";
            return Err(Error::Unsupported { what: self.what.clone(), reason });
        }
        let mut count = N;
        let mut pad = self.cx.scratchpad();
        if let Some(scratch) = &self.scratch {
            self.point(scratch, pad.as_mut_ptr())?;
            raw[N] = ffi::dnnl_exec_arg_t {
                arg: ffi::DNNL_ARG_SCRATCHPAD.cast_signed(),
                memory: scratch.raw,
            };
            count += 1;
        }
        self.cx.enter();
        let (api, stream) = (self.cx.api(), self.cx.stream());
        // SAFETY: every memory points at a live slice of its descriptor's length; written ones are
        // borrowed exclusively (`Arg::Out`, scratchpad); inputs are only read. The CPU stream runs
        // the primitive before it returns.
        let status = unsafe {
            let done = api.dnnl_primitive_execute(self.raw, stream, count as c_int, raw.as_ptr());
            if done == ffi::dnnl_success { api.dnnl_stream_wait(stream) } else { done }
        };
        check(status, "dnnl_primitive_execute", || self.what.clone())
    }

    fn point(&self, memory: &Memory, data: *mut f32) -> Result<()> {
        // SAFETY: `data` points to `memory.len` values (checked by the callers), borrowed
        // exclusively where the descriptor has padding, which this call sets to zero.
        let status = unsafe { self.cx.api().dnnl_memory_set_data_handle(memory.raw, data.cast()) };
        check(status, "dnnl_memory_set_data_handle", || self.what.clone())
    }
}

impl Drop for Primitive {
    fn drop(&mut self) {
        // SAFETY: owned handle (or null, which is refused without harm).
        unsafe { self.cx.api().dnnl_primitive_destroy(self.raw) };
    }
}
