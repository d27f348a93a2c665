//! Local response normalization across channels.
//!
//! oneDNN's backward is compiled only for blocks of 16, windows of 5 and beta ¾ (AlexNet's and
//! GoogLeNet's numbers); everything else runs the loops of [`crate::device::cpu::lrn`] both ways, as
//! the two keep different things from forward for backward.

use std::ffi::c_void;

use super::context::Context;
use super::error::{Result, check, check_len};
use super::ffi;
use super::primitive::{Arg, Attr, Md, Memory, PostOp, Primitive, PrimitiveDesc, activation_md};
use crate::blob::layout::Layout;
use crate::device::cpu::aligned::AlignedBuf;
use crate::device::cpu::lrn::{Across, Shape};

/// A normalization of one shape.
#[derive(Clone, Debug, PartialEq)]
pub struct LrnConfig {
    /// Sizes and layout of all activations.
    pub shape: Shape,
    /// The formula's constants.
    pub across: Across,
    /// Whether the input's gradient will be asked for.
    pub backward: bool,
}

/// A compiled normalization.
pub struct LrnAcross {
    cx: Context,
    config: LrnConfig,
    kernels: Option<Kernels>,
    scratch: AlignedBuf,
}

/// oneDNN's, where it has compiled ones.
struct Kernels {
    /// Input, output or its gradient, input's gradient: a memory is one argument of a call.
    memories: [Memory; 3],
    forward: Primitive,
    backward: Option<Primitive>,
    workspace: Option<(Memory, AlignedBuf)>,
}

impl LrnAcross {
    /// Chooses between oneDNN's kernels and our loops, and compiles the former.
    ///
    /// # Errors
    /// Where oneDNN refuses the sizes.
    pub fn new(cx: &Context, config: &LrnConfig) -> Result<Self> {
        let across = config.across;
        let compiled = config.shape.layout == Layout::Blocked16
            && across.size == 5
            && across.beta.to_bits() == 0.75f32.to_bits();
        let kernels = if compiled { Kernels::new(cx, config)? } else { None };
        let scratch = if kernels.is_some() { 0 } else { config.shape.scratch_len(cx.threads()) };
        let scratch = AlignedBuf::zeroed(scratch);
        Ok(Self { cx: cx.clone(), config: config.clone(), kernels, scratch })
    }

    /// Names of the implementations of forward and backward.
    pub fn impl_info(&self) -> Vec<(&'static str, String)> {
        let Some(kernels) = &self.kernels else { return vec![("both", "own loops".to_owned())] };
        let mut found = vec![("forward", kernels.forward.desc().impl_info())];
        if let Some(backward) = &kernels.backward {
            found.push(("backward", backward.desc().impl_info()));
        }
        found
    }

    /// dst ← normalized src.
    ///
    /// # Errors
    /// Where a length is wrong.
    pub fn forward(&mut self, src: &[f32], dst: &mut [f32]) -> Result<()> {
        let Some(k) = &mut self.kernels else {
            self.check([("input", src.len()), ("output", dst.len())])?;
            let LrnConfig { shape, across, .. } = self.config;
            across.forward(self.cx.threads(), shape, src, dst, &mut self.scratch);
            return Ok(());
        };
        let [input, output, _] = &k.memories;
        let src = Arg::In(ffi::DNNL_ARG_SRC, input, src);
        let dst = Arg::Out(ffi::DNNL_ARG_DST, output, dst);
        match &mut k.workspace {
            Some((memory, buffer)) => {
                let workspace = Arg::Out(ffi::DNNL_ARG_WORKSPACE, memory, buffer);
                k.forward.execute([src, dst, workspace])
            }
            None => k.forward.execute([src, dst]),
        }
    }

    /// diff_src ← the gradient with respect to `src`, the input of the last forward (overwritten).
    ///
    /// # Errors
    /// Where a length is wrong, or backward was not asked for.
    pub fn backward(&mut self, src: &[f32], diff_dst: &[f32], diff_src: &mut [f32]) -> Result<()> {
        let Some(k) = &mut self.kernels else {
            self.check([("input", src.len()), ("output gradient", diff_dst.len())])?;
            self.check([("input gradient", diff_src.len())])?;
            let LrnConfig { shape, across, .. } = self.config;
            let threads = self.cx.threads();
            across.backward(threads, shape, src, diff_dst, diff_src, &mut self.scratch);
            return Ok(());
        };
        let Some(backward) = &k.backward else {
            let what = format!("backward of {:?}", self.config);
            let reason = "backward was not asked for when it was made";
            return Err(super::Error::Unsupported { what, reason });
        };
        let [input, output, gradient] = &k.memories;
        let src = Arg::In(ffi::DNNL_ARG_SRC, input, src);
        let diff_dst = Arg::In(ffi::DNNL_ARG_DIFF_DST, output, diff_dst);
        let diff_src = Arg::Out(ffi::DNNL_ARG_DIFF_SRC, gradient, diff_src);
        match &mut k.workspace {
            Some((memory, buffer)) => {
                let workspace = Arg::Out(ffi::DNNL_ARG_WORKSPACE, memory, buffer);
                backward.execute([src, diff_dst, workspace, diff_src])
            }
            None => backward.execute([src, diff_dst, diff_src]),
        }
    }

