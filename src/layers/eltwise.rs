//! Eltwise: the sum Σ coeff_i · x_i, the product or the largest of equally shaped bottoms, element
//! by element, in any layout.
//!
//! ```text
//! layer { name: "res2a" type: "Eltwise" bottom: "branch1" bottom: "branch2" top: "res2a"
//!         eltwise_param { operation: SUM coeff: 1 coeff: -1 } }
//! ```
//! Of equal largest values the gradient goes to the second bottom where the first two tie, else to
//! the first in order, as in Caffe.

use caffe_proto::eltwise_parameter::EltwiseOp;
use smallvec::SmallVec;

use super::{Count, CudaLayer, DeviceIo, Io, Layer, LayerDef, Orders, Reals, Setup, dims};
use crate::blob::{Layout, Shape};
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::{Address, Arg};
use crate::device::cuda::memory::Scratch;
use crate::device::cuda::source::Source;
use crate::{Result, ensure};

/// Elements per task, small enough that a task's piece of the top stays in the first-level cache
/// while all bottoms pass.
const CHUNK: usize = 4 * 1024;

/// The bottoms' values; up to eight need no memory of their own.
type Values<'a> = SmallVec<[&'a [f32]; 8]>;

/// Numbers of the bottoms that want a gradient.
type Live = SmallVec<[usize; 8]>;

/// What is computed.
struct Rule {
    operation: EltwiseOp,
    coeff: Vec<f32>,
    stable_prod_grad: bool,
}

/// The layer.
struct Eltwise {
    rule: Rule,
    /// On a device: where each largest value came from.
    winners: Scratch,
    /// On a device: the ReLU behind it is its work.
    relu: bool,
}

/// Whether bottom `i` is the one that the largest value at `at` came from.
fn is_largest(xs: &[&[f32]], i: usize, at: usize) -> bool {
    let mut winner = if xs[0][at] > xs[1][at] { 0 } else { 1 };
    for (j, x) in xs.iter().enumerate().skip(2) {
        if x[at] > xs[winner][at] {
            winner = j;
        }
    }
    winner == i
}

/// y ← op(y, x).
fn fold(y: &mut [f32], x: &[f32], op: impl Fn(f32, f32) -> f32) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = op(*y, *x));
}

impl Rule {
    /// The piece of the top that starts at `from`.
    fn value(&self, xs: &[&[f32]], from: usize, y: &mut [f32]) {
        let len = y.len();
        let piece = |j: usize| &xs[j][from..][..len];
        match self.operation {
            EltwiseOp::Sum => {
                let first = self.coeff[0];
                y.iter_mut().zip(piece(0)).for_each(|(y, x)| *y = first * x);
                for (j, &c) in self.coeff.iter().enumerate().skip(1) {
                    fold(y, piece(j), |y, x| y + c * x);
                }
            }
            EltwiseOp::Prod => {
                y.copy_from_slice(piece(0));
                (1..xs.len()).for_each(|j| fold(y, piece(j), |y, x| y * x));
            }
            EltwiseOp::Max => {
                y.copy_from_slice(piece(0));
                (1..xs.len()).for_each(|j| fold(y, piece(j), f32::max));
            }
        }
    }

    /// The piece of the gradient of bottom `i` that starts at `from`. `xs` and `y` may be empty
    /// where the gradient is not computed from values.
    fn slope(
        &self,
        xs: &[&[f32]],
        y: &[f32],
        dy: &[f32],
        i: usize,
        (from, dx): (usize, &mut [f32]),
    ) {
        let len = dx.len();
        let piece = |j: usize| &xs[j][from..][..len];
        let dy = &dy[from..][..len];
        match self.operation {
            EltwiseOp::Sum => {
                let c = self.coeff[i];
                dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = c * dy);
            }
            EltwiseOp::Prod if self.stable_prod_grad => {
                dx.copy_from_slice(dy);
                let others = (0..xs.len()).filter(|j| *j != i);
                others.for_each(|j| fold(dx, piece(j), |dx, x| dx * x));
            }
            EltwiseOp::Prod => {
                let values = y[from..].iter().zip(piece(i));
                for ((dx, dy), (y, x)) in dx.iter_mut().zip(dy).zip(values) {
                    *dx = y / x * dy;
                }
            }
            EltwiseOp::Max => {
                for (at, (dx, dy)) in dx.iter_mut().zip(dy).enumerate() {
                    *dx = if is_largest(xs, i, from + at) { *dy } else { 0.0 };
                }
            }
        }
    }

    /// Whether the gradient is computed from the bottoms' values.
    fn needs_values(&self) -> bool {
        self.operation != EltwiseOp::Sum
    }
}

