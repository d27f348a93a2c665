//! Every pass against its definition, in double precision, over shapes that meet every code path.

use super::super::Error;
use super::super::testing::{assert_close, block, context, noise, unblock};
use super::*;
use crate::blob::layout::Layout;

/// A dense 3×3 on small images; tests change what they are about.
fn base(ic: usize, oc: usize, src_layout: Layout, dst_layout: Layout) -> ConvConfig {
    ConvConfig {
        n: 2,
        ic,
        input: [9, 8],
        oc,
        output: [9, 8],
        kernel: [3, 3],
        stride: [1, 1],
        pad: [1, 1],
        dilation: [1, 1],
        groups: 1,
        bias: true,
        fuse_relu: false,
        winograd: false,
        src_layout,
        dst_layout,
        backward_data: true,
        backward_weights: true,
    }
}

fn blocked(ic: usize, oc: usize) -> ConvConfig {
    let layout = Layout::preferred_blocked();
    base(ic, oc, layout, layout)
}

/// The output size the window rule gives without extra padding at the end.
fn fit(mut c: ConvConfig) -> ConvConfig {
    c.output = [0, 1].map(|i| {
        let extent = (c.kernel[i] - 1) * c.dilation[i] + 1;
        (c.input[i] + 2 * c.pad[i] - extent) / c.stride[i] + 1
    });
    c
}

/// Calls `f(src index, weight index, dst index)` for every product of the convolution.
fn each_product(c: &ConvConfig, mut f: impl FnMut(usize, usize, usize)) {
    let ([ih, iw], [oh, ow], [kh, kw]) = (c.input, c.output, c.kernel);
    let (icg, ocg) = (c.ic / c.groups, c.oc / c.groups);
    let source = |o: usize, k: usize, i: usize| {
        (o * c.stride[i] + k * c.dilation[i]).checked_sub(c.pad[i]).filter(|&p| p < c.input[i])
    };
    for (b, o) in (0..c.n).flat_map(|b| (0..c.oc).map(move |o| (b, o))) {
        for (y, x) in (0..oh).flat_map(|y| (0..ow).map(move |x| (y, x))) {
            let to = ((b * c.oc + o) * oh + y) * ow + x;
            for i in 0..icg {
                for (r, s) in (0..kh).flat_map(|r| (0..kw).map(move |s| (r, s))) {
                    let (Some(py), Some(px)) = (source(y, r, 0), source(x, s, 1)) else { continue };
                    let from = ((b * c.ic + o / ocg * icg + i) * ih + py) * iw + px;
                    f(from, ((o * icg + i) * kh + r) * kw + s, to);
                }
            }
        }
    }
}

/// Compiles `c`, runs all passes and compares them with the definition; gives the kernels' names.
fn verify(c: &ConvConfig, tolerance: f32) -> Option<Vec<(&'static str, String)>> {
    let cx = context(2)?;
    let mut conv = Convolution::new(&cx, c).unwrap();
    let in_sizes = [c.n, c.ic, c.input[0], c.input[1]];
    let out_sizes = [c.n, c.oc, c.output[0], c.output[1]];
    let src = noise(in_sizes.iter().product(), 1);
    let diff_dst = noise(out_sizes.iter().product(), 2);
    let (weights, bias) = (noise(c.weights_len(), 3), noise(c.oc, 4));
    let src_b = block(&src, in_sizes, c.src_layout);
    let diff_b = block(&diff_dst, out_sizes, c.dst_layout);
    conv.pack_weights(&weights, &bias).unwrap();

    let mut wanted = vec![0.0f64; diff_dst.len()];
    each_product(c, |s, w, d| wanted[d] += f64::from(src[s]) * f64::from(weights[w]));
    let pixels = c.output[0] * c.output[1];
    for (i, v) in wanted.iter_mut().enumerate() {
        *v += if c.bias { f64::from(bias[i / pixels % c.oc]) } else { 0.0 };
        *v = if c.fuse_relu { v.max(0.0) } else { *v };
    }
    let mut dst = vec![f32::NAN; conv.dst_len()];
    conv.forward(&src_b, &mut dst).unwrap();
    let narrow = |v: &[f64]| v.iter().map(|&v| v as f32).collect::<Vec<_>>();
    assert_close("dst", &unblock(&dst, out_sizes, c.dst_layout), &narrow(&wanted), tolerance);

    if c.backward_data {
        let mut wanted = vec![0.0f64; src.len()];
        each_product(c, |s, w, d| wanted[s] += f64::from(diff_dst[d]) * f64::from(weights[w]));
        let mut diff_src = vec![f32::NAN; conv.src_len()];
        conv.backward_data(&diff_b, &mut diff_src).unwrap();
        let found = unblock(&diff_src, in_sizes, c.src_layout);
        assert_close("diff src", &found, &narrow(&wanted), tolerance);
    }
    if c.backward_weights {
        let mut wanted = vec![1.0f64; weights.len()];
        each_product(c, |s, w, d| wanted[w] += 2.0 * f64::from(src[s]) * f64::from(diff_dst[d]));
        let (mut found, mut found_bias) = (vec![1.0; weights.len()], vec![1.0; c.oc]);
        for _ in 0..2 {
            conv.backward_weights(&src_b, &diff_b, &mut found, &mut found_bias).unwrap();
        }
        assert_close("diff weights", &found, &narrow(&wanted), tolerance);
        let mut wanted = vec![1.0f64; c.oc];
        for (i, v) in diff_dst.iter().enumerate().filter(|_| c.bias) {
            wanted[i / pixels % c.oc] += 2.0 * f64::from(*v);
        }
        assert_close("diff bias", &found_bias, &narrow(&wanted), tolerance);
    }
    Some(conv.impl_info())
}

