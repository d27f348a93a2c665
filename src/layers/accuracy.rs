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
use super::{Count, Io, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::device::Run;
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
    }))
}

/// `Accuracy`.
pub static DEF: LayerDef =
    LayerDef::new("Accuracy", "share of predictions with the label among the top_k", build)
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
