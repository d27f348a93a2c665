//! Devices: where a replica computes. [`Run`] is what a layer gets to compute with.

pub mod cpu;
pub mod cuda;

use crate::Result;
use cpu::CpuRun;
use cuda::CudaRun;

/// What changes from step to step without changing the plan: read by layers, written by the owner
/// of the net before each pass. On a GPU it is mirrored in device memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Step {
    /// Iteration (lr, display and snapshot follow it).
    pub iter: u64,
    /// Position of the batch's first record in the job's order of records; random choices are keyed
    /// by position, so that they do not depend on the number of replicas.
    pub first_record: u64,
}

/// The device a layer computes on, with its handles.
pub enum Run {
    /// The host's processors.
    Cpu(CpuRun),
    /// A CUDA device, and the host for what has no code for it.
    Cuda(CudaRun),
}

impl Run {
    /// The host's part, for what a layer computes there whatever the device.
    fn host(&self) -> &CpuRun {
        match self {
            Run::Cpu(cpu) => cpu,
            Run::Cuda(cuda) => &cuda.host,
        }
    }

    /// The CPU context: on another device, the host beside it.
    ///
    /// # Errors
    /// None now; a device without a host would have one.
    pub fn cpu(&mut self) -> Result<&mut CpuRun> {
        match self {
            Run::Cpu(cpu) => Ok(cpu),
            Run::Cuda(cuda) => Ok(&mut cuda.host),
        }
    }

    /// The CUDA device, if that is where the net runs.
    pub fn cuda(&self) -> Option<&CudaRun> {
        match self {
            Run::Cpu(_) => None,
            Run::Cuda(cuda) => Some(cuda),
        }
    }

    /// The same, to say what its kernels take.
    pub fn cuda_mut(&mut self) -> Option<&mut CudaRun> {
        match self {
            Run::Cpu(_) => None,
            Run::Cuda(cuda) => Some(cuda),
        }
    }

    /// The present step.
    pub fn step(&self) -> Step {
        self.host().step
    }

    /// Sets the present step.
    pub fn set_step(&mut self, step: Step) {
        match self {
            Run::Cpu(cpu) => cpu.step = step,
            Run::Cuda(cuda) => cuda.host.step = step,
        }
    }

    /// Host threads this device may keep busy.
    pub fn threads(&self) -> cpu::threads::Threads {
        self.host().threads
    }
}
