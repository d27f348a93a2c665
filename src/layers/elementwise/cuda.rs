//! Layers that treat every element by itself, on a CUDA device.
//!
//! Such a layer gives two expressions of CUDA C to `unary_kernels` and says which value its
//! gradient is computed from.

use crate::Result;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::Arg;
use crate::device::cuda::memory::Scratch;
use crate::device::cuda::source::Source;
use crate::layers::{CudaLayer, DeviceIo, Orders, Reals};

/// Kernels `NAME_forward` and `NAME_backward` out of an expression of `x` for the top, and one of
/// `v` (the bottom or the top) and `dy` for the gradient of the bottom; both may use the layer's
/// numbers `a`, `b` and `c`.
macro_rules! unary_kernels {
    ($name:literal, $forward:literal, $backward:literal) => {
        $crate::device::cuda::source::Source {
            name: $name,
            text: concat!(
                "\nextern \"C\" __global__ void ",
                $name,
                "_forward(int64 n, const real* from, real* y, float a, float b, float c) {\n",
                "  each_number(n, y, [=](float x) -> float { return ",
                $forward,
                "; }, from);\n}\n",
                "extern \"C\" __global__ void ",
                $name,
                "_backward(int64 n, const real* value, const real* from, real* dx, float a, float b, float c) {\n",
                "  each_number(n, dx, [=](float v, float dy) -> float { return ",
                $backward,
                "; }, value, from);\n}\n"
            ),
            functions: &[concat!($name, "_forward"), concat!($name, "_backward")],
        }
    };
}
pub(in crate::layers) use unary_kernels;

/// A layer's kernels and numbers.
pub struct Unary {
    /// Made by `unary_kernels`.
    pub kernels: &'static Source,
    /// What its expressions call a, b and c.
    pub numbers: [f32; 3],
    /// What its gradient is computed from.
    pub value: Value,
}

/// A layer that is no more than that.
pub trait UnaryLayer {
    /// Its kernels.
    fn unary(&self) -> Unary;
}

impl<L: UnaryLayer> CudaLayer for L {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        self.unary().forward(cuda, &io)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        self.unary().backward(cuda, &io)
    }

    fn reals(&self) -> Reals {
        Reals::FIRST
    }

    fn orders(&self) -> Orders {
        Orders::Bottoms
    }
}

/// Which value the gradient is computed from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// The bottom; in place that is the top's memory.
    Bottom,
    /// The top.
    Top,
}

impl Unary {
    /// top = f(bottom).
    ///
    /// # Errors
    /// A device that failed.
    pub fn forward(&self, cuda: &CudaRun, io: &DeviceIo<'_>) -> Result<()> {
        let (x, y) = io.through()?;
        let [a, b, c] = self.numbers.map(Arg::from);
        let n = io.top_shape(0).count();
        cuda.packs(self.kernels, self.kernels.functions[0], n, &[x.into(), y.into(), a, b, c])
    }

    /// [`forward`](Unary::forward); in place, the bottom is kept where a gradient will be asked for.
    ///
    /// # Errors
    /// A device that failed.
    pub fn forward_keeping(
        &self,
        cuda: &CudaRun,
        io: &DeviceIo<'_>,
        kept: &mut Scratch,
    ) -> Result<()> {
        if io.in_place() && io.propagate_down(0) {
            let n = io.bottom_shape(0).count();
            let room = kept.room(&cuda.device, cuda.real.floats(n))?;
            let y = io.top_update(0)?;
            cuda.copy(y, room, n)?;
            let [a, b, c] = self.numbers.map(Arg::from);
            let args = [room.into(), y.into(), a, b, c];
            return cuda.packs(self.kernels, self.kernels.functions[0], n, &args);
        }
        self.forward(cuda, io)
    }

    /// bottom diff = d(value, top diff).
    ///
    /// # Errors
    /// A device that failed.
    pub fn backward(&self, cuda: &CudaRun, io: &DeviceIo<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let value = match self.value {
            Value::Bottom => io.bottom(0)?,
            Value::Top => io.top(0)?,
        };
        self.backward_from(cuda, io, value.into())
    }

    /// The same from what [`forward_keeping`](Unary::forward_keeping) kept.
    ///
    /// # Errors
    /// A device that failed.
    pub fn backward_kept(
        &self,
        cuda: &CudaRun,
        io: &DeviceIo<'_>,
        kept: &mut Scratch,
    ) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let n = io.bottom_shape(0).count();
        let value = match io.in_place() {
            true => kept.room(&cuda.device, cuda.real.floats(n))?,
            false => io.bottom(0)?,
        };
        self.backward_from(cuda, io, value.into())
    }

    fn backward_from(&self, cuda: &CudaRun, io: &DeviceIo<'_>, value: Arg) -> Result<()> {
        let (dy, dx) = io.back_through()?;
        let [a, b, c] = self.numbers.map(Arg::from);
        let n = io.bottom_shape(0).count();
        let args = [value, dy.into(), dx.into(), a, b, c];
        cuda.packs(self.kernels, self.kernels.functions[1], n, &args)
    }
}
