//! ArgMax: the places of the `top_k` largest values, best first, of every record or, with `axis`,
//! along that axis. It has no gradient, as in Caffe.
//!
//! ```text
//! layer { name: "best5" type: "ArgMax" bottom: "prob" top: "best5" argmax_param { top_k: 5 } }
//! ```
//! Without `axis` a record's values are numbered through and the top is N × 1 × top_k (with as many
//! axes as the bottom, at least three); with `out_max_val` N × 2 × top_k: places, then values.
//! With `axis` the top is the bottom with top_k along that axis; `out_max_val` puts the values in
//! place of the places. Of equal values the one with the higher place comes first, as in Caffe.

use std::cmp::Ordering;

use super::dims::Around;
use super::threshold::refuse_gradient;
use super::{CudaLayer, DeviceIo, Io, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::source::Source;
use crate::{Result, ensure};

/// The layer.
struct ArgMax {
    axis: Option<i32>,
    top_k: usize,
    out_max_val: bool,
    around: Around,
    /// The values of one record with their places.
    ranking: Vec<(f32, usize)>,
}

/// Larger values first, of equal ones the higher place. A NaN comes before all numbers (or behind,
/// with its sign bit set): wherever, but always the same.
fn better((a, i): &(f32, usize), (b, j): &(f32, usize)) -> Ordering {
    b.partial_cmp(a).unwrap_or_else(|| b.total_cmp(a)).then(j.cmp(i))
}

impl ArgMax {
    /// Writes what is found at rank `j` of record `o`, inner index `at`, where the top has it.
    fn put(&self, y: &mut [f32], [o, j, at]: [usize; 3], (value, place): (f32, usize)) {
        let (k, inner) = (self.top_k, self.around.inner);
        let place = place as f32;
        match (self.axis, self.out_max_val) {
            (None, true) => {
                y[o * 2 * k + j] = place;
                y[o * 2 * k + k + j] = value;
            }
            (_, true) => y[(o * k + j) * inner + at] = value,
            (_, false) => y[(o * k + j) * inner + at] = place,
        }
    }
}

impl Layer for ArgMax {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let bottom = &bottoms[0];
        let top = match self.axis {
            Some(axis) => {
                let axis = bottom.axis(axis)?;
                self.around = Around::of(bottom, axis);
                bottom.with(axis, self.top_k)
            }
            None => {
                ensure!(bottom.axes() > 0, "needs a bottom with records (axis 0), got a scalar");
                self.around = Around::over(bottom, 1..bottom.axes());
                let mut dims = vec![1; bottom.axes().max(3)];
                dims[0] = bottom[0];
                dims[1] = if self.out_max_val { 2 } else { 1 };
                dims[2] = self.top_k;
                Shape::new(dims)
            }
        };
        ensure!(
            (1..=self.around.extent).contains(&self.top_k),
            "top_k must be at least 1 and at most {}, the number of values to choose from in a \
             bottom of shape {bottom}; got {}",
            self.around.extent,
            self.top_k
        );
        Ok(vec![top])
    }

    fn forward(&mut self, _run: &mut Run, io: Io<'_>) -> Result<()> {
        let (x, y) = (io.bottom(0)?, io.top_mut(0)?);
        let Around { outer, extent, inner } = self.around;
        let mut ranking = std::mem::take(&mut self.ranking);
        for o in 0..outer {
            for at in 0..inner {
                let column = x[o * extent * inner + at..].iter().step_by(inner).take(extent);
                ranking.clear();
                ranking.extend(column.enumerate().map(|(place, &value)| (value, place)));
                if self.top_k < extent {
                    ranking.select_nth_unstable_by(self.top_k, better);
                }
                ranking.truncate(self.top_k);
                ranking.sort_unstable_by(better);
                for (j, &found) in ranking.iter().enumerate() {
                    self.put(y, [o, j, at], found);
                }
            }
        }
        self.ranking = ranking;
        Ok(())
    }

    fn backward(&mut self, _run: &mut Run, io: Io<'_>) -> Result<()> {
        refuse_gradient(&io)
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source = Source {
    name: "arg_max",
    text: r#"
// A number that is the larger the better the value, of equal ones the higher the place; never 0.
static __device__ __forceinline__ uint64 rank(float value, int64 place) {
  union {
    float value;
    uint32 bits;
  } both;
  both.value = value == 0.0f ? 0.0f : value;
  uint32 key = both.bits & 0x80000000u ? ~both.bits : both.bits | 0x80000000u;
  return ((uint64)key << 31 | (uint64)place) + 1;
}

static __device__ __forceinline__ uint64 block_best(uint64 x) {
  __shared__ uint64 best[BLOCK];
  best[threadIdx.x] = x;
  __syncthreads();
  for (int half = BLOCK / 2; half > 0; half /= 2) {
    if (threadIdx.x < half && best[threadIdx.x + half] > best[threadIdx.x])
      best[threadIdx.x] = best[threadIdx.x + half];
    __syncthreads();
  }
  uint64 found = best[0];
  __syncthreads();
  return found;
}

// A block a column, one round for each rank. what: 0 for places, 1 for values, 2 for places, then
// values (with inner 1).
extern "C" __global__ void arg_max(int64 n, const float* x, float* y, int64 extent, int64 inner,
                                   int top_k, int what) {
  for (int64 column = blockIdx.x; column < n; column += gridDim.x) {
    int64 record = column / inner, at = column % inner;
    const float* values = x + record * extent * inner + at;
    uint64 last = ~(uint64)0;
    for (int j = 0; j < top_k; ++j) {
      uint64 best = 0;
      for (int64 i = threadIdx.x; i < extent; i += blockDim.x) {
        uint64 here = rank(values[i * inner], i);
        if (here < last && here > best) best = here;
      }
      last = best = block_best(best);
      if (threadIdx.x == 0) {
        int64 place = (int64)((best - 1) & 0x7fffffffu);
        float value = values[place * inner];
        if (what == 2) {
          y[record * 2 * top_k + j] = place;
          y[record * 2 * top_k + top_k + j] = value;
        } else {
          y[(record * top_k + j) * inner + at] = what == 1 ? value : place;
        }
      }
    }
  }
}
"#,
    functions: &["arg_max"],
};

impl CudaLayer for ArgMax {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let what = match (self.axis, self.out_max_val) {
            (_, false) => 0,
            (Some(_), true) => 1,
            (None, true) => 2,
        };
        let Around { outer, extent, inner } = self.around;
        let (x, y, top_k) = (io.bottom(0)?.into(), io.top_mut(0)?.into(), self.top_k as i32);
        let args = [x, y, extent.into(), inner.into(), top_k.into(), what.into()];
        cuda.rows(&KERNELS, "arg_max", outer * inner, &args)
    }

    fn backward(&mut self, _cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        refuse_gradient(&io)
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.argmax_param.as_deref().cloned().unwrap_or_default();
    Ok(Box::new(ArgMax {
        axis: param.axis,
        top_k: param.top_k() as usize,
        out_max_val: param.out_max_val(),
        around: Around::default(),
        ranking: Vec::new(),
    }))
}

/// `ArgMax`.
pub static DEF: LayerDef = LayerDef::new("ArgMax", "the places of the top_k largest values", build).kernels(&[&KERNELS]);

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{input, message, net, set, values};

    const X: [f32; 6] = [0.5, 2.0, 2.0, -1.0, -3.0, -2.0];

    fn text(dims: &[usize], param: &str) -> String {
        let x = input("x", dims);
        format!(
            "{x} layer {{ name: 'a' type: 'ArgMax' bottom: 'x' top: 'y' argmax_param {{ {param} }} }}"
        )
    }

    #[test]
    fn shapes_orders_and_ties() {
        for (param, dims, wanted) in [
            ("", &[2, 1, 1][..], &[2.0, 0.0][..]),
            ("top_k: 2", &[2, 1, 2], &[2.0, 1.0, 0.0, 2.0]),
            ("out_max_val: true", &[2, 2, 1], &[2.0, 2.0, 0.0, -1.0]),
            ("axis: 0", &[1, 3], &[0.0, 0.0, 0.0]),
            ("axis: -1 top_k: 3 out_max_val: true", &[2, 3], &[2.0, 2.0, 0.5, -1.0, -2.0, -3.0]),
        ] {
            let mut net = net(&text(&[2, 3], param), Phase::Test);
            set(&mut net, "x", &X);
            net.forward().unwrap();
            let y = net.blob("y").unwrap();
            assert_eq!(net.store().blobs[y].shape.dims(), dims, "{param}");
            assert_eq!(values(&mut net, "y"), wanted, "{param}");
        }
    }

    #[test]
    fn a_nan_does_not_upset_the_order() {
        let mut net = net(&text(&[1, 4], "top_k: 4 out_max_val: true axis: 1"), Phase::Test);
        set(&mut net, "x", &[1.0, f32::NAN, 3.0, -f32::NAN]);
        net.forward().unwrap();
        let y = values(&mut net, "y");
        assert!(y[0].is_nan() && y[1..3] == [3.0, 1.0] && y[3].is_nan(), "{y:?}");
    }

    #[test]
    fn top_k_must_leave_a_choice() {
        for param in ["top_k: 0", "top_k: 4", "axis: 0 top_k: 3"] {
            let message = message(&text(&[2, 3], param));
            assert!(message.contains("top_k") && message.contains("2 3 (6)"), "{message}");
        }
    }
}
