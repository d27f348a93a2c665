//! HingeLoss: l = Σ max(0, 1 − s_c · x_c) / N over N records and all classes c, with s = 1 for the
//! label's class and −1 for the others; with `norm: L2` each term is squared.
//!
//! ```text
//! layer { name: "loss" type: "HingeLoss" bottom: "score" bottom: "label" top: "loss"
//!         hinge_loss_param { norm: L2 } }
//! ```
//! All axes behind the first are classes. There is no `loss_param`.

use caffe_proto::hinge_loss_parameter::Norm;

use super::loss::cuda::{self, Judge, Terms};
use super::loss::{Labels, refuse_loss_param};
use super::{Count, CudaLayer, DeviceIo, Io, Layer, LayerDef, Setup};
use crate::Result;
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::Arg;
use crate::device::cuda::source::Source;

/// The layer.
struct HingeLoss {
    norm: Norm,
    records: f32,
    labels: Labels,
    terms: Terms,
    judge: Judge,
}

/// s_c: which side of 0 a class's score should be on.
fn side(class: usize, label: usize) -> f32 {
    if class == label { 1.0 } else { -1.0 }
}

/// max(0, 1 − s · x); a NaN stays one.
fn hinge(x: f32, side: f32) -> f32 {
    let margin = 1.0 - side * x;
    if margin < 0.0 { 0.0 } else { margin }
}

impl Layer for HingeLoss {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        self.records = self.labels.per_record(bottoms)?;
        Ok(vec![Shape::default()])
    }

    fn forward(&mut self, _run: &mut Run, io: Io<'_>) -> Result<()> {
        let (x, labels) = (io.bottom(0)?, io.bottom(1)?);
        let mut loss = 0.0;
        for (n, x) in x.chunks(self.labels.classes.max(1)).enumerate() {
            let Some(label) = self.labels.class(labels, n)? else { continue };
            for (class, &x) in x.iter().enumerate() {
                let hinge = f64::from(hinge(x, side(class, label)));
                loss += if self.norm == Norm::L2 { hinge * hinge } else { hinge };
            }
        }
        io.top_mut(0)?[0] = (loss / f64::from(self.records)) as f32;
        Ok(())
    }

    fn backward(&mut self, _run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let (x, labels, dx) = (io.bottom(0)?, io.bottom(1)?, io.bottom_diff_mut(0)?);
        let weight = io.top_diff(0)?[0] / self.records;
        let classes = self.labels.classes.max(1);
        for (n, (dx, x)) in dx.chunks_mut(classes).zip(x.chunks(classes)).enumerate() {
            let Some(label) = self.labels.class(labels, n)? else { continue };
            for (class, (dx, &x)) in dx.iter_mut().zip(x).enumerate() {
                let side = side(class, label);
                let hinge = hinge(x, side);
                let slope = match self.norm {
                    Norm::L1 if hinge > 0.0 => 1.0,
                    Norm::L1 => 0.0,
                    Norm::L2 => 2.0 * hinge,
                };
                *dx = -side * slope * weight;
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
    name: "hinge_loss",
    text: r#"
#define SIDE(i) ((i) % classes == (int)labels[(i) / classes] ? 1.0f : -1.0f)

// max(0, 1 - s x); a NaN stays one.
static __device__ __forceinline__ float hinge(float x, float side) {
  float margin = 1.0f - side * x;
  return margin < 0.0f ? 0.0f : margin;
}

extern "C" __global__ void hinge_terms(int64 n, const float* x, const float* labels, float* terms,
                                       int64 classes, int square) {
  KERNEL_LOOP(i, n) {
    float h = hinge(x[i], SIDE(i));
    terms[i] = square ? h * h : h;
  }
}

extern "C" __global__ void hinge_backward(int64 n, const float* x, const float* labels,
                                          const float* weight, const float* divisor,
                                          float* dx,
                                          int64 classes, int square) {
  KERNEL_LOOP(i, n) {
    float side = SIDE(i), h = hinge(x[i], side);
    float slope = square ? 2.0f * h : (h > 0.0f ? 1.0f : 0.0f);
    dx[i] = -side * slope * (weight[0] / *divisor);
  }
}
"#,
    functions: &["hinge_terms", "hinge_backward"],
};

impl HingeLoss {
    fn square(&self) -> Arg {
        i32::from(self.norm == Norm::L2).into()
    }
}

impl CudaLayer for HingeLoss {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let n = io.bottom_shape(0).count();
        let (terms, classes) = (self.terms.room(cuda, n)?.into(), self.labels.classes.into());
        let args = [io.bottom(0)?.into(), io.bottom(1)?.into(), terms, classes, self.square()];
        cuda.each(&KERNELS, "hinge_terms", n, &args)?;
        let labels = (io.bottom(1)?, io.bottom_shape(1).count());
        let divisor = self.judge.judge(cuda, self.labels, labels, self.records)?;
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
            self.square(),
        ];
        cuda.each(&KERNELS, "hinge_backward", io.bottom_shape(0).count(), &args)
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    refuse_loss_param(setup.param)?;
    let param = setup.param.hinge_loss_param.as_deref().cloned().unwrap_or_default();
    let labels = Labels { ignore: None, classes: 0 };
    let (norm, (terms, judge)) = (param.norm(), Default::default());
    Ok(Box::new(HingeLoss { norm, records: 1.0, labels, terms, judge }))
}

/// `HingeLoss`.
pub static DEF: LayerDef =
    LayerDef::new("HingeLoss", "one against all: max(0, 1 - score on the right side)", build)
        .kernels(&[&KERNELS, &cuda::KERNELS])
        .counts(Count::Exactly(2), Count::Exactly(1))
        .loss(1);

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{input, message, net, set};

    fn text(x: &[usize], labels: &[usize], param: &str) -> String {
        let (x, labels) = (input("x", x), input("l", labels));
        format!(
            "{x}{labels} layer {{ name: 'h' type: 'HingeLoss' bottom: 'x' bottom: 'l' {param} }}"
        )
    }

    #[test]
    fn l1_and_l2() {
        // Hinges: 1 − 3 → 0 and 1 + 1 = 2; 1 + 0.5 = 1.5 and 1 − (−2) = 3.
        for (param, wanted) in [("", 6.5), ("hinge_loss_param { norm: L2 }", 15.25)] {
            let mut net = net(&text(&[2, 2], &[2], param), Phase::Train);
            set(&mut net, "x", &[3.0, 1.0, 0.5, -2.0]);
            set(&mut net, "l", &[0.0, 1.0]);
            assert_eq!(net.forward().unwrap(), wanted / 2.0, "{param}");
        }
    }

    #[test]
    fn names_what_does_not_fit() {
        let labels = message(&text(&[4, 5], &[4, 2], ""));
        assert!(labels.contains("4 5 (20)") && labels.contains("4 2 (8)"), "{labels}");
        let records = message(&text(&[4, 5], &[3], ""));
        assert!(records.contains("4 5 (20)") && records.contains("3 (3)"), "{records}");
        let mut net = net(&text(&[2, 5], &[2], ""), Phase::Train);
        set(&mut net, "l", &[0.0, 5.0]);
        let label = net.forward().unwrap_err().to_string();
        assert!(label.contains("label 5 at position 1 is not one of the 5 classes (0 to 4)"));
    }
}
