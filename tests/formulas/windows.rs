//! Convolution, Deconvolution, Pooling, LRN.

use super::{Case, Tensor, both};

/// Kernel, stride, pad, dilation, each (height, width).
#[derive(Clone, Copy)]
struct Window {
    kernel: [usize; 2],
    stride: [usize; 2],
    pad: [usize; 2],
    dilation: [usize; 2],
}

const WINDOWS: [Window; 5] = [
    Window { kernel: [3, 3], stride: [1, 1], pad: [1, 1], dilation: [1, 1] },
    Window { kernel: [1, 1], stride: [2, 3], pad: [0, 0], dilation: [1, 1] },
    Window { kernel: [2, 3], stride: [2, 1], pad: [1, 2], dilation: [1, 1] },
    Window { kernel: [3, 2], stride: [1, 2], pad: [2, 0], dilation: [2, 3] },
    Window { kernel: [5, 4], stride: [3, 3], pad: [2, 1], dilation: [1, 1] },
];

impl Window {
    fn text(&self) -> String {
        let Window { kernel: [kh, kw], stride: [sh, sw], pad: [ph, pw], dilation: [dh, dw] } = self;
        format!(
            "kernel_h: {kh} kernel_w: {kw} stride_h: {sh} stride_w: {sw} pad_h: {ph} pad_w: {pw} \
             dilation: {dh} dilation: {dw}"
        )
    }

    /// Each pair of places that the window joins: (place in the larger image, place in the smaller
    /// one, tap of the kernel), for images of these sizes.
    fn pairs(&self, large: [usize; 2], small: [usize; 2]) -> Vec<[[usize; 2]; 3]> {
        let mut pairs = Vec::new();
        let line = |n: usize| 0..n;
        for (oy, ox) in line(small[0]).flat_map(|y| line(small[1]).map(move |x| (y, x))) {
            for (ky, kx) in
                line(self.kernel[0]).flat_map(|y| line(self.kernel[1]).map(move |x| (y, x)))
            {
                let place = |d: usize, o: usize, k: usize| {
                    let at =
                        (o * self.stride[d] + k * self.dilation[d]).checked_sub(self.pad[d])?;
                    (at < large[d]).then_some(at)
                };
                if let (Some(y), Some(x)) = (place(0, oy, ky), place(1, ox, kx)) {
                    pairs.push([[y, x], [oy, ox], [ky, kx]]);
                }
            }
        }
        pairs
    }

    fn reach(&self, d: usize) -> usize {
        self.dilation[d] * (self.kernel[d] - 1) + 1
    }
}

/// Weights for every output channel and bias.
fn channels(group: usize, bias: bool, outputs: usize) -> String {
    format!(
        "num_output: {outputs} group: {group} bias_term: {bias} weight_filler {{ type: 'gaussian' std: 0.3 }} \
         bias_filler {{ type: 'gaussian' std: 1 }}"
    )
}

#[test]
fn convolution_with_groups_dilation_and_odd_windows() {
    for (i, window) in WINDOWS.iter().enumerate() {
        for (group, inputs, outputs, bias) in [
            (1, 3, 5, true),
            (2, 4, 6, true),
            (4, 4, 8, false),
            (1, 16, 32, true),
            (2, 32, 32, false),
        ] {
            let x = Tensor::noise(&[2, inputs, 9, 10], i as u64);
            let size = [0, 1].map(|d| {
                (x.dims[2 + d] + 2 * window.pad[d] - window.reach(d)) / window.stride[d] + 1
            });
            both(|exact| {
                let text = format!("{} {}", window.text(), channels(group, bias, outputs));
                let text = format!("convolution_param {{ {text} }}");
                let mut case = Case::new("Convolution", &text, &[&x], 1, exact);
                let mut y = Tensor::zeros(&[2, outputs, size[0], size[1]]);
                let (weights, per) = (&case.params[0], inputs / group);
                assert_eq!(weights.dims, [outputs, per, window.kernel[0], window.kernel[1]]);
                let area = size[0] * size[1];
                for (n, o) in (0..2).flat_map(|n| (0..outputs).map(move |o| (n, o))) {
                    let top = &mut y.data[(n * outputs + o) * area..][..area];
                    top.fill(if bias { case.params[1].data[o] } else { 0.0 });
                    for [from, to, tap] in window.pairs([9, 10], size) {
                        for c in 0..per {
                            let channel = o / (outputs / group) * per + c;
                            top[to[0] * size[1] + to[1]] += x.at(&[n, channel, from[0], from[1]])
                                * weights.at(&[o, c, tap[0], tap[1]]);
                        }
                    }
                }
                case.expect(0, &y);
            });
        }
    }
}

