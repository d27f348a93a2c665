//! What an [`Optimizer`](super::Optimizer) has on a CUDA device, and its launches.

use std::rc::Rc;

use super::rules;
use crate::Result;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::{Address, Arg, Backend};
use crate::device::cuda::memory::Memory;
use crate::device::cuda::source::Source;
use crate::params::{GRAIN, ParamArena};

/// Most blocks that sum squares: enough to fill any device.
const PARTS: usize = 512;
/// Fewest squares that are worth a block.
const PART: usize = 4096;

/// The norm of a gradient in two stages without atomic operations: the same bits every time. Squares
/// are summed in f32: above 1.8e19 a norm counts as infinite.
pub static NORM: Source = Source {
    name: "gradient_norm",
    text: r#"
// Sums of squares, one for each block.
extern "C" __global__ void norm_parts(int64 n, const float* x, int64 floats, float* sums) {
  for (int64 part = blockIdx.x; part < n; part += gridDim.x) {
    float sum = 0.0f;
    for (int64 i = part * BLOCK + threadIdx.x; i < floats; i += n * BLOCK) sum += x[i] * x[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) sums[part] = sum;
  }
}

// The norm, and the factor that brings it down to `most`: one block. Without a finite loss, or after a
// fault, there is none.
extern "C" __global__ void norm_whole(int64 n, const float* sums, int64 parts, float most,
                                      const float* loss, const float* fault, float* norm) {
  float sum = 0.0f;
  for (int64 i = threadIdx.x; i < parts; i += BLOCK) sum += sums[i];
  sum = sqrtf(block_sum(sum));
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    norm[0] = sum + *loss * 0.0f + (*fault ? __uint_as_float(0x7fc00000u) : 0.0f);
    norm[1] = sum > most ? most / sum : 1.0f;
  }
}
"#,
    functions: &["norm_parts", "norm_whole"],
};

/// The kernels of every update.
pub fn sources() -> Vec<Source> {
    rules::sources().chain([NORM]).collect()
}

/// An update's arrays and numbers, as its kernel takes them.
pub(super) struct Update {
    pub data: Address,
    pub diff: Address,
    pub history: [Address; 2],
    pub rate: f32,
    pub iter_size: f32,
    pub l1: f32,
    pub l2: f32,
}

/// Memory of an optimizer on a device.
pub(super) struct OnDevice {
    floats: usize,
    /// lr_mult, decay_mult and used floats of every grain of the arena.
    runs: Memory,
    sums: Memory,
}

impl OnDevice {
    /// What is there, made the first time.
    pub fn get<'a>(
        there: &'a mut Option<OnDevice>,
        arena: &ParamArena,
        device: &Rc<dyn Backend>,
    ) -> Result<&'a OnDevice> {
        match there {
            Some(there) => Ok(there),
            None => Ok(there.insert(OnDevice::new(arena, device)?)),
        }
    }

    fn new(arena: &ParamArena, device: &Rc<dyn Backend>) -> Result<OnDevice> {
        let floats = arena.learnable_len();
        let mut rows = vec![[0.0; 3]; floats / GRAIN];
        for p in arena.params().iter().filter(|p| !p.statistic) {
            for (grain, at) in p.range.clone().step_by(GRAIN).enumerate() {
                let used = (p.range.end - at).min(GRAIN) as f32;
                rows[p.range.start / GRAIN + grain] = [p.lr_mult, p.decay_mult, used];
            }
        }
        let rows = rows.as_flattened();
        let runs = Memory::new(device, rows.len())?;
        runs.upload(rows)?;
        Ok(OnDevice { floats, runs, sums: Memory::new(device, PARTS)? })
    }

    /// The gradient's norm, and the factor that brings it down to `most`, to the report.
    pub fn measure(&self, cuda: &CudaRun, arena: &mut ParamArena, most: f32) -> Result<()> {
        let (diff, sums) = (arena.diff_on(&cuda.device)?, self.sums.at());
        let args = [diff.into(), self.floats.into(), sums.into()];
        let parts = self.floats.div_ceil(PART).min(PARTS);
        cuda.rows(&NORM, "norm_parts", parts, &args)?;
        let (report, (sums, parts)) = (&cuda.report, (sums.into(), parts.into()));
        let [loss, fault, norm] =
            [report.loss(), report.fault_place(), report.norm()].map(Arg::from);
        let args = [sums, parts, most.into(), loss, fault, norm];
        cuda.report.changes();
        cuda.rows(&NORM, "norm_whole", 1, &args)
    }

    /// Runs a rule.
    pub fn update(&self, cuda: &CudaRun, rule: &rules::OnDevice, update: &Update) -> Result<()> {
        let [h0, h1] = update.history;
        let [a, b, c] = rule.numbers;
        let args = [
            update.data.into(),
            update.diff.into(),
            h0.into(),
            h1.into(),
            self.runs.at().into(),
            cuda.report.norm().into(),
            (update.rate * rule.factor).into(),
            update.iter_size.into(),
            update.l1.into(),
            update.l2.into(),
            a.into(),
            b.into(),
            c.into(),
        ];
        cuda.each(rule.kernels, rule.kernels.functions[0], self.floats, &args)
    }
}