/// As `verify`, and fails where a kernel is oneDNN's slow fallback.
fn verify_compiled(c: &ConvConfig) {
    let Some(info) = verify(c, 2e-5) else { return };
    if Layout::preferred_blocked() == Layout::Blocked16 {
        assert!(info.iter().all(|(_, name)| name.contains("jit")), "{c}: {info:?}");
    }
}

#[test]
fn whole_blocks_and_odd_channels() {
    for (ic, oc) in [(16, 16), (32, 48), (24, 20), (20, 3), (1, 1), (17, 33)] {
        verify_compiled(&blocked(ic, oc));
    }
}

#[test]
fn few_channels_come_in_plain() {
    let layout = Layout::preferred_blocked();
    for (ic, oc) in [(3, 32), (1, 20), (3, 10)] {
        for (kernel, stride, pad) in [(5, 1, 2), (7, 2, 3), (11, 4, 0)] {
            let c = ConvConfig {
                input: [23, 19],
                kernel: [kernel; 2],
                stride: [stride; 2],
                pad: [pad; 2],
                ..base(ic, oc, Layout::Plain, layout)
            };
            verify_compiled(&fit(c));
        }
    }
    assert_eq!(ConvConfig::preferred_src_layout(3, 1), Layout::Plain);
    assert_eq!(ConvConfig::preferred_src_layout(64, 1), layout);
}

#[test]
fn kernels_strides_pads_and_dilations() {
    for (kernel, stride, pad, dilation) in [
        ([1, 1], [1, 1], [0, 0], [1, 1]),
        ([1, 1], [2, 2], [0, 0], [1, 1]),
        ([5, 5], [1, 1], [2, 2], [1, 1]),
        ([3, 5], [2, 1], [0, 2], [1, 1]),
        ([3, 3], [1, 1], [2, 2], [2, 2]),
        ([3, 3], [2, 2], [1, 1], [1, 1]),
        ([9, 8], [1, 1], [0, 0], [1, 1]),
    ] {
        verify_compiled(&fit(ConvConfig { kernel, stride, pad, dilation, ..blocked(32, 24) }));
    }
}

#[test]
fn padding_at_the_end_follows_from_the_output_size() {
    // Two rows of padding at the end of a 3×3: right, though not compiled in every direction.
    verify(&ConvConfig { output: [10, 9], ..blocked(16, 16) }, 2e-5);
    let cropped = ConvConfig { stride: [2, 2], output: [4, 4], pad: [0, 0], ..blocked(16, 16) };
    assert_eq!(cropped.pad_end(), [0, 1]);
    verify_compiled(&cropped);
}

