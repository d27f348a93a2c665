//! EuclideanLoss: l = Σ (a − b)² / 2N over all elements of two bottoms with N records (axis 0).
//!
//! ```text
//! layer { name: "loss" type: "EuclideanLoss" bottom: "pred" bottom: "target" top: "loss" }
//! ```
//! Both bottoms get a gradient: ±(a − b) / N. There is no `loss_param`.

use super::loss::cuda::{self, Divisor, Terms};
use super::loss::{records, refuse_loss_param};
use super::{Count, CudaLayer, DeviceIo, Io, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::source::Source;
use crate::{Result, ensure};

/// Elements per task.
const CHUNK: usize = 8 * 1024;

/// The layer.
struct EuclideanLoss {
    records: f32,
    terms: Terms,
}

impl Layer for EuclideanLoss {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        self.records = records(bottoms)?.max(1) as f32;
        ensure!(
            bottoms[0].count() == bottoms[1].count(),
            "the bottoms need equally many elements: bottom 0 has shape {}, bottom 1 has shape {}",
            bottoms[0],
            bottoms[1]
        );
        Ok(vec![Shape::default()])
    }

    fn forward(&mut self, _run: &mut Run, io: Io<'_>) -> Result<()> {
        let pairs = io.bottom(0)?.iter().zip(io.bottom(1)?);
        let sum: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
        io.top_mut(0)?[0] = (sum / f64::from(self.records) / 2.0) as f32;
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let weight = io.top_diff(0)?[0] / self.records;
        let (a, b) = (io.bottom(0)?, io.bottom(1)?);
        for (i, weight) in [(0, weight), (1, -weight)] {
            if io.propagate_down(i) {
                run.threads().par_chunks_mut(io.bottom_diff_mut(i)?, CHUNK, |at, dx| {
                    let pairs = a[at * CHUNK..].iter().zip(&b[at * CHUNK..]);
                    dx.iter_mut().zip(pairs).for_each(|(dx, (a, b))| *dx = weight * (a - b));
                });
            }
        }
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source = Source {
    name: "euclidean_loss",
    text: r#"
extern "C" __global__ void squared_distance(int64 n, const float* a, const float* b, float* terms) {
  KERNEL_LOOP(i, n) { terms[i] = (a[i] - b[i]) * (a[i] - b[i]); }
}

// The divisor has the sign of the gradient.
extern "C" __global__ void squared_distance_backward(int64 n, const float* a, const float* b,
                                                     const float* weight, float divisor, float* dx) {
  KERNEL_LOOP(i, n) { dx[i] = weight[0] / divisor * (a[i] - b[i]); }
}
"#,
    functions: &["squared_distance", "squared_distance_backward"],
};

impl CudaLayer for EuclideanLoss {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let n = io.bottom_shape(0).count();
        let args = [io.bottom(0)?.into(), io.bottom(1)?.into(), self.terms.room(cuda, n)?.into()];
        cuda.each(&KERNELS, "squared_distance", n, &args)?;
        self.terms.total(cuda, n, Divisor::Fixed(2.0 * self.records), io.top_mut(0)?)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let n = io.bottom_shape(0).count();
        let (a, b, weight) = (io.bottom(0)?.into(), io.bottom(1)?.into(), io.top_diff(0)?.into());
        for (i, divisor) in [(0, self.records), (1, -self.records)] {
            if io.propagate_down(i) {
                let args = [a, b, weight, divisor.into(), io.bottom_diff_mut(i)?.into()];
                cuda.each(&KERNELS, "squared_distance_backward", n, &args)?;
            }
        }
        Ok(())
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    refuse_loss_param(setup.param)?;
    Ok(Box::new(EuclideanLoss { records: 1.0, terms: Terms::default() }))
}

/// `EuclideanLoss`.
pub static DEF: LayerDef =
    LayerDef::new("EuclideanLoss", "half the squared distance of two blobs, per record", build)
        .kernels(&[&KERNELS, &cuda::KERNELS])
        .counts(Count::Exactly(2), Count::Exactly(1))
        .loss(2);

#[cfg(test)]
mod tests {
    use crate::layers::testing::{input, message};

    #[test]
    fn names_what_does_not_fit() {
        let text = |a: &[usize], b: &[usize], more: &str| {
            format!(
                "{}{} layer {{ name: 'e' type: 'EuclideanLoss' bottom: 'a' bottom: 'b' {more} }}",
                input("a", a),
                input("b", b)
            )
        };
        for (a, b) in [(&[4, 2][..], &[2, 4][..]), (&[4, 2], &[4, 3])] {
            let message = message(&text(a, b, ""));
            assert!(message.contains("4 2 (8)"), "{message}");
            assert!(message.contains(&format!("{} {} ", b[0], b[1])), "{message}");
        }
        let param = message(&text(&[2], &[2], "loss_param { normalization: NONE }"));
        assert!(param.contains("takes no loss_param"), "{param}");
        let three = message(&text(&[2], &[2], "bottom: 'a'"));
        assert!(three.contains("takes 2 bottom blob(s), but the prototxt names 3"), "{three}");
    }
}
