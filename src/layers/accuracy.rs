//! Accuracy: the share of predictions whose label is among the `top_k` highest scores; the second
//! top, if there is one, has the share for each class.
//!
//! ```text
//! layer { name: "top5" type: "Accuracy" bottom: "fc8" bottom: "label" top: "top5"
//!         accuracy_param { top_k: 5 } }
//! ```
//! As in Caffe, a class with the same score as the label's counts as a better one.

use std::cmp::Ordering::Less;

use super::dims::Around;
use super::loss::Labels;
use super::loss::cuda::{self, Judge};
use super::{Count, CudaLayer, DeviceIo, Io, Layer, LayerDef, Reals, Setup};
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::memory::Scratch;
use crate::device::cuda::source::Source;
use crate::device::cuda::sums::{By, Sums};
use crate::{Result, ensure};

/// The layer.
struct Accuracy {
    axis: i32,
    top_k: usize,
    around: Around,
    labels: Labels,
    tops: usize,
    /// Labels and hits per class.
    counts: Vec<(usize, usize)>,
    hits: Scratch,
    /// Predictions of each class, then hits among them.
    shares: Scratch,
    judge: Judge,
}

impl Layer for Accuracy {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        self.around = Around::of(&bottoms[0], bottoms[0].axis(self.axis)?);
        Labels::check_count(self.around, bottoms)?;
        let classes = self.around.extent;
        ensure!(
            self.top_k <= classes,
            "top_k is {}, but there are only {classes} classes",
            self.top_k
        );
        self.labels.classes = classes;
        self.counts = vec![(0, 0); classes];
        let mut tops = vec![Shape::default(), Shape::from([classes])];
        tops.truncate(self.tops);
        Ok(tops)
    }

    fn forward(&mut self, _run: &mut Run, io: Io<'_>) -> Result<()> {
        let (x, labels) = (io.bottom(0)?, io.bottom(1)?);
        let Around { extent, inner, .. } = self.around;
        self.counts.fill((0, 0));
        for i in 0..labels.len() {
            let Some(class) = self.labels.class(labels, i)? else { continue };
            let scores = || x[i / inner * extent * inner + i % inner..].iter().step_by(inner);
            let score = x[(i / inner * extent + class) * inner + i % inner];
            // Not "at least as good": a NaN must not make a hit.
            let others =
                scores().take(extent).filter(|v| v.partial_cmp(&&score) != Some(Less)).count();
            self.counts[class].0 += 1;
            // The label's own class is among them.
            self.counts[class].1 += usize::from(others <= self.top_k);
        }
        let share = |n: usize, hits: usize| if n == 0 { 0.0 } else { hits as f32 / n as f32 };
        let (n, hits) = self.counts.iter().fold((0, 0), |(n, h), c| (n + c.0, h + c.1));
        io.top_mut(0)?[0] = share(n, hits);
        if io.tops() == 2 {
            for (top, &(n, hits)) in io.top_mut(1)?.iter_mut().zip(&self.counts) {
                *top = share(n, hits);
            }
        }
        Ok(())
    }

    /// Has no gradient; nets with `force_backward` ask all the same.
    fn backward(&mut self, _run: &mut Run, _io: Io<'_>) -> Result<()> {
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
    name: "accuracy",
    text: r#"
// 1 for a hit, 0 for a miss, -1 for an ignored label; a block a prediction.
extern "C" __global__ void accuracy_hits(int64 n, const real* x, const float* labels, float* hits,
                                         int64 extent, int64 inner, int top_k, int has_ignore,
                                         int ignore) {
  for (int64 i = blockIdx.x; i < n; i += gridDim.x) {
    int label = (int)labels[i];
    if (has_ignore && label == ignore) {
      if (threadIdx.x == 0) hits[i] = -1.0f;
      continue;
    }
    const real* scores = x + i / inner * extent * inner + i % inner;
    float score = scores[class_of(labels[i], extent) * inner], others = 0.0f;
    // Not "at least as good": a NaN must not make a hit.
    for (int64 c = threadIdx.x; c < extent; c += blockDim.x)
      others += scores[c * inner] < score ? 0.0f : 1.0f;
    others = block_sum(others);
    if (threadIdx.x == 0) hits[i] = others <= top_k ? 1.0f : 0.0f;
  }
}

// The same by a thread a prediction.
extern "C" __global__ void accuracy_hits_each(int64 n, const real* x, const float* labels,
                                              float* hits, int64 extent, int64 inner, int top_k,
                                              int has_ignore, int ignore) {
  KERNEL_LOOP(i, n) {
    int label = (int)labels[i];
    int counts = !(has_ignore && label == ignore);
    const real* scores = x + i / inner * extent * inner + i % inner;
    float score = scores[class_of(labels[i], extent) * inner], others = 0.0f;
    for (int64 c = 0; counts && c < extent; ++c)
      others += scores[c * inner] < score ? 0.0f : 1.0f;
    hits[i] = !counts ? -1.0f : others <= top_k ? 1.0f : 0.0f;
  }
}

// The predictions of each class, or of all, and the hits among them: a block a part of them.
extern "C" __global__ void accuracy_count(int64 n, const float* hits, const float* labels,
                                          int64 count, int of_all, int64 parts, float* sums,
                                          float factor, int accumulate) {
  for (int64 b = blockIdx.x; b < n; b += gridDim.x) {
    float mine = 0.0f, good = 0.0f;
    PART_LOOP(i, count, b % parts, parts) {
      if (hits[i] >= 0.0f && (of_all || (int)labels[i] == b / parts)) {
        mine += 1.0f;
        good += hits[i];
      }
    }
    mine = block_sum(mine);
    good = block_sum(good);
    if (threadIdx.x == 0) {
      put_sum(sums + b, factor * mine, accumulate);
      put_sum(sums + n + b, factor * good, accumulate);
    }
  }
}

extern "C" __global__ void accuracy_share(int64 n, const float* mine, const float* good, float* y) {
  KERNEL_LOOP(c, n) { y[c] = mine[c] == 0.0f ? 0.0f : good[c] / mine[c]; }
}
"#,
    functions: &["accuracy_hits", "accuracy_hits_each", "accuracy_count", "accuracy_share"],
};

