//! InnerProduct, Softmax, Reduction, Scale, Bias, ArgMax: parameters that choose axes.

use super::{Case, Tensor, axis, both};

#[test]
fn inner_product_over_any_axis_either_way_round() {
    let x = Tensor::noise(&[2, 3, 4, 5], 1);
    for written in [1, 2, -1, -2, -4, 0] {
        let first = axis(written, 4);
        let (rows, inner) = (x.count(0..first), x.count(first..4));
        for (transpose, bias) in [(false, true), (true, true), (true, false)] {
            let text = format!(
                "inner_product_param {{ num_output: 7 axis: {written} transpose: {transpose} bias_term: {bias} \
                 weight_filler {{ type: 'gaussian' std: 0.2 }} bias_filler {{ type: 'gaussian' }} }}"
            );
            both(|exact| {
                let mut case = Case::new("InnerProduct", &text, &[&x], 1, exact);
                let weights = case.params[0].clone();
                assert_eq!(weights.dims, if transpose { [inner, 7] } else { [7, inner] });
                let mut y = Tensor::zeros(&[&x.dims[..first], &[7]].concat());
                for (r, o) in (0..rows).flat_map(|r| (0..7).map(move |o| (r, o))) {
                    let weight = |i: usize| {
                        if transpose { weights.at(&[i, o]) } else { weights.at(&[o, i]) }
                    };
                    let sum: f64 = (0..inner).map(|i| x.data[r * inner + i] * weight(i)).sum();
                    y.data[r * 7 + o] = sum + if bias { case.params[1].data[o] } else { 0.0 };
                }
                case.expect(0, &y);
            });
        }
    }
}

#[test]
fn softmax_over_any_axis() {
    let mut x = Tensor::noise(&[2, 3, 4, 5], 2);
    x.data.iter_mut().for_each(|v| *v *= 40.0);
    for written in [0, 1, 2, 3, -1, -2, -3] {
        let a = axis(written, 4);
        let (inner, n) = (x.count(a + 1..4), x.dims[a]);
        let mut y = x.clone();
        for at in 0..x.data.len() {
            let first = at - at / inner % n * inner;
            let line: Vec<f64> = (0..n).map(|i| x.data[first + i * inner]).collect();
            let most = line.iter().copied().fold(f64::MIN, f64::max);
            y.data[at] =
                (x.data[at] - most).exp() / line.iter().map(|v| (v - most).exp()).sum::<f64>();
        }
        let text = format!("softmax_param {{ axis: {written} }}");
        both(|exact| Case::new("Softmax", &text, &[&x], 1, exact).expect(0, &y));
    }
}

#[test]
fn reduction_of_any_tail() {
    let x = Tensor::noise(&[3, 2, 5], 3);
    for written in [0, 1, 2, -1, -2, -3] {
        let a = axis(written, 3);
        let inner = x.count(a..3);
        for operation in ["SUM", "ASUM", "SUMSQ", "MEAN"] {
            for coeff in [1.0, -2.5] {
                let mut y = Tensor::zeros(&x.dims[..a]);
                for (y, x) in y.data.iter_mut().zip(x.data.chunks(inner)) {
                    *y = coeff
                        * match operation {
                            "SUM" => x.iter().sum::<f64>(),
                            "ASUM" => x.iter().map(|v| v.abs()).sum(),
                            "SUMSQ" => x.iter().map(|v| v * v).sum(),
                            _ => x.iter().sum::<f64>() / inner as f64,
                        };
                }
                let text = format!(
                    "reduction_param {{ operation: {operation} axis: {written} coeff: {coeff} }}"
                );
                both(|exact| Case::new("Reduction", &text, &[&x], 1, exact).expect(0, &y));
            }
        }
    }
}

/// y = x · s + b, where s and b have the axes `first..last` of x.
fn spread(x: &Tensor, first: usize, last: usize, of: impl Fn(f64, usize) -> f64) -> Tensor {
    let (inner, n) = (x.count(last..x.dims.len()), x.count(first..last));
    let values = x.data.iter().enumerate().map(|(at, v)| of(*v, at / inner % n));
    Tensor { dims: x.dims.clone(), data: values.collect() }
}