#[test]
fn groups_and_depthwise() {
    verify_compiled(&ConvConfig { groups: 2, ..blocked(32, 64) });
    verify_compiled(&ConvConfig { groups: 20, ..blocked(20, 20) });
    verify_compiled(&ConvConfig { groups: 32, stride: [2, 2], output: [5, 4], ..blocked(32, 32) });
    let odd = ConvConfig { groups: 4, ..base(12, 8, Layout::Plain, Layout::Plain) };
    verify_compiled(&odd);
    if let Some(cx) = context(1) {
        let layout = Layout::preferred_blocked();
        let odd = ConvConfig { src_layout: layout, dst_layout: layout, ..odd };
        assert!(matches!(Convolution::new(&cx, &odd), Err(Error::Unsupported { .. })));
    }
}

#[test]
fn with_and_without_bias_and_relu() {
    for (bias, fuse_relu) in [(false, false), (false, true), (true, true)] {
        verify_compiled(&ConvConfig { bias, fuse_relu, ..blocked(16, 24) });
        verify_compiled(&ConvConfig { bias, fuse_relu, winograd: true, ..blocked(16, 24) });
    }
}

#[test]
fn winograd_is_taken_where_allowed_and_is_close_to_direct() {
    for (ic, oc, input) in [(64, 64, [28, 28]), (32, 48, [14, 13]), (24, 20, [9, 8])] {
        let c = fit(ConvConfig { winograd: true, input, ..blocked(ic, oc) });
        let Some(info) = verify(&c, 1e-3) else { return };
        if Layout::preferred_blocked() == Layout::Blocked16 {
            assert!(info.iter().all(|(_, name)| name.contains("wino")), "{c}: {info:?}");
        }
        let exact = ConvConfig { winograd: false, ..c };
        let Some(info) = verify(&exact, 2e-5) else { return };
        assert!(info.iter().all(|(_, name)| !name.contains("wino")), "{info:?}");
    }
    for c in [
        ConvConfig { kernel: [5, 5], pad: [2, 2], ..blocked(32, 32) },
        ConvConfig { stride: [2, 2], ..blocked(32, 32) },
        base(3, 32, Layout::Plain, Layout::preferred_blocked()),
    ] {
        assert!(!fit(ConvConfig { winograd: true, ..c }).wants_winograd());
    }
}

#[test]
fn repacked_weights_take_effect_and_runs_repeat_bit_for_bit() {
    let Some(cx) = context(2) else { return };
    let c = ConvConfig { bias: false, ..blocked(24, 20) };
    let mut conv = Convolution::new(&cx, &c).unwrap();
    let src = block(&noise(2 * 24 * 72, 1), [2, 24, 9, 8], c.src_layout);
    let mut run = |seed| {
        conv.pack_weights(&noise(c.weights_len(), seed), &[]).unwrap();
        let mut dst = vec![f32::NAN; conv.dst_len()];
        conv.forward(&src, &mut dst).unwrap();
        dst
    };
    let (first, second, again) = (run(1), run(2), run(1));
    assert_ne!(first, second);
    assert_eq!(first, again);
}

#[test]
fn wrong_lengths_and_missing_passes_are_refused() {
    let Some(cx) = context(1) else { return };
    let c = ConvConfig { backward_data: false, backward_weights: false, ..blocked(16, 16) };
    let mut conv = Convolution::new(&cx, &c).unwrap();
    let (src, mut dst) = (vec![0.0; conv.src_len()], vec![0.0; conv.dst_len()]);
    let error = conv.forward(&src[1..], &mut dst).unwrap_err().to_string();
    assert!(error.contains("input") && error.contains("3x3"), "{error}");
    assert!(conv.forward(&src, &mut dst[1..]).is_err());
    assert!(conv.pack_weights(&vec![0.0; c.weights_len() - 1], &[0.0; 16]).is_err());
    assert!(conv.pack_weights(&vec![0.0; c.weights_len()], &[0.0; 15]).is_err());
    assert!(conv.backward_data(&dst, &mut src.clone()).is_err());
    assert!(conv.backward_weights(&src, &dst, &mut [], &mut []).is_err());
    let empty = ConvConfig { kernel: [0, 3], ..c.clone() };
    assert!(matches!(Convolution::new(&cx, &empty), Err(Error::Unsupported { .. })));
    let contradiction = ConvConfig { output: [3, 3], ..c };
    assert!(Convolution::new(&cx, &contradiction).is_err());
}
