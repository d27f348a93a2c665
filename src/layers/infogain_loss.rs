//! InfogainLoss: l = −Σ Σ_k H(label, k) · ln p_k / normalizer with p = softmax(x) along `axis`, for
//! a K × K matrix H that says how much each answer k is worth for a label; with the identity it is
//! SoftmaxWithLoss. The second top, if there is one, is p.
//!
//! ```text
//! layer { name: "loss" type: "InfogainLoss" bottom: "fc8" bottom: "label" top: "loss"
//!         infogain_loss_param { source: "H.binaryproto" axis: 1 } loss_param { ignore_label: 255 } }
//! ```
//! H is a `BlobProto` in the file `source`, or the third bottom. The normalizer is that of
//! SoftmaxWithLoss, VALID by default; the old `normalize` does not exist here. As in Caffe, a p
//! below 1e-20 counts as 1e-20 in the loss, but not in the gradient.

use std::path::Path;

use caffe_proto::loss_parameter::NormalizationMode;
use caffe_proto::{BlobProto, read_binary_file};

use super::dims::Around;
use super::loss::cuda::{self, Judge, Terms};
use super::loss::{LEAST_PROBABILITY, Labels, Normalization};
use super::softmax::{self, softmax, softmax_on};
use super::{Count, CudaLayer, DeviceIo, Io, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::Address;
use crate::device::cuda::memory::{Memory, Scratch};
use crate::device::cuda::source::Source;
use crate::{Result, ensure};

/// The layer.
struct InfogainLoss {
    axis: i32,
    around: Around,
    labels: Labels,
    normalization: Normalization,
    tops: usize,
    /// H, where it comes from a file.
    matrix: Option<Vec<f32>>,
    matrix_on_device: Option<Memory>,
    /// Probabilities of the last forward pass.
    prob: Vec<f32>,
    prob_on_device: Scratch,
    terms: Terms,
    judge: Judge,
    /// Divisor of the last forward pass.
    divisor: f32,
}

impl InfogainLoss {
    fn matrix<'a>(&'a self, io: &'a Io<'_>) -> Result<&'a [f32]> {
        self.matrix.as_deref().map_or_else(|| io.bottom(2), Ok)
    }

    fn check_matrix(&self, bottoms: &[Shape]) -> Result<()> {
        let k = self.around.extent;
        let (what, found) = match (&self.matrix, bottoms.get(2)) {
            (Some(matrix), _) => ("infogain_loss_param.source".into(), matrix.len()),
            (None, Some(bottom)) => (format!("bottom 2 of shape {bottom}"), bottom.count()),
            (None, None) => ("the matrix".into(), 0),
        };
        ensure!(
            Some(found) == k.checked_mul(k),
            "needs an infogain matrix of {k} x {k} elements for scores of shape {} with {k} \
             classes; {what} holds {found}",
            bottoms[0]
        );
        Ok(())
    }
}

