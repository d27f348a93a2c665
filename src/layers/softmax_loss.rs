//! SoftmaxWithLoss: l = −Σ ln p(label) / normalizer with p = softmax(x) along `axis`; the second
//! top, if there is one, is p.
//!
//! ```text
//! layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc8" bottom: "label" top: "loss"
//!         loss_param { ignore_label: 255 normalization: VALID } }
//! ```
//! The normalizer is the number of labels that are not ignored (VALID, the default), of all labels
//! (FULL), of records (BATCH_SIZE) or 1 (NONE).

use caffe_proto::loss_parameter::NormalizationMode;

use super::dims::Around;
use super::loss::cuda::{self, Judge, Terms};
use super::loss::{Labels, Normalization};
use super::softmax::{self, softmax, softmax_on};
use super::{Count, CudaLayer, DeviceIo, Io, Layer, LayerDef, Reals, Setup};
use crate::Result;
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::memory::Scratch;
use crate::device::cuda::source::Source;

/// The layer.
struct SoftmaxWithLoss {
    axis: i32,
    around: Around,
    labels: Labels,
    normalization: Normalization,
    tops: usize,
    /// Probabilities of the last forward pass.
    prob: Vec<f32>,
    prob_on_device: Scratch,
    terms: Terms,
    judge: Judge,
    /// Divisor of the last forward pass on the host.
    divisor: f32,
}

impl Layer for SoftmaxWithLoss {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        self.around = Around::of(&bottoms[0], bottoms[0].axis(self.axis)?);
        Labels::check_count(self.around, bottoms)?;
        self.labels.classes = self.around.extent;
        self.prob.resize(bottoms[0].count(), 0.0);
        let mut tops = vec![Shape::default(), bottoms[0].clone()];
        tops.truncate(self.tops);
        Ok(tops)
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let (x, labels) = (io.bottom(0)?, io.bottom(1)?);
        softmax(run.threads(), self.around, x, &mut self.prob);
        let Around { extent, inner, .. } = self.around;
        let (mut loss, mut valid) = (0.0f64, 0);
        for i in 0..labels.len() {
            if let Some(class) = self.labels.class(labels, i)? {
                let p = self.prob[(i / inner * extent + class) * inner + i % inner];
                // A probability that rounded to 0 costs much, but not everything. (`max` would hide
                // a NaN.)
                loss -= f64::from(if p < f32::MIN_POSITIVE { f32::MIN_POSITIVE } else { p }.ln());
                valid += 1;
            }
        }
        self.divisor = self.normalization.divisor(self.around, valid);
        io.top_mut(0)?[0] = (loss / f64::from(self.divisor)) as f32;
        if io.tops() == 2 {
            io.top_mut(1)?.copy_from_slice(&self.prob);
        }
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let Around { extent, inner, .. } = self.around;
        let (labels, weight) = (io.bottom(1)?, io.top_diff(0)?[0] / self.divisor);
        let dx = io.bottom_diff_mut(0)?;
        run.threads().par_chunks_mut(dx, extent * inner, |n, dx| {
            let p = &self.prob[n * extent * inner..][..extent * inner];
            dx.copy_from_slice(p);
            for at in 0..inner {
                // Forward has refused bad labels.
                match self.labels.class(labels, n * inner + at) {
                    Ok(Some(class)) => dx[class * inner + at] -= 1.0,
                    _ => dx[at..].iter_mut().step_by(inner).for_each(|dx| *dx = 0.0),
                }
            }
            // Weighted last, as Caffe does: p - 1 loses no digits.
            dx.iter_mut().for_each(|dx| *dx *= weight);
        });
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
    name: "softmax_loss",
    text: r#"
// -ln p(label), where 1.2e-38 is the least p.
extern "C" __global__ void softmax_loss_terms(int64 n, const float* prob, const float* labels,
                                              float* terms, int64 extent, int64 inner,
                                              int has_ignore, int ignore) {
  KERNEL_LOOP(i, n) {
    int label = (int)labels[i];
    if (has_ignore && label == ignore) {
      terms[i] = 0.0f;
    } else {
      float p = prob[(i / inner * extent + class_of(labels[i], extent)) * inner + i % inner];
      terms[i] = -logf(p < 1.17549435e-38f ? 1.17549435e-38f : p);
    }
  }
}

extern "C" __global__ void softmax_loss_backward(int64 n, const float* prob, const float* labels,
                                                 const float* weight, const float* divisor, real* dx,
                                                 int64 extent, int64 inner, int has_ignore,
                                                 int ignore) {
  KERNEL_LOOP(i, n) {
    int label = (int)labels[i / (extent * inner) * inner + i % inner];
    float slope = prob[i] - (i / inner % extent == label ? 1.0f : 0.0f);
    dx[i] = has_ignore && label == ignore ? 0.0f : slope * (weight[0] / *divisor);
  }
}
"#,
    functions: &["softmax_loss_terms", "softmax_loss_backward"],
};