#[test]
fn deconvolution_is_the_transpose() {
    for (i, window) in WINDOWS.iter().enumerate() {
        for (group, inputs, outputs) in [(1, 3, 5), (2, 4, 6), (4, 4, 4)] {
            let x = Tensor::noise(&[2, inputs, 4, 5], i as u64);
            let size = [0, 1].map(|d| {
                ((x.dims[2 + d] - 1) * window.stride[d] + window.reach(d)) as i64
                    - 2 * window.pad[d] as i64
            });
            if size.iter().any(|s| *s < 1) {
                continue;
            }
            let size = size.map(|s| s as usize);
            both(|exact| {
                let text = format!("{} {}", window.text(), channels(group, true, outputs));
                let text = format!("convolution_param {{ {text} }}");
                let mut case = Case::new("Deconvolution", &text, &[&x], 1, exact);
                let (weights, per) = (&case.params[0], outputs / group);
                assert_eq!(weights.dims[..2], [inputs, per]);
                let mut y = Tensor::zeros(&[2, outputs, size[0], size[1]]);
                let area = size[0] * size[1];
                for (n, o) in (0..2).flat_map(|n| (0..outputs).map(move |o| (n, o))) {
                    let top = &mut y.data[(n * outputs + o) * area..][..area];
                    top.fill(case.params[1].data[o]);
                    let wide = inputs / group;
                    for [to, from, tap] in window.pairs(size, [4, 5]) {
                        for c in o / per * wide..(o / per + 1) * wide {
                            top[to[0] * size[1] + to[1]] += x.at(&[n, c, from[0], from[1]])
                                * weights.at(&[c, o % per, tap[0], tap[1]]);
                        }
                    }
                }
                case.expect(0, &y);
            });
        }
    }
}

/// Caffe's number of windows: the last one may hang over the edge, but not begin in the padding.
fn windows(len: usize, kernel: usize, stride: usize, pad: usize, floor: bool) -> usize {
    let span = len + 2 * pad - kernel;
    let count = if floor { span / stride } else { span.div_ceil(stride) } + 1;
    if pad > 0 && (count - 1) * stride >= len + pad { count - 1 } else { count }
}

#[test]
fn pooling_at_every_corner_of_the_ceiling_rule() {
    for (kernel, stride, pad) in
        [(2, 2, 0), (3, 2, 0), (3, 2, 1), (2, 3, 1), (3, 3, 2), (4, 3, 1), (5, 1, 2), (2, 1, 0)]
    {
        for (h, w, channels) in [(7, 8, 3), (6, 5, 16), (9, 11, 2)] {
            for (method, floor) in [("MAX", false), ("AVE", false), ("MAX", true), ("AVE", true)] {
                let x = Tensor::noise(&[2, channels, h, w], (h * w + kernel) as u64);
                let count = |len| windows(len, kernel, stride, pad, floor);
                let mut y = Tensor::zeros(&[2, channels, count(h), count(w)]);
                let (wide, high) = (y.dims[3], y.dims[2]);
                for at in 0..y.data.len() {
                    let (plane, oy, ox) = (at / (wide * high), at / wide % high, at % wide);
                    // In padded coordinates, cut at the end of the padding.
                    let span = |o: usize, len: usize| {
                        (o * stride, (o * stride + kernel).min(len + 2 * pad))
                    };
                    let ((top, bottom), (left, right)) = (span(oy, h), span(ox, w));
                    let rows = top.max(pad)..bottom.min(h + pad);
                    let inside: Vec<f64> = rows
                        .flat_map(|py| (left.max(pad)..right.min(w + pad)).map(move |px| (py, px)))
                        .map(|(py, px)| x.data[(plane * h + py - pad) * w + px - pad])
                        .collect();
                    y.data[at] = match method {
                        "MAX" => inside.iter().copied().fold(f64::MIN, f64::max),
                        _ => inside.iter().sum::<f64>() / ((bottom - top) * (right - left)) as f64,
                    };
                }
                let round = if floor { "FLOOR" } else { "CEIL" };
                let text = format!(
                    "pooling_param {{ pool: {method} kernel_size: {kernel} stride: {stride} pad: {pad} \
                     round_mode: {round} }}"
                );
                both(|exact| Case::new("Pooling", &text, &[&x], 1, exact).expect(0, &y));
            }
        }
    }
}

#[test]
fn lrn_across_and_within_channels() {
    for (size, alpha, beta, k) in
        [(5, 1e-1, 0.75, 1.0), (3, 5e-2, 0.5, 2.0), (1, 1.0, 0.75, 1.5), (7, 1.0, 2.0, 1.0)]
    {
        let x = Tensor::noise(&[2, 6, 5, 4], size as u64);
        let half = size / 2;
        let near = |i: usize, n: usize| i.saturating_sub(half)..(i + half + 1).min(n);
        let (mut across, mut within) = (Tensor::zeros(&x.dims), Tensor::zeros(&x.dims));
        for at in 0..x.data.len() {
            let (n, c, h, w) = (at / 120, at / 20 % 6, at / 4 % 5, at % 4);
            let squares: f64 = near(c, 6).map(|c| x.at(&[n, c, h, w]).powi(2)).sum();
            let scale = k + alpha / size as f64 * squares;
            across.data[at] = x.data[at] * scale.powf(-beta);
            let places = near(h, 5).flat_map(|h| near(w, 4).map(move |w| (h, w)));
            let squares: f64 = places.map(|(h, w)| x.at(&[n, c, h, w]).powi(2)).sum();
            // The mean over a padded window; no k.
            let scale = 1.0 + alpha * squares / (size * size) as f64;
            within.data[at] = x.data[at] * scale.powf(-beta);
        }
        for (region, y) in [("ACROSS_CHANNELS", &across), ("WITHIN_CHANNEL", &within)] {
            let text = format!(
                "lrn_param {{ local_size: {size} alpha: {alpha} beta: {beta} k: {k} norm_region: {region} }}"
            );
            both(|exact| Case::new("LRN", &text, &[&x], 1, exact).expect(0, y));
        }
    }
}