#[test]
fn scale_and_bias_over_any_run_of_axes() {
    let x = Tensor::noise(&[2, 3, 4, 5], 4);
    for (written, num_axes) in [(1, 1), (0, -1), (2, 2), (-2, 1), (-3, -1), (1, 0), (0, 2), (-1, 1)]
    {
        let first = axis(written, 4);
        let last = if num_axes < 0 { 4 } else { first + num_axes as usize };
        let filler = "filler { type: 'gaussian' std: 2 }";
        let axes = format!("axis: {written} num_axes: {num_axes}");
        both(|exact| {
            let text = format!(
                "scale_param {{ {axes} {filler} bias_term: true bias_filler {{ type: 'gaussian' }} }}"
            );
            let mut case = Case::new("Scale", &text, &[&x], 1, exact);
            assert_eq!(case.params[0].dims, x.dims[first..last]);
            let (s, b) = (case.params[0].data.clone(), case.params[1].data.clone());
            case.expect(0, &spread(&x, first, last, |v, i| v * s[i] + b[i]));
            let mut case =
                Case::new("Bias", &format!("bias_param {{ {axes} {filler} }}"), &[&x], 1, exact);
            let b = case.params[0].data.clone();
            case.expect(0, &spread(&x, first, last, |v, i| v + b[i]));
            // The same with a second bottom, whose axes decide how many.
            let other = Tensor::noise(&x.dims[first..last], 9);
            let text = |kind: &str| format!("{kind}_param {{ axis: {written} }}");
            let mut case = Case::new("Scale", &text("scale"), &[&x, &other], 1, exact);
            case.expect(0, &spread(&x, first, last, |v, i| v * other.data[i]));
            let mut case = Case::new("Bias", &text("bias"), &[&x, &other], 1, exact);
            case.expect(0, &spread(&x, first, last, |v, i| v + other.data[i]));
        });
    }
}

/// The `k` largest of `line` with their places; of equal ones the last first, as Caffe sorts pairs of
/// value and place.
fn largest(line: &[f64], k: usize) -> Vec<(f64, usize)> {
    let mut pairs: Vec<(f64, usize)> = line.iter().copied().zip(0..).collect();
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
    pairs.truncate(k);
    pairs
}

#[test]
fn arg_max_with_ties_along_an_axis_or_a_record() {
    let x = Tensor::whole(&[3, 4, 2, 3], 5, 5);
    for k in [1, 2, 4] {
        let mut places = Tensor::zeros(&[3, 1, k, 1]);
        let mut pairs = Tensor::zeros(&[3, 2, k, 1]);
        for (n, line) in x.data.chunks(24).enumerate() {
            for (i, (value, place)) in largest(line, k).into_iter().enumerate() {
                places.data[n * k + i] = place as f64;
                (pairs.data[2 * n * k + i], pairs.data[(2 * n + 1) * k + i]) =
                    (place as f64, value);
            }
        }
        let text = |more: &str| format!("argmax_param {{ top_k: {k} {more} }}");
        both(|exact| {
            Case::new("ArgMax", &text(""), &[&x], 1, exact).expect(0, &places);
            Case::new("ArgMax", &text("out_max_val: true"), &[&x], 1, exact).expect(0, &pairs);
        });
    }
    for (written, k) in [(1, 3), (-3, 1), (2, 2), (-1, 2), (0, 3)] {
        let a = axis(written, 4);
        let (inner, n) = (x.count(a + 1..4), x.dims[a]);
        let mut dims = x.dims.clone();
        dims[a] = k;
        let (mut places, mut values) = (Tensor::zeros(&dims), Tensor::zeros(&dims));
        for (outer, i) in (0..x.count(0..a)).flat_map(|o| (0..inner).map(move |i| (o, i))) {
            let line: Vec<f64> = (0..n).map(|j| x.data[(outer * n + j) * inner + i]).collect();
            for (j, (value, place)) in largest(&line, k).into_iter().enumerate() {
                let at = (outer * k + j) * inner + i;
                (places.data[at], values.data[at]) = (place as f64, value);
            }
        }
        let text = |more: &str| format!("argmax_param {{ axis: {written} top_k: {k} {more} }}");
        both(|exact| {
            Case::new("ArgMax", &text(""), &[&x], 1, exact).expect(0, &places);
            Case::new("ArgMax", &text("out_max_val: true"), &[&x], 1, exact).expect(0, &values);
        });
    }
}
