//! MultinomialLogisticLoss: l = −Σ ln p(label) / N over N records whose probabilities p are the
//! bottom itself (see SoftmaxWithLoss for scores). A p below 1e-20 counts as 1e-20.
//!
//! ```text
//! layer { name: "loss" type: "MultinomialLogisticLoss" bottom: "prob" bottom: "label" top: "loss" }
//! ```
//! All axes behind the first are classes. There is no `loss_param`.

use super::loss::{LEAST_PROBABILITY, Labels, refuse_loss_param};
use super::{Count, Io, Layer, LayerDef, Setup};
use crate::Result;
use crate::blob::Shape;
use crate::device::Run;

/// The layer.
struct MultinomialLogisticLoss {
    records: f32,
    labels: Labels,
}

/// At least [`LEAST_PROBABILITY`]; a NaN stays one.
fn probability(p: f32) -> f32 {
    if p < LEAST_PROBABILITY { LEAST_PROBABILITY } else { p }
}

impl Layer for MultinomialLogisticLoss {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        self.records = self.labels.per_record(bottoms)?;
        Ok(vec![Shape::default()])
    }

    fn forward(&mut self, _run: &mut Run, io: Io<'_>) -> Result<()> {
        let (p, labels) = (io.bottom(0)?, io.bottom(1)?);
        let mut loss = 0.0;
        for n in 0..labels.len() {
            if let Some(label) = self.labels.class(labels, n)? {
                loss -= f64::from(probability(p[n * self.labels.classes + label])).ln();
            }
        }
        io.top_mut(0)?[0] = (loss / f64::from(self.records)) as f32;
        Ok(())
    }

    fn backward(&mut self, _run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let (p, labels, dp) = (io.bottom(0)?, io.bottom(1)?, io.bottom_diff_mut(0)?);
        let weight = io.top_diff(0)?[0] / self.records;
        dp.fill(0.0);
        for n in 0..labels.len() {
            if let Some(label) = self.labels.class(labels, n)? {
                let at = n * self.labels.classes + label;
                dp[at] = -weight / probability(p[at]);
            }
        }
        Ok(())
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    refuse_loss_param(setup.param)?;
    let labels = Labels { ignore: None, classes: 0 };
    Ok(Box::new(MultinomialLogisticLoss { records: 1.0, labels }))
}

/// `MultinomialLogisticLoss`.
pub static DEF: LayerDef = LayerDef::new(
    "MultinomialLogisticLoss",
    "cross entropy of given probabilities and a label",
    build,
)
.counts(Count::Exactly(2), Count::Exactly(1))
.loss(1);

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{gradient, input, message, net, set};

    fn text(p: &[usize], labels: &[usize]) -> String {
        let (p, labels) = (input("p", p), input("l", labels));
        format!(
            "force_backward: true {p}{labels} \
             layer {{ name: 'm' type: 'MultinomialLogisticLoss' bottom: 'p' bottom: 'l' }}"
        )
    }

    #[test]
    fn an_impossible_label_costs_much_but_not_everything() {
        let mut net = net(&text(&[2, 2], &[2, 1]), Phase::Train);
        set(&mut net, "p", &[0.0, 1.0, 0.5, 0.5]);
        set(&mut net, "l", &[0.0, 1.0]);
        let wanted = (-(1e-20f64.ln()) - 0.5f64.ln()) / 2.0;
        assert!((f64::from(net.forward().unwrap()) - wanted).abs() < 1e-5);
        net.backward().unwrap();
        let dp = gradient(&mut net, "p");
        assert!((dp[0] / -0.5e20 - 1.0).abs() < 1e-6);
        assert_eq!(dp[1..], [0.0, 0.0, -1.0]);
    }

    #[test]
    fn names_what_does_not_fit() {
        let labels = message(&text(&[4, 5], &[4, 2]));
        assert!(labels.contains("4 5 (20)") && labels.contains("4 2 (8)"), "{labels}");
        let mut net = net(&text(&[2, 3], &[2]), Phase::Train);
        set(&mut net, "l", &[-1.0, 0.0]);
        let label = net.forward().unwrap_err().to_string();
        assert!(label.contains("label -1 at position 0 is not one of the 3 classes (0 to 2)"));
    }
}