    fn check<const N: usize>(&self, lengths: [(&'static str, usize); N]) -> Result<()> {
        let what = || format!("{:?}", self.config);
        let wanted = self.config.shape.len();
        lengths.into_iter().try_for_each(|(name, found)| check_len(name, found, wanted, what))
    }
}

impl Kernels {
    /// `None` where oneDNN has only its slow fallback.
    fn new(cx: &Context, config: &LrnConfig) -> Result<Option<Self>> {
        let Shape { n, channels, pixels, layout } = config.shape;
        let data = activation_md(cx, [n, channels, 1, pixels], layout)?;
        let forward = describe(cx, config, &data, None)?;
        let mut backward = None;
        if config.backward {
            let pd = describe(cx, config, &data, Some(&forward))?;
            if pd.impl_info().contains("ref") {
                return Ok(None);
            }
            backward = Some(Primitive::new(pd, &|| format!("backward of {config:?}"))?);
        }
        if forward.impl_info().contains("ref") {
            return Ok(None);
        }
        let mut workspace = None;
        if let Some(md) = forward.md(ffi::dnnl_query_workspace_md) {
            let memory = Memory::new(cx, &md, "LRN workspace")?;
            let buffer = AlignedBuf::zeroed(memory.len());
            workspace = Some((memory, buffer));
        }
        let forward = Primitive::new(forward, &|| format!("forward of {config:?}"))?;
        let memories = [
            Memory::new(cx, &data, "input")?,
            Memory::new(cx, &data, "output")?,
            Memory::new(cx, &data, "input gradient")?,
        ];
        Ok(Some(Self { memories, forward, backward, workspace }))
    }
}

/// The descriptor of forward, or of backward where forward's is given.
fn describe(
    cx: &Context,
    config: &LrnConfig,
    data: &Md,
    forward: Option<&PrimitiveDesc>,
) -> Result<PrimitiveDesc> {
    let what = || format!("{config:?}");
    let Across { size, alpha, beta, k } = config.across;
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    let algorithm = ffi::dnnl_lrn_across_channels;
    let mut op = ffi::dnnl_lrn_desc_t::default();
    let (api, o) = (cx.api(), &raw mut op);
    // SAFETY: all pointers are to live, initialised values.
    let status = unsafe {
        if forward.is_none() {
            let kind = ffi::dnnl_forward_training;
            api.dnnl_lrn_forward_desc_init(o, kind, algorithm, data, size, alpha, beta, k)
        } else {
            api.dnnl_lrn_backward_desc_init(o, algorithm, data, data, size, alpha, beta, k)
        }
    };
    check(status, "dnnl_lrn_desc_init", what)?;
    let attr = Attr::new(cx, PostOp::None)?;
    let op: *const c_void = o.cast_const().cast();
    // SAFETY: `op` was filled above.
    unsafe { PrimitiveDesc::new(cx, op, &attr, forward, &what) }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, block, context, noise, unblock};
    use super::*;
    use crate::device::cpu::lrn::naive;

    fn compare(shape: Shape, across: Across, wanted_impl: &str) {
        let Some(cx) = context(2) else { return };
        let Shape { n, channels, pixels, layout } = shape;
        let sizes = [n, channels, pixels, 1];
        let mut lrn = LrnAcross::new(&cx, &LrnConfig { shape, across, backward: true }).unwrap();
        let info = lrn.impl_info();
        assert!(info.iter().all(|(_, name)| name.contains(wanted_impl)), "{info:?}");
        let src: Vec<_> = noise(n * channels * pixels, 1).iter().map(|v| v * 20.0).collect();
        let diff = noise(src.len(), 2);
        let (src_b, diff_b) = (block(&src, sizes, layout), block(&diff, sizes, layout));
        let mut dst = vec![f32::NAN; shape.len()];
        let mut diff_src = dst.clone();
        lrn.forward(&src_b, &mut dst).unwrap();
        lrn.backward(&src_b, &diff_b, &mut diff_src).unwrap();
        let (wanted_dst, wanted_diff) = naive(shape, across, &src, &diff);
        assert_close("dst", &unblock(&dst, sizes, layout), &wanted_dst, 1e-5);
        assert_close("diff", &unblock(&diff_src, sizes, layout), &wanted_diff, 1e-5);
    }

    #[test]
    fn alexnets_constants_run_compiled_also_with_odd_channels() {
        if Layout::preferred_blocked() != Layout::Blocked16 {
            println!("skipped: no AVX-512");
            return;
        }
        let across = Across { size: 5, alpha: 0.1, beta: 0.75, k: 1.0 };
        for channels in [16, 24, 64, 3, 20] {
            for pixels in [1, 15, 784] {
                let shape = Shape { n: 2, channels, pixels, layout: Layout::Blocked16 };
                compare(shape, across, "jit");
            }
        }
    }

    #[test]
    fn other_constants_and_layouts_run_our_loops() {
        for layout in [Layout::Plain, Layout::Blocked8, Layout::Blocked16] {
            let across = Across { size: 3, alpha: 0.5, beta: 0.6, k: 2.0 };
            compare(Shape { n: 3, channels: 20, pixels: 70, layout }, across, "own");
        }
        let across = Across { size: 5, alpha: 0.1, beta: 0.75, k: 1.0 };
        compare(Shape { n: 2, channels: 6, pixels: 9, layout: Layout::Plain }, across, "own");
    }

    #[test]
    fn wrong_lengths_are_refused_by_both() {
        let Some(cx) = context(1) else { return };
        for layout in [Layout::Plain, Layout::Blocked16] {
            let shape = Shape { n: 1, channels: 16, pixels: 4, layout };
            let across = Across { size: 5, alpha: 0.1, beta: 0.75, k: 1.0 };
            let config = LrnConfig { shape, across, backward: false };
            let mut lrn = LrnAcross::new(&cx, &config).unwrap();
            assert!(lrn.forward(&[0.0; 63], &mut [0.0; 64]).is_err());
            assert!(lrn.forward(&[0.0; 64], &mut [0.0; 65]).is_err());
        }
    }
}