impl CudaLayer for SoftmaxWithLoss {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let Around { outer, extent, inner } = self.around;
        let (count, positions) = (io.bottom_shape(0).count(), outer * inner);
        let prob = self.prob_on_device.room(&cuda.device, count)?;
        softmax_on(cuda, self.around, io.bottom(0)?, prob)?;
        let (labels, terms) = (io.bottom(1)?, self.terms.room(cuda, positions)?);
        let [has_ignore, ignore] = self.labels.ignore_args();
        let (prob_arg, sizes) = (prob.into(), [extent.into(), inner.into()]);
        let args = [prob_arg, labels.into(), terms.into(), sizes[0], sizes[1], has_ignore, ignore];
        cuda.each(&KERNELS, "softmax_loss_terms", positions, &args)?;
        let fixed = self.normalization.fixed(self.around);
        let divisor = self.judge.judge(cuda, self.labels, (labels, positions), fixed)?;
        self.terms.total(cuda, positions, divisor, io.top_mut(0)?)?;
        if io.tops() == 2 {
            cuda.device.copy(prob, io.top_mut(1)?, count)?;
        }
        Ok(())
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let Around { extent, inner, .. } = self.around;
        let count = io.bottom_shape(0).count();
        let [has_ignore, ignore] = self.labels.ignore_args();
        let args = [
            self.prob_on_device.room(&cuda.device, count)?.into(),
            io.bottom(1)?.into(),
            io.top_diff(0)?.into(),
            self.judge.found(cuda)?.into(),
            io.bottom_diff_mut(0)?.into(),
            extent.into(),
            inner.into(),
            has_ignore,
            ignore,
        ];
        cuda.each(&KERNELS, "softmax_loss_backward", count, &args)
    }

    fn reals(&self) -> Reals {
        Reals::BOTTOM
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let ignore = setup.param.loss_param.as_ref().and_then(|p| p.ignore_label);
    Ok(Box::new(SoftmaxWithLoss {
        axis: setup.param.softmax_param.as_deref().cloned().unwrap_or_default().axis(),
        around: Around::default(),
        labels: Labels { ignore, classes: 0 },
        normalization: Normalization::of(setup.param, NormalizationMode::Valid),
        tops: setup.tops,
        prob: Vec::new(),
        prob_on_device: Scratch::default(),
        terms: Terms::default(),
        judge: Judge::default(),
        divisor: 1.0,
    }))
}

/// `SoftmaxWithLoss`.
pub static DEF: LayerDef =
    LayerDef::new("SoftmaxWithLoss", "cross entropy of softmax(x) and a label", build)
        .kernels(&[&KERNELS, &softmax::KERNELS, &cuda::KERNELS])
        .counts(Count::Exactly(2), Count::Between(1, 2))
        .loss(1);

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{gradient, net, set, values};

    fn text(loss_param: &str) -> String {
        format!(
            "force_backward: true \
             layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ dim: 2 dim: 3 dim: 2 }} }} }} \
             layer {{ name: 'l' type: 'Input' top: 'l' input_param {{ shape {{ dim: 2 dim: 2 }} }} }} \
             layer {{ name: 's' type: 'SoftmaxWithLoss' bottom: 'x' bottom: 'l' top: 'y' top: 'p' \
             loss_param {{ {loss_param} }} }}"
        )
    }

    /// Equal scores: every label costs ln 3. One of the four is ignored.
    fn loss(loss_param: &str) -> f32 {
        let mut net = net(&text(&format!("ignore_label: 1 {loss_param}")), Phase::Train);
        set(&mut net, "l", &[0.0, 1.0, 2.0, 0.0]);
        let loss = net.forward().unwrap();
        assert!(values(&mut net, "p").iter().all(|p| (p - 1.0 / 3.0).abs() < 1e-6));
        net.backward().unwrap();
        let dx = gradient(&mut net, "x");
        assert_eq!([dx[1], dx[3], dx[5]], [0.0; 3], "an ignored label has no gradient");
        loss / 3f32.ln()
    }

    #[test]
    fn divides_as_told() {
        for (param, wanted) in [
            ("", 1.0),
            ("normalization: VALID", 1.0),
            ("normalization: FULL", 0.75),
            ("normalization: BATCH_SIZE", 1.5),
            ("normalization: NONE", 3.0),
            ("normalize: true", 1.0),
            ("normalize: false", 1.5),
            ("normalize: false normalization: NONE", 3.0),
        ] {
            let found = loss(param);
            assert!((found - wanted).abs() < 1e-5, "{param}: {found}");
        }
    }

    #[test]
    fn a_batch_of_ignored_labels_costs_nothing() {
        let mut net = net(&text("ignore_label: 1"), Phase::Train);
        set(&mut net, "l", &[1.0; 4]);
        assert_eq!(net.forward().unwrap(), 0.0);
    }

    #[test]
    fn a_wrong_label_is_named() {
        let mut net = net(&text(""), Phase::Train);
        set(&mut net, "l", &[0.0, 2.0, 3.0, 0.0]);
        let message = net.forward().unwrap_err().to_string();
        assert!(message.contains("label 3 at position 2"), "{message}");
        set(&mut net, "l", &[0.0, -1.0, 0.0, 0.0]);
        assert!(net.forward().unwrap_err().to_string().contains("label -1 at position 1"));
        set(&mut net, "l", &[f32::NAN, 0.0, 0.0, 0.0]);
        assert!(net.forward().is_err());
    }

    #[test]
    fn a_nan_is_no_label_to_ignore() {
        let mut net = net(&text("ignore_label: 0"), Phase::Train);
        set(&mut net, "l", &[0.0, 1.0, 0.0, f32::NAN]);
        assert!(net.forward().unwrap_err().to_string().contains("label NaN at position 3"));
    }
}
