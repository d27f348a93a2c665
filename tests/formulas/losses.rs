//! Accuracy and SoftmaxWithLoss: ties, ignored labels, every way to divide.

use super::{Case, Tensor, axis, both};

/// Outer index, inner index and label of each place that has one.
fn places(x: &Tensor, labels: &Tensor, a: usize) -> Vec<(usize, usize, usize)> {
    let inner = x.count(a + 1..x.dims.len());
    let places = labels.data.iter().enumerate();
    places.map(|(at, label)| (at / inner, at % inner, *label as usize)).collect()
}

/// Extents of the labels: those of `x` without the classes.
fn label_dims(x: &Tensor, a: usize) -> Vec<usize> {
    [&x.dims[..a], &x.dims[a + 1..]].concat()
}

#[test]
fn accuracy_counts_ties_against_the_label() {
    // Few different values: ties everywhere.
    let x = Tensor::whole(&[4, 6, 3], 4, 1);
    for written in [1, -1, 0, -2] {
        let a = axis(written, 3);
        let classes = x.dims[a];
        let labels = Tensor::whole(&label_dims(&x, a), classes as u64, 2);
        let inner = x.count(a + 1..3);
        for k in 1..=classes.min(3) {
            for ignored in [None, Some(1), Some(99)] {
                let mut right = vec![[0.0; 2]; classes];
                for (outer, i, label) in places(&x, &labels, a) {
                    if ignored == Some(label) {
                        continue;
                    }
                    let value = |j: usize| x.data[(outer * classes + j) * inner + i];
                    // As good as the label's counts as better; the label itself does not.
                    let better = (0..classes).filter(|&j| value(j) >= value(label)).count() - 1;
                    right[label][0] += f64::from(u8::from(better < k));
                    right[label][1] += 1.0;
                }
                let share = |[right, all]: [f64; 2]| if all == 0.0 { 0.0 } else { right / all };
                let sum = right.iter().fold([0.0; 2], |s, c| [s[0] + c[0], s[1] + c[1]]);
                let all = Tensor { dims: vec![], data: vec![share(sum)] };
                let each =
                    Tensor { dims: vec![classes], data: right.iter().map(|c| share(*c)).collect() };
                let ignore = ignored.map_or(String::new(), |l| format!("ignore_label: {l}"));
                let text = format!("accuracy_param {{ top_k: {k} axis: {written} {ignore} }}");
                both(|exact| {
                    let mut case = Case::new("Accuracy", &text, &[&x, &labels], 2, exact);
                    case.expect(0, &all);
                    case.expect(1, &each);
                });
            }
        }
    }
}

#[test]
fn softmax_loss_divides_as_asked() {
    let x = Tensor::noise(&[4, 5, 3], 3);
    for written in [1, -1, 0, -2] {
        let a = axis(written, 3);
        let classes = x.dims[a];
        let (outer, inner) = (x.count(0..a), x.count(a + 1..3));
        let labels = Tensor::whole(&label_dims(&x, a), classes as u64, 4);
        for ignored in [None, Some(0), Some(2)] {
            let (mut sum, mut valid) = (0.0, 0.0);
            for (outer, i, label) in places(&x, &labels, a) {
                if ignored == Some(label) {
                    continue;
                }
                let value = |j: usize| x.data[(outer * classes + j) * inner + i];
                let whole: f64 = (0..classes).map(|j| value(j).exp()).sum();
                sum += whole.ln() - value(label);
                valid += 1.0;
            }
            for (setting, divisor) in [
                ("", valid),
                ("normalization: FULL", (outer * inner) as f64),
                ("normalization: VALID", valid),
                ("normalization: BATCH_SIZE", outer as f64),
                ("normalization: NONE", 1.0),
                ("normalize: true", valid),
                ("normalize: false", outer as f64),
                // The newer word counts.
                ("normalize: false normalization: NONE", 1.0),
            ] {
                let ignore = ignored.map_or(String::new(), |l| format!("ignore_label: {l}"));
                let text = format!(
                    "loss_weight: 1 loss_param {{ {setting} {ignore} }} softmax_param {{ axis: {written} }}"
                );
                let y = Tensor { dims: vec![], data: vec![sum / f64::max(divisor, 1.0)] };
                both(|exact| {
                    Case::new("SoftmaxWithLoss", &text, &[&x, &labels], 1, exact).expect(0, &y);
                });
            }
        }
    }
}