impl Layer for InfogainLoss {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        self.around = Around::of(&bottoms[0], bottoms[0].axis(self.axis)?);
        Labels::check_count(self.around, bottoms)?;
        self.check_matrix(bottoms)?;
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
        let matrix = self.matrix(&io)?;
        let (mut loss, mut valid) = (0.0, 0);
        for i in 0..labels.len() {
            if let Some(class) = self.labels.class(labels, i)? {
                let prob =
                    self.prob[i / inner * extent * inner + i % inner..].iter().step_by(inner);
                for (h, &p) in matrix[class * extent..][..extent].iter().zip(prob) {
                    // `max` would hide a NaN.
                    let p = if p < LEAST_PROBABILITY { LEAST_PROBABILITY } else { p };
                    loss -= f64::from(h * p.ln());
                }
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
        let (labels, matrix) = (io.bottom(1)?, self.matrix(&io)?);
        let weight = io.top_diff(0)?[0] / self.divisor;
        run.threads().par_chunks_mut(io.bottom_diff_mut(0)?, extent * inner, |n, dx| {
            let p = &self.prob[n * extent * inner..][..extent * inner];
            for at in 0..inner {
                // Forward has refused bad labels.
                let label = self.labels.class(labels, n * inner + at).ok().flatten();
                let row = label.map(|class| &matrix[class * extent..][..extent]);
                let sum: f32 = row.iter().copied().flatten().sum();
                for k in 0..extent {
                    let slope = row.map_or(0.0, |row| p[k * inner + at] * sum - row[k]);
                    dx[k * inner + at] = weight * slope;
                }
            }
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
    name: "infogain_loss",
    text: r#"
// A block a prediction.
extern "C" __global__ void infogain_terms(int64 n, const float* prob, const float* labels,
                                          const float* matrix, float* terms, int64 extent,
                                          int64 inner, int has_ignore, int ignore, float least) {
  for (int64 i = blockIdx.x; i < n; i += gridDim.x) {
    int label = (int)labels[i];
    float sum = 0.0f;
    if (!(has_ignore && label == ignore))
      for (int64 k = threadIdx.x; k < extent; k += blockDim.x) {
        float p = prob[(i / inner * extent + k) * inner + i % inner];
        sum -= matrix[class_of(labels[i], extent) * extent + k] * logf(p < least ? least : p);
      }
    sum = block_sum(sum);
    if (threadIdx.x == 0) terms[i] = sum;
  }
}

// The same by a thread a prediction.
extern "C" __global__ void infogain_terms_each(int64 n, const float* prob, const float* labels,
                                               const float* matrix, float* terms, int64 extent,
                                               int64 inner, int has_ignore, int ignore,
                                               float least) {
  KERNEL_LOOP(i, n) {
    int label = (int)labels[i];
    float sum = 0.0f;
    if (!(has_ignore && label == ignore))
      for (int64 k = 0; k < extent; ++k) {
        float p = prob[(i / inner * extent + k) * inner + i % inner];
        sum -= matrix[class_of(labels[i], extent) * extent + k] * logf(p < least ? least : p);
      }
    terms[i] = sum;
  }
}

extern "C" __global__ void infogain_backward(int64 n, const float* prob, const float* labels,
                                             const float* matrix, const float* weight,
                                             const float* divisor, float* dx, int64 extent, int64 inner, int has_ignore,
                                             int ignore) {
  for (int64 i = blockIdx.x; i < n; i += gridDim.x) {
    int label = (int)labels[i];
    int counts = !(has_ignore && label == ignore);
    const float* row = matrix + (counts ? class_of(labels[i], extent) * extent : 0);
    float sum = 0.0f;
    for (int64 k = threadIdx.x; k < extent; k += blockDim.x) sum += row[k];
    sum = block_sum(sum);
    for (int64 k = threadIdx.x; k < extent; k += blockDim.x) {
      int64 at = (i / inner * extent + k) * inner + i % inner;
      dx[at] = counts ? weight[0] / *divisor * (prob[at] * sum - row[k]) : 0.0f;
    }
  }
}

// The same by a thread a prediction.
extern "C" __global__ void infogain_backward_each(int64 n, const float* prob, const float* labels,
                                                  const float* matrix, const float* weight,
                                                  const float* divisor, float* dx, int64 extent,
                                                  int64 inner, int has_ignore, int ignore) {
  KERNEL_LOOP(i, n) {
    int label = (int)labels[i];
    int counts = !(has_ignore && label == ignore);
    const float* row = matrix + (counts ? class_of(labels[i], extent) * extent : 0);
    float sum = 0.0f;
    for (int64 k = 0; k < extent; ++k) sum += row[k];
    for (int64 k = 0; k < extent; ++k) {
      int64 at = (i / inner * extent + k) * inner + i % inner;
      dx[at] = counts ? weight[0] / *divisor * (prob[at] * sum - row[k]) : 0.0f;
    }
  }
}
"#,
    functions: &[
        "infogain_terms",
        "infogain_terms_each",
        "infogain_backward",
        "infogain_backward_each",
    ],
};

impl InfogainLoss {
    fn matrix_on(&mut self, cuda: &CudaRun, io: &DeviceIo<'_>) -> Result<Address> {
        let Some(matrix) = &self.matrix else { return io.bottom(2) };
        if let Some(there) = &self.matrix_on_device {
            return Ok(there.at());
        }
        let memory = Memory::new(&cuda.device, matrix.len())?;
        memory.upload(matrix)?;
        Ok(self.matrix_on_device.insert(memory).at())
    }
}

impl CudaLayer for InfogainLoss {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let Around { outer, extent, inner } = self.around;
        let (count, positions) = (io.bottom_shape(0).count(), outer * inner);
        let prob = self.prob_on_device.room(&cuda.device, count)?;
        softmax_on(cuda, self.around, io.bottom(0)?, prob)?;
        let [has_ignore, ignore] = self.labels.ignore_args();
        let args = [
            prob.into(),
            io.bottom(1)?.into(),
            self.matrix_on(cuda, &io)?.into(),
            self.terms.room(cuda, positions)?.into(),
            extent.into(),
            inner.into(),
            has_ignore,
            ignore,
            LEAST_PROBABILITY.into(),
        ];
        match self.around.suits_threads() {
            true => cuda.each(&KERNELS, "infogain_terms_each", positions, &args)?,
            false => cuda.rows(&KERNELS, "infogain_terms", positions, &args)?,
        }
        let (labels, fixed) = (io.bottom(1)?, self.normalization.fixed(self.around));
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
        let Around { outer, extent, inner } = self.around;
        let [has_ignore, ignore] = self.labels.ignore_args();
        let prob = self.prob_on_device.room(&cuda.device, io.bottom_shape(0).count())?;
        let args = [
            prob.into(),
            io.bottom(1)?.into(),
            self.matrix_on(cuda, &io)?.into(),
            io.top_diff(0)?.into(),
            self.judge.found(cuda)?.into(),
            io.bottom_diff_mut(0)?.into(),
            extent.into(),
            inner.into(),
            has_ignore,
            ignore,
        ];
        match self.around.suits_threads() {
            true => cuda.each(&KERNELS, "infogain_backward_each", outer * inner, &args),
            false => cuda.rows(&KERNELS, "infogain_backward", outer * inner, &args),
        }
    }
}

/// The matrix in a file.
fn read_matrix(path: &str) -> Result<Vec<f32>> {
    let blob: BlobProto = read_binary_file(Path::new(path))?;
    Ok(match blob.data.is_empty() {
        true => blob.double_data.iter().map(|&v| v as f32).collect(),
        false => blob.data,
    })
}

fn build(setup: &Setup<'_>, bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.infogain_loss_param.as_deref().cloned().unwrap_or_default();
    let loss = setup.param.loss_param.as_deref().cloned().unwrap_or_default();
    ensure!(
        loss.normalize.is_none(),
        "loss_param {{ normalize }} does not exist here; give `normalization`"
    );
    ensure!(
        param.source.is_some() != (bottoms.len() == 3),
        "needs the infogain matrix either as infogain_loss_param {{ source }} or as the third bottom"
    );
    Ok(Box::new(InfogainLoss {
        axis: param.axis(),
        around: Around::default(),
        labels: Labels { ignore: loss.ignore_label, classes: 0 },
        normalization: Normalization::of(setup.param, NormalizationMode::Valid),
        tops: setup.tops,
        matrix: param.source.as_deref().map(read_matrix).transpose()?,
        matrix_on_device: None,
        prob: Vec::new(),
        prob_on_device: Scratch::default(),
        terms: Terms::default(),
        judge: Judge::default(),
        divisor: 1.0,
    }))
}

/// `InfogainLoss`.
pub static DEF: LayerDef =
    LayerDef::new("InfogainLoss", "cross entropy with a worth for every answer", build)
        .kernels(&[&KERNELS, &softmax::KERNELS, &cuda::KERNELS])
        .counts(Count::Between(2, 3), Count::Between(1, 2))
        .loss(1);

#[cfg(test)]
mod tests {
    use std::fs;

    use caffe_proto::{BlobProto, Message, Phase};

    use crate::layers::testing::{gradient, input, message, net, set, values};

    fn text(labels: &[usize], more: &str) -> String {
        let (x, labels) = (input("x", &[2, 3, 2]), input("l", labels));
        let matrix = if more.contains("bottom: 'h'") { input("h", &[3, 3]) } else { String::new() };
        format!(
            "force_backward: true {x}{labels}{matrix} layer {{ name: 'i' type: 'InfogainLoss' \
             bottom: 'x' bottom: 'l' {more} }}"
        )
    }

    const X: [f32; 12] = [0.1, 0.5, -0.3, 0.2, 1.0, -2.0, 0.3, 0.4, 0.0, 0.9, -0.7, 0.6];
    const LABELS: [f32; 4] = [0.0, 2.0, 1.0, 7.0];
    const H: [f32; 9] = [1.0, 0.2, 0.0, 0.3, 2.0, 0.1, 0.0, 0.0, 0.5];

    #[test]
    fn a_file_is_as_good_as_a_bottom_and_the_second_top_is_softmax() {
        let more = "top: 'y' top: 'p' loss_param { ignore_label: 7 normalization: FULL }";
        let mut found = Vec::new();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("h.binaryproto");
        let blob = BlobProto {
            num: Some(1),
            channels: Some(1),
            height: Some(3),
            width: Some(3),
            data: H.to_vec(),
            ..Default::default()
        };
        fs::write(&path, blob.encode_to_vec()).unwrap();
        let source = format!("infogain_loss_param {{ source: '{}' }} {more}", path.display());
        for more in [&source, &format!("bottom: 'h' {more}")] {
            let mut net = net(&text(&[2, 2], more), Phase::Train);
            set(&mut net, "x", &X);
            set(&mut net, "l", &LABELS);
            if more.contains("bottom: 'h'") {
                set(&mut net, "h", &H);
            }
            let loss = net.forward().unwrap();
            net.backward().unwrap();
            let (p, dx) = (values(&mut net, "p"), gradient(&mut net, "x"));
            assert!((p[0] + p[2] + p[4] - 1.0).abs() < 1e-6);
            assert_eq!([dx[7], dx[9], dx[11]], [0.0; 3], "an ignored label has no gradient");
            found.push((loss, p, dx));
        }
        assert_eq!(found[0], found[1]);
    }

    #[test]
    fn names_what_does_not_fit() {
        let none = message(&text(&[2, 2], ""));
        assert!(none.contains("either as infogain_loss_param { source } or as the third bottom"));
        let both = message(&text(&[2, 2], "bottom: 'h' infogain_loss_param { source: 'h' }"));
        assert!(both.contains("either"), "{both}");
        let file = message(&text(&[2, 2], "infogain_loss_param { source: '/no/such/file' }"));
        assert!(file.contains("/no/such/file"), "{file}");
        let axis = message(&text(&[2, 2], "bottom: 'h' infogain_loss_param { axis: 3 }"));
        assert!(axis.contains("axis 3 is outside"), "{axis}");
        let labels = message(&text(&[2, 3], "bottom: 'h'"));
        assert!(labels.contains("2 3 2 (12)") && labels.contains("2 3 (6)"), "{labels}");
        let matrix = message(&text(&[2, 3], "bottom: 'h' infogain_loss_param { axis: 2 }"));
        assert!(matrix.contains("2 x 2") && matrix.contains("3 3 (9)"), "{matrix}");
        let old = message(&text(&[2, 2], "bottom: 'h' loss_param { normalize: true }"));
        assert!(old.contains("give `normalization`"), "{old}");
        let mut net = net(&text(&[2, 2], "bottom: 'h'"), Phase::Train);
        set(&mut net, "l", &[0.0, 1.0, 3.0, 0.0]);
        let label = net.forward().unwrap_err().to_string();
        assert!(label.contains("label 3 at position 2 is not one of the 3 classes (0 to 2)"));
    }
}
