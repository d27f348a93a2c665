//! [`CudaRun`]: what a layer computes with on a CUDA device.

use std::cell::RefCell;
use std::rc::Rc;

use super::backend::{Address, Arg, Backend};
use super::kind::Kind;
use super::memory::Scratch;
use super::source::{BLOCK, CONVERT, MULTIPLY, Source};
use super::step_record::{Report, StepRecord};
use crate::Result;
use crate::device::cpu::CpuRun;
use crate::device::cpu::gemm::Gemm;

/// Most blocks of a kernel that loops: enough to fill any device, few enough to start quickly.
const MOST: usize = 1 << 16;

/// A device that nets are built on.
#[derive(Clone)]
pub struct CudaDevice(pub Rc<dyn Backend>);

impl std::fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.describe())
    }
}

/// A device, and the host beside it for what has no device code.
pub struct CudaRun {
    /// The device.
    pub device: Rc<dyn Backend>,
    /// What `real` is in the kernels that are launched now: the device's kind while a layer runs that
    /// takes its blobs as `real`, else f32.
    pub real: Kind,
    /// Runs data layers, and whatever `--allow-cpu-fallback` allows.
    pub host: CpuRun,
    /// Sums of parts of rows, from one kernel to the next.
    pub partial: RefCell<Scratch>,
    /// In which of a data layer's two places the present batch lies.
    pub place: usize,
    /// What changes from pass to pass, for kernels.
    pub record: StepRecord,
    /// What a pass has to report.
    pub report: Rc<Report>,
}

impl CudaRun {
    /// On a device, with this host beside it.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn new(device: &CudaDevice, host: CpuRun) -> Result<CudaRun> {
        let device = device.0.clone();
        Ok(CudaRun {
            real: Kind::F32,
            host,
            partial: RefCell::default(),
            place: 0,
            record: StepRecord::new(&device)?,
            report: Rc::new(Report::new(&device)?),
            device,
        })
    }

    /// Runs a kernel over `n` elements. Its first parameter is `long long n`, the others are `args`.
    ///
    /// # Errors
    /// A kernel that does not compile, or a device that failed.
    pub fn each(
        &self,
        source: &'static Source,
        function: &'static str,
        n: usize,
        args: &[Arg],
    ) -> Result<()> {
        if n == 0 {
            return Ok(());
        }
        self.run(source, function, n.div_ceil(BLOCK).min(MOST), n, args)
    }

    /// Runs a kernel with one block for each of `n` rows. Its first parameter is `long long n`, its
    /// rows are `blockIdx.x`, `blockIdx.x + gridDim.x`, … below n.
    ///
    /// # Errors
    /// As [`each`](CudaRun::each).
    pub fn rows(
        &self,
        source: &'static Source,
        function: &'static str,
        n: usize,
        args: &[Arg],
    ) -> Result<()> {
        if n == 0 {
            return Ok(());
        }
        self.run(source, function, n.min(MOST), n, args)
    }

    fn run(
        &self,
        source: &'static Source,
        function: &'static str,
        blocks: usize,
        n: usize,
        args: &[Arg],
    ) -> Result<()> {
        launch(&*self.device, source, self.real, (function, blocks), n, args)
    }

    /// C ← alpha · op(A) · op(B) + beta · C, all `real`.
    ///
    /// # Errors
    /// A device that failed.
    pub fn product(&self, g: Gemm, a: Address, b: Address, c: Address) -> Result<()> {
        match g.m * g.n {
            0 => Ok(()),
            _ => self.device.product(g, [self.real; 2], a, b, c),
        }
    }

    /// The same where C is f32, as gradients of parameters are.
    ///
    /// # Errors
    /// A device that failed.
    pub fn product_in_f32(&self, g: Gemm, a: Address, b: Address, c: Address) -> Result<()> {
        match g.m * g.n {
            0 => Ok(()),
            _ => self.device.product(g, [self.real, Kind::F32], a, b, c),
        }
    }

    /// Copies `n` reals within the device.
    ///
    /// # Errors
    /// A device that failed.
    pub fn copy(&self, from: Address, to: Address, n: usize) -> Result<()> {
        self.device.copy(from, to, self.real.floats(n))
    }

    /// Sets `n` reals to zero.
    ///
    /// # Errors
    /// A device that failed.
    pub fn zero(&self, at: Address, n: usize) -> Result<()> {
        self.device.zero(at, self.real.floats(n))
    }
}

fn launch(
    device: &dyn Backend,
    source: &'static Source,
    real: Kind,
    (function, blocks): (&'static str, usize),
    n: usize,
    args: &[Arg],
) -> Result<()> {
    let mut all = smallvec::SmallVec::<[Arg; 20]>::new();
    all.push(Arg::from(n));
    all.extend_from_slice(args);
    device.launch(source, real, function, blocks, &all)
}

/// Runs a kernel over `n` numbers outside of a layer's pass.
fn over(
    device: &dyn Backend,
    source: &'static Source,
    real: Kind,
    function: &'static str,
    n: usize,
    args: &[Arg],
) -> Result<()> {
    match n {
        0 => Ok(()),
        _ => launch(device, source, real, (function, n.div_ceil(BLOCK).min(MOST)), n, args),
    }
}

/// to ← from, from one of the kinds f32 and `device.kind()` to the other.
///
/// # Errors
/// A device that failed.
pub fn convert(device: &dyn Backend, from: (Kind, Address), to: Address, n: usize) -> Result<()> {
    let function = if from.0 == Kind::F32 { "to_real" } else { "to_float" };
    over(device, &CONVERT, device.kind(), function, n, &[from.1.into(), to.into()])
}

/// to ← to + from, where `from` is of this kind and `to` is f32.
///
/// # Errors
/// A device that failed.
pub fn add_to_f32(
    device: &dyn Backend,
    (kind, from): (Kind, Address),
    to: Address,
    n: usize,
) -> Result<()> {
    over(device, &CONVERT, kind, "add_to_float", n, &[from.into(), to.into()])
}

/// x ← factor · x, f32; all NaN where the loss that a pass reports is not finite.
///
/// # Errors
/// A device that failed.
pub fn multiply(report: &Report, x: Address, factor: f32, n: usize) -> Result<()> {
    let args = [x.into(), factor.into(), report.loss().into()];
    over(&**report.device(), &MULTIPLY, Kind::F32, "multiply", n, &args)
}
