//! Reduction: y = coeff · Σ x (SUM), Σ |x| (ASUM), Σ x² (SUMSQ) or the mean of x (MEAN) over all
//! axes from `axis` on, which the top no longer has.
//!
//! ```text
//! layer { name: "norm" type: "Reduction" bottom: "x" top: "y"
//!         reduction_param { operation: SUMSQ axis: 1 coeff: 0.5 } }
//! ```

use caffe_proto::reduction_parameter::ReductionOp;

use super::abs_val::sign;
use super::{CudaLayer, DeviceIo, Io, Layer, LayerDef, Setup};
use crate::Result;
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::Arg;
use crate::device::cuda::source::Source;
use crate::device::cuda::sums::{By, Sums};

/// Elements that are worth a task.
const GRAIN: usize = 16 * 1024;

/// The layer.
struct Reduction {
    operation: ReductionOp,
    axis: i32,
    coeff: f32,
    /// Elements that become one.
    len: usize,
}

impl Reduction {
    /// What the sum is multiplied by.
    fn factor(&self) -> f32 {
        match self.operation {
            ReductionOp::Mean => self.coeff / self.len as f32,
            _ => self.coeff,
        }
    }

    fn sum(&self, x: &[f32]) -> f64 {
        let sum = |f: fn(f64) -> f64| x.iter().map(|&x| f(f64::from(x))).sum();
        match self.operation {
            ReductionOp::Sum | ReductionOp::Mean => sum(|x| x),
            ReductionOp::Asum => sum(f64::abs),
            ReductionOp::Sumsq => sum(|x| x * x),
        }
    }
}

impl Layer for Reduction {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let axis = bottoms[0].axis(self.axis)?;
        self.len = bottoms[0].count_from(axis);
        Ok(vec![Shape::new(&bottoms[0].dims()[..axis])])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let (x, len, factor) = (io.bottom(0)?, self.len, f64::from(self.factor()));
        let rows = (GRAIN / len.max(1)).max(1);
        run.threads().par_chunks_mut(io.top_mut(0)?, rows, |i, y| {
            for (j, y) in y.iter_mut().enumerate() {
                let x = &x[(i * rows + j) * len..][..len];
                *y = (factor * self.sum(x)) as f32;
            }
        });
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let (x, dy, len) = (io.bottom(0)?, io.top_diff(0)?, self.len.max(1));
        run.threads().par_chunks_mut(io.bottom_diff_mut(0)?, len, |i, dx| {
            let slope = dy[i] * self.factor();
            let x = &x[i * len..][..len];
            match self.operation {
                ReductionOp::Sum | ReductionOp::Mean => dx.fill(slope),
                ReductionOp::Asum => {
                    dx.iter_mut().zip(x).for_each(|(dx, &x)| *dx = slope * sign(x));
                }
                ReductionOp::Sumsq => {
                    dx.iter_mut().zip(x).for_each(|(dx, x)| *dx = 2.0 * slope * x);
                }
            }
        });
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source = Source {
    name: "reduction",
    text: r#"
// kind: 0 for x, 1 for |x|, 2 for its square. A block a part of a row.
extern "C" __global__ void reduce(int64 n, const float* x, int64 len, int kind, int64 parts,
                                  float* sums, float factor, int accumulate) {
  for (int64 b = blockIdx.x; b < n; b += gridDim.x) {
    const float* row = x + b / parts * len;
    float sum = 0.0f;
    PART_LOOP(i, len, b % parts, parts) {
      float v = row[i];
      sum += kind == 0 ? v : kind == 1 ? fabsf(v) : v * v;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) put_sum(sums + b, factor * sum, accumulate);
  }
}

extern "C" __global__ void reduce_backward(int64 n, const float* x, const float* dy, float* dx,
                                           int64 len, int kind, float factor) {
  KERNEL_LOOP(i, n) {
    float v = x[i], slope = dy[i / len] * factor;
    float sign = v > 0.0f ? 1.0f : v < 0.0f ? -1.0f : 0.0f;
    dx[i] = kind == 0 ? slope : kind == 1 ? slope * sign : 2.0f * slope * v;
  }
}
"#,
    functions: &["reduce", "reduce_backward"],
};

impl Reduction {
    fn kind(&self) -> Arg {
        Arg::Int(match self.operation {
            ReductionOp::Sum | ReductionOp::Mean => 0,
            ReductionOp::Asum => 1,
            ReductionOp::Sumsq => 2,
        })
    }
}

impl CudaLayer for Reduction {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let args = [io.bottom(0)?.into(), self.len.into(), self.kind()];
        let (at, factor) = (io.top_mut(0)?, self.factor());
        let to = Sums { at, each: 1, factor, accumulate: false };
        let size = (io.top_shape(0).count(), self.len);
        cuda.sums((&KERNELS, "reduce", By::Block), size, &args, to)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let (x, dy, dx) = (io.bottom(0)?.into(), io.top_diff(0)?.into(), io.bottom_diff_mut(0)?);
        let args = [x, dy, dx.into(), self.len.into(), self.kind(), self.factor().into()];
        cuda.each(&KERNELS, "reduce_backward", io.bottom_shape(0).count(), &args)
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.reduction_param.as_deref().cloned().unwrap_or_default();
    Ok(Box::new(Reduction {
        operation: param.operation(),
        axis: param.axis(),
        coeff: param.coeff(),
        len: 1,
    }))
}

/// `Reduction`.
pub static DEF: LayerDef =
    LayerDef::new("Reduction", "sum, mean, sum of |x| or of x² over the last axes", build)
        .kernels(&[&KERNELS]);

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{input, message, net, set, values};

    fn text(param: &str) -> String {
        let x = input("x", &[2, 3]);
        format!(
            "{x} layer {{ name: 'r' type: 'Reduction' bottom: 'x' top: 'y' reduction_param {{ {param} }} }}"
        )
    }

    #[test]
    fn reduces_from_any_axis() {
        for (param, wanted) in [
            ("", &[3.0][..]),
            ("axis: -1 coeff: 2", &[-4.0, 10.0]),
            ("operation: MEAN axis: 1 coeff: 3", &[-2.0, 5.0]),
            ("operation: ASUM axis: 1", &[6.0, 11.0]),
            ("operation: SUMSQ axis: -2 coeff: 0.5", &[30.5]),
        ] {
            let mut net = net(&text(param), Phase::Test);
            set(&mut net, "x", &[1.0, -4.0, 1.0, 3.0, 5.0, -3.0]);
            net.forward().unwrap();
            assert_eq!(values(&mut net, "y"), wanted, "{param}");
        }
    }

    #[test]
    fn the_axis_must_exist() {
        let message = message(&text("axis: 2"));
        assert!(message.contains("axis 2 is outside") && message.contains("2 3 (6)"), "{message}");
    }
}
