//! ContrastiveLoss: l = Σ (y · d² + (1 − y) · max(margin − d, 0)²) / 2N over N pairs of vectors at
//! distance d = ‖a − b‖; y says whether a pair is similar (any whole number but 0). With
//! `legacy_version` the second term is max(margin − d², 0).
//!
//! ```text
//! layer { name: "loss" type: "ContrastiveLoss" bottom: "feat" bottom: "feat_p" bottom: "sim"
//!         top: "loss" contrastive_loss_param { margin: 1 legacy_version: false } }
//! ```
//! All axes behind the first are one vector. There is no `loss_param`.

use super::loss::cuda::{self, Divisor, Terms};
use super::loss::{records, refuse_loss_param};
use super::{Count, CudaLayer, DeviceIo, Io, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::memory::Scratch;
use crate::device::cuda::source::Source;
use crate::{Result, ensure};

/// Added to a distance before the gradient is divided by it, as in Caffe.
const NOT_ZERO: f32 = 1e-4;

/// The layer.
struct ContrastiveLoss {
    margin: f32,
    legacy: bool,
    /// Elements of a vector.
    len: usize,
    /// What a − b of each pair is multiplied by in its gradient, from the last forward pass.
    slopes: Vec<f32>,
    slopes_on_device: Scratch,
    terms: Terms,
}

fn check(position: usize, similarity: f32) -> Result<()> {
    ensure!(!similarity.is_nan(), "the similarity at position {position} is {similarity}");
    Ok(())
}

impl ContrastiveLoss {
    /// Twice what a pair costs, and its slope.
    fn pair(&self, similar: bool, squared: f32) -> (f32, f32) {
        if similar {
            return (squared, 1.0);
        }
        if self.legacy {
            let room = self.margin - squared;
            return if room > 0.0 { (room, -1.0) } else { (0.0, 0.0) };
        }
        let distance = squared.sqrt();
        let room = self.margin - distance;
        if room > 0.0 { (room * room, -room / (distance + NOT_ZERO)) } else { (0.0, 0.0) }
    }
}

impl Layer for ContrastiveLoss {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let n = records(bottoms)?;
        self.len = bottoms[0].count_from(1);
        ensure!(
            bottoms[1].count_from(1) == self.len,
            "pairs need vectors of one length: bottom 0 has shape {}, bottom 1 has shape {}",
            bottoms[0],
            bottoms[1]
        );
        ensure!(
            bottoms[2].count() == n,
            "needs one similarity per pair: vectors have shape {}, similarities have shape {}",
            bottoms[0],
            bottoms[2]
        );
        self.slopes.resize(n, 0.0);
        Ok(vec![Shape::default()])
    }

    fn forward(&mut self, _run: &mut Run, io: Io<'_>) -> Result<()> {
        let (a, b, similarities) = (io.bottom(0)?, io.bottom(1)?, io.bottom(2)?);
        let mut loss = 0.0;
        for (n, &similarity) in similarities.iter().enumerate() {
            check(n, similarity)?;
            let at = n * self.len..(n + 1) * self.len;
            let pairs = a[at.clone()].iter().zip(&b[at]);
            let squared: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
            // Its whole part counts, as in Caffe.
            let (cost, slope) = self.pair(similarity as i32 != 0, squared as f32);
            loss += f64::from(cost);
            self.slopes[n] = slope;
        }
        io.top_mut(0)?[0] = (loss / self.slopes.len().max(1) as f64 / 2.0) as f32;
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let (a, b, len) = (io.bottom(0)?, io.bottom(1)?, self.len);
        let weight = io.top_diff(0)?[0] / self.slopes.len().max(1) as f32;
        for (i, weight) in [(0, weight), (1, -weight)] {
            if io.propagate_down(i) {
                run.threads().par_chunks_mut(io.bottom_diff_mut(i)?, len, |n, dx| {
                    let factor = weight * self.slopes[n];
                    let pairs = a[n * len..].iter().zip(&b[n * len..]);
                    dx.iter_mut().zip(pairs).for_each(|(dx, (a, b))| *dx = factor * (a - b));
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
    name: "contrastive_loss",
    text: r#"
// Twice what each pair costs, and its slope; a block a pair. 1e-4 is added to a distance before the
// gradient is divided by it.
extern "C" __global__ void contrastive_pairs(int64 n, const float* a, const float* b,
                                             const float* similar, float* terms, float* slopes,
                                             int64 len, float margin, int legacy) {
  for (int64 pair = blockIdx.x; pair < n; pair += gridDim.x) {
    float squared = 0.0f;
    for (int64 i = threadIdx.x; i < len; i += blockDim.x) {
      float d = a[pair * len + i] - b[pair * len + i];
      squared += d * d;
    }
    squared = block_sum(squared);
    if (threadIdx.x == 0) {
      float cost = squared, slope = 1.0f;
      if ((int)similar[pair] == 0) {
        float distance = sqrtf(squared), room = margin - (legacy ? squared : distance);
        cost = room > 0.0f ? (legacy ? room : room * room) : 0.0f;
        slope = room > 0.0f ? (legacy ? -1.0f : -room / (distance + 1e-4f)) : 0.0f;
      }
      terms[pair] = cost;
      slopes[pair] = slope;
    }
  }
}

// The divisor has the sign of the gradient.
extern "C" __global__ void contrastive_backward(int64 n, const float* a, const float* b,
                                                const float* slopes, const float* weight,
                                                float divisor, float* dx, int64 len) {
  KERNEL_LOOP(i, n) { dx[i] = weight[0] / divisor * slopes[i / len] * (a[i] - b[i]); }
}
"#,
    functions: &["contrastive_pairs", "contrastive_backward"],
};

impl ContrastiveLoss {
    fn pairs(&self) -> f32 {
        self.slopes.len().max(1) as f32
    }
}

impl CudaLayer for ContrastiveLoss {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        for (position, &similarity) in io.bottom_on_host(2)?.iter().enumerate() {
            check(position, similarity)?;
        }
        let n = self.slopes.len();
        let args = [
            io.bottom(0)?.into(),
            io.bottom(1)?.into(),
            io.bottom(2)?.into(),
            self.terms.room(cuda, n)?.into(),
            self.slopes_on_device.room(&cuda.device, n)?.into(),
            self.len.into(),
            self.margin.into(),
            i32::from(self.legacy).into(),
        ];
        cuda.rows(&KERNELS, "contrastive_pairs", n, &args)?;
        self.terms.total(cuda, n, Divisor::Fixed(2.0 * self.pairs()), io.top_mut(0)?)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let slopes = self.slopes_on_device.room(&cuda.device, self.slopes.len())?.into();
        let (a, b, weight) = (io.bottom(0)?.into(), io.bottom(1)?.into(), io.top_diff(0)?.into());
        for (i, divisor) in [(0, self.pairs()), (1, -self.pairs())] {
            if io.propagate_down(i) {
                let (dx, len) = (io.bottom_diff_mut(i)?.into(), self.len.into());
                let args = [a, b, slopes, weight, divisor.into(), dx, len];
                cuda.each(&KERNELS, "contrastive_backward", io.bottom_shape(i).count(), &args)?;
            }
        }
        Ok(())
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    refuse_loss_param(setup.param)?;
    let param = setup.param.contrastive_loss_param.as_deref().cloned().unwrap_or_default();
    Ok(Box::new(ContrastiveLoss {
        margin: param.margin(),
        legacy: param.legacy_version(),
        len: 0,
        slopes: Vec::new(),
        slopes_on_device: Scratch::default(),
        terms: Terms::default(),
    }))
}

/// `ContrastiveLoss`.
pub static DEF: LayerDef =
    LayerDef::new("ContrastiveLoss", "brings similar pairs together and others apart", build)
        .kernels(&[&KERNELS, &cuda::KERNELS])
        .counts(Count::Exactly(3), Count::Exactly(1))
        .loss(2);

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{gradient, input, message, net, set};

    fn text(a: &[usize], b: &[usize], similar: &[usize], param: &str) -> String {
        format!(
            "force_backward: true {}{}{} layer {{ name: 'c' type: 'ContrastiveLoss' bottom: 'a' \
             bottom: 'b' bottom: 's' contrastive_loss_param {{ {param} }} }}",
            input("a", a),
            input("b", b),
            input("s", similar)
        )
    }

    #[test]
    fn similar_and_other_pairs() {
        // Distances 5, 5, 0.5 and 0; the margin is 2.
        for (param, wanted, da) in [
            ("margin: 2", 25.0 + 0.0 + 1.5 * 1.5 + 4.0, -1.5 * 0.5 / 0.5001),
            ("margin: 2 legacy_version: true", 25.0 + 0.0 + 1.75 + 2.0, -0.5),
        ] {
            let mut net = net(&text(&[4, 2], &[4, 2], &[4], param), Phase::Train);
            set(&mut net, "a", &[3.0, 4.0, 3.0, 4.0, 0.5, 0.0, 7.0, 7.0]);
            set(&mut net, "b", &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 7.0, 7.0]);
            set(&mut net, "s", &[-1.0, 0.0, 0.9, 0.0]);
            assert!((net.forward().unwrap() - wanted / 8.0).abs() < 1e-5, "{param}");
            net.backward().unwrap();
            let [a, b] = ["a", "b"].map(|name| gradient(&mut net, name));
            let wanted = [3.0, 4.0, 0.0, 0.0, da, 0.0, 0.0, 0.0].map(|v| v / 4.0);
            assert!(a.iter().zip(wanted).all(|(a, w)| (a - w).abs() < 1e-6), "{param}: {a:?}");
            assert!(a.iter().zip(&b).all(|(a, b)| *a == -b));
        }
    }

    #[test]
    fn names_what_does_not_fit() {
        for (b, s, named) in [
            (&[4, 3][..], &[4][..], "4 3 (12)"),
            (&[3, 2], &[4], "3 2 (6)"),
            (&[4, 2], &[4, 2], "4 2 (8)"),
        ] {
            let message = message(&text(&[4, 2], b, s, ""));
            assert!(message.contains("4 2 (8)") && message.contains(named), "{message}");
        }
        let mut net = net(&text(&[2, 1], &[2, 1], &[2], ""), Phase::Train);
        set(&mut net, "s", &[1.0, f32::NAN]);
        assert!(net.forward().unwrap_err().to_string().contains("position 1 is NaN"));
    }
}
