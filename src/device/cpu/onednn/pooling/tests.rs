//! Both methods against Caffe's rule, written out.

use super::super::testing::{assert_close, block, context, noise, unblock};
use super::*;

fn config(method: PoolMethod, channels: usize, layout: Layout) -> PoolConfig {
    PoolConfig {
        method,
        n: 2,
        channels,
        input: [11, 8],
        output: [0, 0],
        kernel: [3, 3],
        stride: [2, 2],
        pad: [0, 0],
        layout,
        backward: true,
    }
}

/// Caffe's ceil rule: the last window may overhang, but may not start in the end padding.
fn ceil(mut c: PoolConfig) -> PoolConfig {
    c.output = [0, 1].map(|i| {
        let out = (c.input[i] + 2 * c.pad[i] - c.kernel[i]).div_ceil(c.stride[i]) + 1;
        let starts_outside = c.pad[i] > 0 && (out - 1) * c.stride[i] >= c.input[i] + c.pad[i];
        out - usize::from(starts_outside)
    });
    c
}

/// (dst, diff_src) of plain buffers by Caffe's definition.
fn definition(c: &PoolConfig, src: &[f32], diff: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let ([ih, iw], [oh, ow]) = (c.input, c.output);
    let (mut dst, mut back) = (vec![0.0; c.n * c.channels * oh * ow], vec![0.0; src.len()]);
    for (to, value) in dst.iter_mut().enumerate() {
        let (plane, y, x) = (to / (oh * ow), to / ow % oh, to % ow);
        let span = |o: usize, i: usize| {
            let start = (o * c.stride[i]) as isize - c.pad[i] as isize;
            let end = (start + c.kernel[i] as isize).min((c.input[i] + c.pad[i]) as isize);
            (start, end, (start.max(0) as usize)..(end.min(c.input[i] as isize) as usize))
        };
        let ((y0, y1, rows), (x0, x1, columns)) = (span(y, 0), span(x, 1));
        let area = ((y1 - y0) * (x1 - x0)) as f32;
        let mut best: Option<usize> = None;
        for at in rows.flat_map(|r| columns.clone().map(move |q| (plane * ih + r) * iw + q)) {
            match c.method {
                PoolMethod::Average => {
                    *value += src[at] / area;
                    back[at] += diff[to] / area;
                }
                PoolMethod::Max if best.is_none_or(|b| src[at] > src[b]) => best = Some(at),
                PoolMethod::Max => {}
            }
        }
        if let Some(best) = best {
            *value = src[best];
            back[best] += diff[to];
        }
    }
    (dst, back)
}

fn verify(c: &PoolConfig, src: &[f32]) {
    let Some(cx) = context(2) else { return };
    let mut pool = Pooling::new(&cx, c).unwrap();
    let info = pool.impl_info();
    if c.layout.is_blocked() && c.layout == Layout::preferred_blocked() {
        assert!(info.iter().all(|(_, name)| name.contains("jit")), "{c}: {info:?}");
    }
    let in_sizes = [c.n, c.channels, c.input[0], c.input[1]];
    let out_sizes = [c.n, c.channels, c.output[0], c.output[1]];
    let diff = noise(out_sizes.iter().product(), 2);
    let (wanted_dst, wanted_diff) = definition(c, src, &diff);
    let src_b = block(src, in_sizes, c.layout);
    let mut dst = vec![f32::NAN; c.layout.padded_len(&out_sizes)];
    let mut diff_src = vec![f32::NAN; src_b.len()];
    pool.forward(&src_b, &mut dst).unwrap();
    pool.backward(&block(&diff, out_sizes, c.layout), &mut diff_src).unwrap();
    assert_close(&format!("{c}"), &unblock(&dst, out_sizes, c.layout), &wanted_dst, 1e-6);
    let found = unblock(&diff_src, in_sizes, c.layout);
    assert_close(&format!("backward of {c}"), &found, &wanted_diff, 1e-6);
}

fn layouts() -> [Layout; 2] {
    [Layout::Plain, Layout::preferred_blocked()]
}

#[test]
fn maxima_of_overhanging_and_padded_windows() {
    for layout in layouts() {
        for channels in [16, 20, 3] {
            for (kernel, stride, pad) in [(3, 2, 0), (2, 2, 0), (3, 1, 1), (3, 2, 1), (5, 3, 2)] {
                let c = config(PoolMethod::Max, channels, layout);
                let c = PoolConfig { kernel: [kernel; 2], stride: [stride; 2], pad: [pad; 2], ..c };
                let c = ceil(c);
                verify(&c, &noise(2 * channels * 88, 1));
            }
        }
    }
}

#[test]
fn among_equal_values_the_first_gets_the_gradient() {
    for layout in layouts() {
        let c = ceil(PoolConfig { pad: [1, 1], ..config(PoolMethod::Max, 20, layout) });
        // Zeros after a ReLU are the usual ties.
        let ties: Vec<_> = noise(2 * 20 * 88, 5).iter().map(|v| v.max(0.0).ceil()).collect();
        verify(&c, &ties);
        verify(&c, &vec![-1.0; ties.len()]);
    }
}

#[test]
fn averages_where_the_divisors_agree() {
    for layout in layouts() {
        for channels in [16, 20] {
            let c = config(PoolMethod::Average, channels, layout);
            let src = noise(2 * channels * 88, 1);
            verify(&ceil(c.clone()), &src);
            verify(&ceil(PoolConfig { kernel: [11, 8], stride: [1, 1], ..c.clone() }), &src);
            verify(&ceil(PoolConfig { stride: [1, 1], pad: [1, 1], ..c.clone() }), &src);
            verify(&ceil(PoolConfig { kernel: [5, 4], pad: [1, 1], ..c }), &src);
        }
    }
}

#[test]
fn averages_that_overhang_their_padding_are_refused() {
    let Some(cx) = context(1) else { return };
    let c = config(PoolMethod::Average, 16, Layout::Plain);
    let c = PoolConfig { kernel: [4, 4], pad: [1, 1], ..c };
    let c = ceil(c);
    assert_eq!(c.pad_end(), [2, 1]);
    assert!(matches!(Pooling::new(&cx, &c), Err(Error::Unsupported { .. })));
    assert!(Pooling::new(&cx, &PoolConfig { method: PoolMethod::Max, ..c }).is_ok());
}

#[test]
fn wrong_lengths_and_missing_passes_are_refused() {
    let Some(cx) = context(1) else { return };
    let c = ceil(config(PoolMethod::Max, 16, Layout::Plain));
    let mut pool = Pooling::new(&cx, &PoolConfig { backward: false, ..c.clone() }).unwrap();
    let (src, mut dst) = (vec![0.0; 2 * 16 * 88], vec![0.0; 2 * 16 * c.output[0] * c.output[1]]);
    assert!(pool.forward(&src[1..], &mut dst).is_err());
    assert!(pool.backward(&dst, &mut src.clone()).is_err());
    assert!(pool.forward(&src, &mut dst).is_ok());
}
