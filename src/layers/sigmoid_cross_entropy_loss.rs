//! SigmoidCrossEntropyLoss: l = −Σ (t · ln p + (1 − t) · ln(1 − p)) / normalizer with p = σ(x), for
//! targets t between 0 and 1, element by element.
//!
//! ```text
//! layer { name: "loss" type: "SigmoidCrossEntropyLoss" bottom: "score" bottom: "target" top: "loss"
//!         loss_param { ignore_label: -1 normalization: VALID } }
//! ```
//! The normalizer is the number of records (BATCH_SIZE, the default here), of targets that are not
//! ignored (VALID), of all targets (FULL) or 1 (NONE). `ignore_label` is compared with the target's
//! whole part, as in Caffe: 0 ignores 0.7, too.

use caffe_proto::loss_parameter::NormalizationMode;

use super::bnll::softplus;
use super::dims::Around;
use super::loss::cuda::{self, Judge, Terms};
use super::loss::{Labels, Normalization, is_ignored, records};
use super::sigmoid::sigmoid;
use super::{Count, CudaLayer, DeviceIo, Io, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::source::Source;
use crate::{Result, ensure};

/// Elements per task.
const CHUNK: usize = 4 * 1024;

/// The layer.
struct SigmoidCrossEntropyLoss {
    ignore: Option<i32>,
    normalization: Normalization,
    /// Records, and the elements of each.
    around: Around,
    /// Divisor of the last forward pass.
    divisor: f32,
    terms: Terms,
    judge: Judge,
}

impl Layer for SigmoidCrossEntropyLoss {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let outer = records(bottoms)?;
        self.around = Around { outer, extent: 1, inner: bottoms[0].count_from(1) };
        ensure!(
            bottoms[0].count() == bottoms[1].count(),
            "needs one target per score: scores have shape {}, targets have shape {}",
            bottoms[0],
            bottoms[1]
        );
        Ok(vec![Shape::default()])
    }

    fn forward(&mut self, _run: &mut Run, io: Io<'_>) -> Result<()> {
        let (mut loss, mut valid) = (0.0, 0);
        for (&x, &t) in io.bottom(0)?.iter().zip(io.bottom(1)?) {
            if !is_ignored(self.ignore, t) {
                // −t · ln σ(x) − (1 − t) · ln(1 − σ(x)), of which nothing overflows.
                loss += f64::from(softplus(x) - t * x);
                valid += 1;
            }
        }
        self.divisor = self.normalization.divisor(self.around, valid);
        io.top_mut(0)?[0] = (loss / f64::from(self.divisor)) as f32;
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let (x, t) = (io.bottom(0)?, io.bottom(1)?);
        let (ignore, weight) = (self.ignore, io.top_diff(0)?[0] / self.divisor);
        run.threads().par_chunks_mut(io.bottom_diff_mut(0)?, CHUNK, |at, dx| {
            let pairs = x[at * CHUNK..].iter().zip(&t[at * CHUNK..]);
            for (dx, (&x, &t)) in dx.iter_mut().zip(pairs) {
                *dx = if is_ignored(ignore, t) { 0.0 } else { weight * (sigmoid(x) - t) };
            }
        });
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source = Source {
    name: "sigmoid_cross_entropy_loss",
    text: r#"
// A NaN is no label to ignore.
#define IGNORED(t) (has_ignore && (t) == (t) && (int)(t) == ignore)

extern "C" __global__ void sigmoid_loss_terms(int64 n, const float* scores, const float* targets,
                                              float* terms, int has_ignore, int ignore) {
  KERNEL_LOOP(i, n) {
    float x = scores[i], t = targets[i];
    terms[i] = IGNORED(t) ? 0.0f : fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))) - t * x;
  }
}

extern "C" __global__ void sigmoid_loss_backward(int64 n, const float* scores, const float* targets,
                                                 const float* weight, const float* divisor, float* dx,
                                                 int has_ignore, int ignore) {
  KERNEL_LOOP(i, n) {
    float x = scores[i], t = targets[i];
    dx[i] = IGNORED(t) ? 0.0f : weight[0] / *divisor * (1.0f / (1.0f + expf(-x)) - t);
  }
}
"#,
    functions: &["sigmoid_loss_terms", "sigmoid_loss_backward"],
};