impl CudaLayer for Accuracy {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let Around { outer, extent, inner } = self.around;
        let positions = outer * inner;
        self.judge.judge(cuda, self.labels, (io.bottom(1)?, positions), 1.0)?;
        let (x, labels) = (io.bottom(0)?.into(), io.bottom(1)?.into());
        let hits = self.hits.room(&cuda.device, positions)?.into();
        let [has_ignore, ignore] = self.labels.ignore_args();
        let (top_k, sizes) = ((self.top_k as i32).into(), [extent.into(), inner.into()]);
        let args = [x, labels, hits, sizes[0], sizes[1], top_k, has_ignore, ignore];
        match self.around.suits_threads() {
            true => cuda.each(&KERNELS, "accuracy_hits_each", positions, &args)?,
            false => cuda.rows(&KERNELS, "accuracy_hits", positions, &args)?,
        }
        let mine = self.shares.room(&cuda.device, 2 * extent)?;
        let share = |top, classes: usize, of_all: i32| {
            let args = [hits, labels, positions.into(), of_all.into()];
            let to = Sums { at: mine, each: 2, factor: 1.0, accumulate: false };
            let size = (classes, positions);
            cuda.sums((&KERNELS, "accuracy_count", By::Block), size, &args, to)?;
            let args = [mine.into(), mine.plus(classes).into(), io.top_mut(top)?.into()];
            cuda.each(&KERNELS, "accuracy_share", classes, &args)
        };
        share(0, 1, 1)?;
        if io.tops() == 2 { share(1, extent, 0) } else { Ok(()) }
    }

    fn backward(&mut self, _cuda: &CudaRun, _io: DeviceIo<'_>) -> Result<()> {
        Ok(())
    }

    fn reals(&self) -> Reals {
        Reals::BOTTOM
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.accuracy_param.as_deref().cloned().unwrap_or_default();
    ensure!(param.top_k() >= 1, "top_k must be at least 1");
    Ok(Box::new(Accuracy {
        axis: param.axis(),
        top_k: param.top_k() as usize,
        around: Around::default(),
        labels: Labels { ignore: param.ignore_label, classes: 0 },
        tops: setup.tops,
        counts: Vec::new(),
        hits: Scratch::default(),
        shares: Scratch::default(),
        judge: Judge::default(),
    }))
}

/// `Accuracy`.
pub static DEF: LayerDef =
    LayerDef::new("Accuracy", "share of predictions with the label among the top_k", build)
        .kernels(&[&KERNELS, &cuda::KERNELS])
        .counts(Count::Exactly(2), Count::Between(1, 2))
        .gradient_bottoms(0);

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{input, net, set, try_net, values};

    fn text(param: &str) -> String {
        format!(
            "layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ dim: 3 dim: 2 }} }} }} \
             layer {{ name: 'l' type: 'Input' top: 'l' input_param {{ shape {{ dim: 3 }} }} }} \
             layer {{ name: 'a' type: 'Accuracy' bottom: 'x' bottom: 'l' top: 'y' top: 'c' \
             accuracy_param {{ {param} }} }}"
        )
    }

    #[test]
    fn counts_per_class_and_skips_what_is_ignored() {
        let mut net = net(&text("ignore_label: 7"), Phase::Test);
        set(&mut net, "x", &[0.9, 0.1, 0.2, 0.8, 0.6, 0.4]);
        set(&mut net, "l", &[0.0, 0.0, 7.0]);
        net.forward().unwrap();
        assert_eq!(values(&mut net, "y"), [0.5]);
        assert_eq!(values(&mut net, "c"), [0.5, 0.0]);
    }

    #[test]
    fn a_tie_or_a_nan_is_no_hit() {
        let mut net = net(&text(""), Phase::Test);
        set(&mut net, "x", &[0.5, 0.5, f32::NAN, f32::NAN, 0.1, 0.9]);
        set(&mut net, "l", &[0.0, 1.0, 1.0]);
        net.forward().unwrap();
        assert_eq!(values(&mut net, "y"), [1.0 / 3.0]);
    }

    #[test]
    fn top_k_cannot_exceed_the_classes() {
        assert!(try_net(&text("top_k: 3"), Phase::Test).is_err());
    }

    #[test]
    fn nothing_but_ignored_labels_is_no_hit_at_all() {
        let mut net = net(&text("ignore_label: -1"), Phase::Test);
        set(&mut net, "l", &[-1.0; 3]);
        net.forward().unwrap();
        assert_eq!(values(&mut net, "y"), [0.0]);
        assert_eq!(values(&mut net, "c"), [0.0, 0.0]);
    }

    #[test]
    fn classes_may_lie_along_any_axis() {
        let text = format!(
            "{}{} layer {{ name: 'a' type: 'Accuracy' bottom: 'x' bottom: 'l' top: 'y' \
             accuracy_param {{ axis: -2 }} }}",
            input("x", &[1, 3, 2]),
            input("l", &[1, 2])
        );
        let mut net = net(&text, Phase::Test);
        set(&mut net, "x", &[0.1, 0.9, 0.2, 0.3, 0.7, 0.4]);
        set(&mut net, "l", &[2.0, 1.0]);
        net.forward().unwrap();
        assert_eq!(values(&mut net, "y"), [0.5]);
    }
}
