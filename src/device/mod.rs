//! Devices: where a replica computes. [`Run`] is what a layer gets to compute with.

pub mod cpu;
pub mod cuda;

use crate::Result;
use cpu::CpuRun;

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

/// The device a layer computes on, with its handles. A CUDA device will be a second variant.
pub enum Run {
    /// The host's processors.
    Cpu(CpuRun),
}

impl Run {
    /// The CPU context.
    ///
    /// # Errors
    /// When the net runs on another device, for which the layer has no code.
    pub fn cpu(&mut self) -> Result<&mut CpuRun> {
        match self {
            Run::Cpu(cpu) => Ok(cpu),
        }
    }

    /// The present step.
    pub fn step(&self) -> Step {
        match self {
            Run::Cpu(cpu) => cpu.step,
        }
    }

    /// Sets the present step.
    pub fn set_step(&mut self, step: Step) {
        match self {
            Run::Cpu(cpu) => cpu.step = step,
        }
    }

    /// Host threads this device may keep busy.
    pub fn threads(&self) -> cpu::threads::Threads {
        match self {
            Run::Cpu(cpu) => cpu.threads,
        }
    }
}