impl CudaLayer for SigmoidCrossEntropyLoss {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let n = io.bottom_shape(0).count();
        let [has_ignore, ignore] = cuda::ignore_args(self.ignore);
        let terms = self.terms.room(cuda, n)?.into();
        let args = [io.bottom(0)?.into(), io.bottom(1)?.into(), terms, has_ignore, ignore];
        cuda.each(&KERNELS, "sigmoid_loss_terms", n, &args)?;
        // Targets are no classes: none is wrong.
        let labels = Labels { ignore: self.ignore, classes: 0 };
        let (targets, fixed) = (io.bottom(1)?, self.normalization.fixed(self.around));
        let divisor = self.judge.judge(cuda, labels, (targets, n), fixed)?;
        self.terms.total(cuda, n, divisor, io.top_mut(0)?)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let [has_ignore, ignore] = cuda::ignore_args(self.ignore);
        let args = [
            io.bottom(0)?.into(),
            io.bottom(1)?.into(),
            io.top_diff(0)?.into(),
            self.judge.found(cuda)?.into(),
            io.bottom_diff_mut(0)?.into(),
            has_ignore,
            ignore,
        ];
        cuda.each(&KERNELS, "sigmoid_loss_backward", io.bottom_shape(0).count(), &args)
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    Ok(Box::new(SigmoidCrossEntropyLoss {
        ignore: setup.param.loss_param.as_ref().and_then(|p| p.ignore_label),
        normalization: Normalization::of(setup.param, NormalizationMode::BatchSize),
        around: Around::default(),
        divisor: 1.0,
        terms: Terms::default(),
        judge: Judge::default(),
    }))
}

/// `SigmoidCrossEntropyLoss`.
pub static DEF: LayerDef = LayerDef::new(
    "SigmoidCrossEntropyLoss",
    "cross entropy of sigmoid(x) and targets, element by element",
    build,
)
.kernels(&[&KERNELS, &cuda::KERNELS])
.counts(Count::Exactly(2), Count::Exactly(1))
.loss(1);

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{gradient, input, message, net, set};

    fn text(x: &[usize], t: &[usize], param: &str) -> String {
        let (x, t) = (input("x", x), input("t", t));
        format!(
            "force_backward: true {x}{t} layer {{ name: 's' type: 'SigmoidCrossEntropyLoss' \
             bottom: 'x' bottom: 't' loss_param {{ {param} }} }}"
        )
    }

    #[test]
    fn divides_as_told() {
        // Scores of 0: every target costs ln 2. Two of the six are ignored.
        for (param, wanted) in [
            ("", 2.0),
            ("normalization: BATCH_SIZE", 2.0),
            ("normalization: VALID", 1.0),
            ("normalization: FULL", 4.0 / 6.0),
            ("normalization: NONE", 4.0),
            ("normalize: true", 1.0),
            ("normalize: false", 2.0),
        ] {
            let text = text(&[2, 3], &[2, 3], &format!("ignore_label: -1 {param}"));
            let mut net = net(&text, Phase::Train);
            set(&mut net, "t", &[0.0, 1.0, -1.0, -1.9, 0.5, 1.0]);
            let found = net.forward().unwrap() / 2f32.ln();
            assert!((found - wanted).abs() < 1e-5, "{param}: {found}");
            net.backward().unwrap();
            let dx = gradient(&mut net, "x");
            let unit = wanted / 4.0 / 2.0;
            assert_eq!(dx, [unit, -unit, 0.0, 0.0, 0.0, -unit], "{param}");
        }
    }

    #[test]
    fn large_scores_and_only_ignored_targets() {
        let mut huge = net(&text(&[1, 2], &[1, 2], ""), Phase::Train);
        set(&mut huge, "x", &[1000.0, -1000.0]);
        set(&mut huge, "t", &[0.0, 0.0]);
        assert_eq!(huge.forward().unwrap(), 1000.0);
        let param = "ignore_label: 2 normalization: VALID";
        let mut ignored = net(&text(&[1, 2], &[1, 2], param), Phase::Train);
        set(&mut ignored, "t", &[2.0, 2.0]);
        assert_eq!(ignored.forward().unwrap(), 0.0);
    }

    #[test]
    fn names_what_does_not_fit() {
        let message = message(&text(&[4, 5], &[4, 2], ""));
        assert!(message.contains("4 5 (20)") && message.contains("4 2 (8)"), "{message}");
    }
}