impl Layer for Eltwise {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        for (i, bottom) in bottoms.iter().enumerate() {
            dims::expect(&format!("bottom {i} against bottom 0"), &bottoms[0], bottom)?;
        }
        Ok(vec![bottoms[0].clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let layout = dims::first_blocked((0..io.bottoms()).map(|i| io.bottom_layout(i)));
        let xs =
            (0..io.bottoms()).map(|i| io.bottom_in(i, layout)).collect::<Result<Values<'_>>>()?;
        let rule = &self.rule;
        run.threads().par_chunks_mut(io.top_mut_in(0, layout)?, CHUNK, |i, y| {
            rule.value(&xs, i * CHUNK, y);
        });
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let mut layout = io.top_diff_layout(0);
        if self.rule.operation == EltwiseOp::Prod
            && !self.rule.stable_prod_grad
            && io.top_shape(0).is_padded_in(layout)
        {
            // y / x of padding channels is 0 / 0.
            layout = Layout::Plain;
        }
        let dy = io.top_diff_in(0, layout)?;
        let (mut xs, mut y) = (Values::new(), &[][..]);
        if self.rule.needs_values() {
            xs = (0..io.bottoms()).map(|i| io.bottom_in(i, layout)).collect::<Result<_>>()?;
            y = io.top_in(0, layout)?;
        }
        let rule = &self.rule;
        for i in (0..io.bottoms()).filter(|&i| io.propagate_down(i)) {
            let dx = io.bottom_diff_mut_in(i, layout)?;
            run.threads().par_chunks_mut(dx, CHUNK, |at, dx| {
                rule.slope(&xs, y, dy, i, (at * CHUNK, dx));
            });
        }
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source = Source {
    name: "eltwise",
    text: r#"
// y = ca * a + cb * b; with relu, zero where that is negative.
extern "C" __global__ void eltwise_sum(int64 n, const real* a, const real* b, real* y, float ca,
                                       float cb, int relu) {
  each_number(n, y, [=](float u, float v) -> float {
    float value = ca * u + cb * v;
    return relu ? RELU(value) : value;
  }, a, b);
}

extern "C" __global__ void eltwise_product(int64 n, const real* a, const real* b, real* y) {
  each_number(n, y, [](float u, float v) -> float { return u * v; }, a, b);
}

// y = the larger; who = the number of the bottom it came from, b's being j. For the first pair
// (j = 1) a is bottom 0.
extern "C" __global__ void eltwise_max(int64 n, const real* a, const real* b, real* y, float* who,
                                       int j) {
  KERNEL_LOOP(i, n) {
    float va = a[i], vb = b[i];
    if (j == 1) who[i] = va > vb ? 0 : 1;
    else if (vb > va) who[i] = j;
    y[i] = fmaxf(va, vb);
  }
}

// The gradients of two bottoms of a sum, and of a ReLU behind it: da = ca * dy, db = cb * dy.
template <int W>
static __device__ __forceinline__ void sum_back(int64 n, const real* y, const real* dy, real* da,
                                                real* db, float ca, float cb, int relu) {
  KERNEL_LOOP(i, n / W) {
    Pack<W> value = relu ? pack<W>(y, W * i) : Pack<W>(), slope = pack<W>(dy, W * i), a, b;
    for (int j = 0; j < W; ++j) {
      float s = relu && !(value.at[j] > 0) ? 0.0f : (float)slope.at[j];
      a.at[j] = ca * s;
      b.at[j] = cb * s;
    }
    put(da, W * i, a);
    put(db, W * i, b);
  }
}
extern "C" __global__ void eltwise_sum_back(int64 n, const real* y, const real* dy, real* da,
                                            real* db, float ca, float cb, int relu) {
  if (packed(y, dy, da, db) && n % PACK == 0)
    sum_back<PACK>(n, y, dy, da, db, ca, cb, relu);
  else
    sum_back<1>(n, y, dy, da, db, ca, cb, relu);
}

// The same of one.
extern "C" __global__ void eltwise_one_back(int64 n, const real* y, const real* dy, real* dx, float c,
                                            int relu) {
  if (relu)
    each_number(n, dx, [=](float u, float v) -> float { return u > 0 ? c * v : 0.0f; }, y, dy);
  else
    each_number(n, dx, [=](float v) -> float { return c * v; }, dy);
}

// The product of the others as y / x.
extern "C" __global__ void eltwise_quotient(int64 n, const real* y, const real* x, const real* dy,
                                            real* dx) {
  KERNEL_LOOP(i, n) { dx[i] = y[i] / x[i] * dy[i]; }
}

extern "C" __global__ void eltwise_chosen(int64 n, const float* who, const real* dy, real* dx,
                                          int j) {
  KERNEL_LOOP(i, n) { dx[i] = who[i] == j ? dy[i] : 0.0f; }
}
"#,
    functions: &[
        "eltwise_sum",
        "eltwise_product",
        "eltwise_max",
        "eltwise_sum_back",
        "eltwise_one_back",
        "eltwise_quotient",
        "eltwise_chosen",
    ],
};

impl Eltwise {
    /// The top, where its ReLU wants to know it; else another array.
    fn top_of_relu(&self, io: &DeviceIo<'_>, other: Address) -> Result<Arg> {
        if self.relu { io.top(0).map(Arg::from) } else { Ok(other.into()) }
    }

    /// The gradient of bottom `i`.
    fn slope_on(
        &mut self,
        cuda: &CudaRun,
        io: &DeviceIo<'_>,
        i: usize,
        (dy, dx): (Address, Address),
    ) -> Result<()> {
        let n = io.top_shape(0).count();
        match self.rule.operation {
            EltwiseOp::Sum => {
                let (coeff, relu) = (self.rule.coeff[i].into(), i32::from(self.relu).into());
                let args = [self.top_of_relu(io, dy)?, dy.into(), dx.into(), coeff, relu];
                cuda.packs(&KERNELS, "eltwise_one_back", n, &args)
            }
            EltwiseOp::Prod if self.rule.stable_prod_grad => {
                let mut from = dy;
                for j in (0..io.bottoms()).filter(|j| *j != i) {
                    let args = [from.into(), io.bottom(j)?.into(), dx.into()];
                    cuda.packs(&KERNELS, "eltwise_product", n, &args)?;
                    from = dx;
                }
                Ok(())
            }
            EltwiseOp::Prod => {
                let args = [io.top(0)?.into(), io.bottom(i)?.into(), dy.into(), dx.into()];
                cuda.each(&KERNELS, "eltwise_quotient", n, &args)
            }
            EltwiseOp::Max => {
                let who = self.winners.room(&cuda.device, n)?;
                let args = [who.into(), dy.into(), dx.into(), (i as i32).into()];
                cuda.each(&KERNELS, "eltwise_chosen", n, &args)
            }
        }
    }
}

impl CudaLayer for Eltwise {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let (n, y) = (io.top_shape(0).count(), io.top_mut(0)?);
        let (mut from, mut coeff) = (io.bottom(0)?, self.rule.coeff[0]);
        for j in 1..io.bottoms() {
            let arrays = [from.into(), io.bottom(j)?.into(), y.into()];
            let [a, b, to]: [Arg; 3] = arrays;
            match self.rule.operation {
                EltwiseOp::Sum => {
                    let relu = i32::from(self.relu && j + 1 == io.bottoms());
                    let args = [a, b, to, coeff.into(), self.rule.coeff[j].into(), relu.into()];
                    cuda.packs(&KERNELS, "eltwise_sum", n, &args)?;
                }
                EltwiseOp::Prod => cuda.packs(&KERNELS, "eltwise_product", n, &arrays)?,
                EltwiseOp::Max => {
                    let who = self.winners.room(&cuda.device, n)?;
                    let args = [a, b, to, who.into(), (j as i32).into()];
                    cuda.each(&KERNELS, "eltwise_max", n, &args)?;
                }
            }
            (from, coeff) = (y, 1.0);
        }
        Ok(())
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let dy = io.top_diff(0)?;
        let wanted = (0..io.bottoms()).filter(|&i| io.propagate_down(i));
        if let (EltwiseOp::Sum, &[a, b]) = (self.rule.operation, &*wanted.clone().collect::<Live>())
        {
            let y = self.top_of_relu(&io, dy)?;
            let (da, db) = (io.bottom_diff_mut(a)?.into(), io.bottom_diff_mut(b)?.into());
            let [ca, cb] = [a, b].map(|i| self.rule.coeff[i].into());
            let args = [y, dy.into(), da, db, ca, cb, i32::from(self.relu).into()];
            return cuda.packs(&KERNELS, "eltwise_sum_back", io.top_shape(0).count(), &args);
        }
        for i in wanted {
            let dx = io.bottom_diff_mut(i)?;
            self.slope_on(cuda, &io, i, (dy, dx))?;
        }
        Ok(())
    }

    fn take_relu(&mut self) -> bool {
        self.relu = self.rule.operation == EltwiseOp::Sum;
        self.relu
    }

    fn takes_relu_back(&self) -> bool {
        self.relu
    }

    fn reals(&self) -> Reals {
        Reals::ALL
    }

    fn orders(&self) -> Orders {
        Orders::Bottoms
    }
}

fn build(setup: &Setup<'_>, bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.eltwise_param.as_deref().cloned().unwrap_or_default();
    let operation = param.operation();
    ensure!(
        param.coeff.is_empty() || param.coeff.len() == bottoms.len(),
        "needs one coeff for each of the {} bottoms, or none; got {}",
        bottoms.len(),
        param.coeff.len()
    );
    ensure!(
        param.coeff.is_empty() || operation == EltwiseOp::Sum,
        "coeff is for operation SUM; {} takes none",
        operation.as_str_name()
    );
    let stable_prod_grad = param.stable_prod_grad();
    let coeff = if param.coeff.is_empty() { vec![1.0; bottoms.len()] } else { param.coeff };
    Ok(Box::new(Eltwise {
        rule: Rule { operation, coeff, stable_prod_grad },
        winners: Scratch::default(),
        relu: false,
    }))
}

/// `Eltwise`.
pub static DEF: LayerDef =
    LayerDef::new("Eltwise", "sum, product or maximum of equally shaped blobs", build)
        .kernels(&[&KERNELS])
        .counts(Count::AtLeast(2), Count::Exactly(1));

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{gradient, net, set, values};

    #[test]
    fn ties_go_where_caffe_sends_them() {
        let input = |n: &str| {
            format!(
                "layer {{ name: '{n}' type: 'Input' top: '{n}' input_param {{ shape {{ dim: 3 }} }} }} "
            )
        };
        let text = format!(
            "force_backward: true {}{}{} layer {{ name: 'e' type: 'Eltwise' bottom: 'a' bottom: 'b' \
             bottom: 'c' top: 'y' eltwise_param {{ operation: MAX }} }}",
            input("a"),
            input("b"),
            input("c")
        );
        let mut net = net(&text, Phase::Train);
        set(&mut net, "a", &[1.0, 1.0, 2.0]);
        set(&mut net, "b", &[1.0, 0.0, 0.0]);
        set(&mut net, "c", &[1.0, 1.0, 3.0]);
        net.forward().unwrap();
        assert_eq!(values(&mut net, "y"), [1.0, 1.0, 3.0]);
        let y = net.blob("y").unwrap();
        net.diff_mut(y).unwrap().copy_from_slice(&[5.0, 6.0, 7.0]);
        net.backward().unwrap();
        assert_eq!(gradient(&mut net, "a"), [0.0, 6.0, 0.0]);
        assert_eq!(gradient(&mut net, "b"), [5.0, 0.0, 0.0]);
        assert_eq!(gradient(&mut net, "c"), [0.0, 0.0, 7.0]);
    }
}
