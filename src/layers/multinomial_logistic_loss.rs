//! MultinomialLogisticLoss: l = −Σ ln p(label) / N over N records whose probabilities p are the
//! bottom itself (see SoftmaxWithLoss for scores). A p below 1e-20 counts as 1e-20.
//!
//! ```text
//! layer { name: "loss" type: "MultinomialLogisticLoss" bottom: "prob" bottom: "label" top: "loss" }
//! ```
//! All axes behind the first are classes. There is no `loss_param`.

use super::loss::cuda::{self, Judge, Terms};
use super::loss::{LEAST_PROBABILITY, Labels, refuse_loss_param};
use super::{Count, CudaLayer, DeviceIo, Io, Layer, LayerDef, Setup};
use crate::Result;
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::source::Source;

/// The layer.
struct MultinomialLogisticLoss {
    records: f32,
    labels: Labels,
    terms: Terms,
    judge: Judge,
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

    fn explain(&mut self, io: Io<'_>) -> Result<()> {
        self.labels.check(io.bottom(1)?)
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source = Source {
    name: "multinomial_logistic_loss",
    text: r#"
// At least `least`; a NaN stays one.
#define PROBABILITY(p) ((p) < least ? least : (p))

extern "C" __global__ void multinomial_terms(int64 n, const float* p, const float* labels,
                                             float* terms, int64 classes, float least) {
  KERNEL_LOOP(i, n) { terms[i] = -logf(PROBABILITY(p[i * classes + class_of(labels[i], classes)])); }
}

extern "C" __global__ void multinomial_backward(int64 n, const float* p, const float* labels,
                                                const float* weight, const float* divisor,
                                                float* dp,
                                                int64 classes, float least) {
  KERNEL_LOOP(i, n) {
    float slope = -(weight[0] / *divisor) / PROBABILITY(p[i]);
    dp[i] = i % classes == (int)labels[i / classes] ? slope : 0.0f;
  }
}
"#,
    functions: &["multinomial_terms", "multinomial_backward"],
};

impl CudaLayer for MultinomialLogisticLoss {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let n = io.bottom_shape(1).count();
        let (terms, classes) = (self.terms.room(cuda, n)?.into(), self.labels.classes.into());
        let labels = io.bottom(1)?;
        let args = [io.bottom(0)?.into(), labels.into(), terms, classes, LEAST_PROBABILITY.into()];
        cuda.each(&KERNELS, "multinomial_terms", n, &args)?;
        let divisor = self.judge.judge(cuda, self.labels, (labels, n), self.records)?;
        self.terms.total(cuda, n, divisor, io.top_mut(0)?)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let args = [
            io.bottom(0)?.into(),
            io.bottom(1)?.into(),
            io.top_diff(0)?.into(),
            self.judge.found(cuda)?.into(),
            io.bottom_diff_mut(0)?.into(),
            self.labels.classes.into(),
            LEAST_PROBABILITY.into(),
        ];
        cuda.each(&KERNELS, "multinomial_backward", io.bottom_shape(0).count(), &args)
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    refuse_loss_param(setup.param)?;
    let labels = Labels { ignore: None, classes: 0 };
    let (terms, judge) = Default::default();
    Ok(Box::new(MultinomialLogisticLoss { records: 1.0, labels, terms, judge }))
}

/// `MultinomialLogisticLoss`.
pub static DEF: LayerDef = LayerDef::new(
    "MultinomialLogisticLoss",
    "cross entropy of given probabilities and a label",
    build,
)
.kernels(&[&KERNELS, &cuda::KERNELS])
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
