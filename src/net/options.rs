//! What a caller says when a net is built: for which state and device, and where it was read.

use caffe_proto::{NetState, Phase};

use crate::device::cpu::memory;
use crate::device::cuda::CudaDevice;

/// How a net is built.
#[derive(Clone, Debug)]
pub struct NetOptions {
    /// Phase, level and stages that `include`/`exclude` rules are held against.
    pub state: NetState,
    /// Seed of fillers and dropout.
    pub seed: u64,
    /// CPU threads of this net.
    pub threads: usize,
    /// Plain path only (no Winograd, no private layouts).
    pub exact: bool,
    /// Keep every blob and gradient readable after a pass, at the price of memory.
    pub keep_all: bool,
    /// Bytes that blobs, gradients and parameters may need together.
    pub memory: u64,
    /// The CUDA device to compute on; `None`: the host.
    pub cuda: Option<CudaDevice>,
    /// Layers without code for that device compute on the host, instead of being refused.
    pub cpu_fallback: bool,
    /// For who only wants to know what such a net needs: parameters stay zero instead of getting first
    /// values, and no layer writes files.
    pub blank: bool,
}

impl NetOptions {
    /// Options for a phase: one thread, seed 0, fast path, all memory of the machine.
    pub fn new(phase: Phase) -> Self {
        NetOptions {
            state: NetState { phase: Some(phase as i32), ..Default::default() },
            seed: 0,
            threads: 1,
            exact: false,
            keep_all: false,
            memory: memory::total().unwrap_or(u64::MAX),
            cuda: None,
            cpu_fallback: false,
            blank: false,
        }
    }
}

/// Where a prototxt came from, for messages.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// File name as the user gave it.
    pub file: String,
    /// Line of each `layer` block, in order; empty when unknown (upgraded files).
    pub lines: Vec<usize>,
}

impl Origin {
    /// `file:line` of a `layer` block, where known.
    pub(crate) fn place(&self, block: usize) -> Option<String> {
        self.lines.get(block).map(|line| format!("{}:{line}", self.file))
    }
}
