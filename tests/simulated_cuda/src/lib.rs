//! CUDA's libraries in software: the driver, NVRTC, cuBLASLt, cuDNN and NCCL as one shared library that
//! computes on the host. For tests where there is no GPU: the program opens it in the place of NVIDIA's and every
//! call it makes is executed and checked. Not part of the product, and nothing about speed.
//!
//! * Calls are judged by the interface as NVIDIA documents it: a handle that was never made or is gone, a
//!   size that does not fit, a thread without a context answer with the interface's error, and a line on stderr
//!   names the call. [`simulated_cuda_violations`]
//!   counts them; after [`simulated_cuda_be_strict`] the first ends the process; [`simulated_cuda_break`] breaks a device. What may happen to a correct program (no
//!   memory left, an event that is not done) is an error, but no violation.
//! * Memory is full of NaN when allocated and when freed; around each allocation lies a guard.
//! * A stream's work runs as late as the interface allows: when somebody waits for it. What is read without a
//!   wait is old, or NaN. `SIMULATED_CUDA_ORDER=others` runs all other streams first instead.
//! * Kernels are compiled as C++ with `host.h` before them; a block's threads are fibers. A barrier that
//!   some threads miss is a failed launch. Blocks have 256 threads. Neither blocks nor threads come in order, and an
//!   access that is not aligned ends the process.
//! * cuBLASLt and cuDNN compute from their descriptions alone.
//!
//! Other settings: `SIMULATED_CUDA_MEMORY`, bytes a device, which [`simulated_cuda_limit_memory`] changes; `SIMULATED_CUDA_DEVICES`, their number.
//! `SIMULATED_CUDA_SHAKE`, by what part of themselves convolutions are off by algorithms whose sums differ from run to run.
//! `SIMULATED_CUDA_TIMES=N`: measured times of convolutions differ from try to try and from handle to handle; another N,
//! other times. `SIMULATED_CUDA_CONVOLUTIONS`, a file in which each convolution that is tried or computed is written down.
//! `SIMULATED_CUDA_NAME`, the devices' product name; `SIMULATED_CUDNN_VERSION`, as cuDNN counts;
//! `SIMULATED_CUDNN_LACKS=N`: algorithm N of each direction does not work.
//! [`install`] makes a folder in which a program finds the libraries under their usual names.

#![allow(non_snake_case)]

mod convolution;
mod cublaslt;
mod cudnn;
mod driver;
mod events;
mod graph;
mod install;
mod kernels;
mod matmul;
mod memory;
mod nccl;
mod numbers;
mod nvrtc;
mod places;
mod stream;
mod world;

pub use install::{LIBRARY, install};

/// From now on a violation ends the process, after its line on stderr.
#[unsafe(no_mangle)]
pub extern "C" fn simulated_cuda_be_strict() {
    world::lock().strict = true;
}

/// From now on each device has so many bytes.
#[unsafe(no_mangle)]
pub extern "C" fn simulated_cuda_limit_memory(bytes: u64) {
    world::lock().memory.limit(bytes as usize);
}

/// A device fails as hardware does: its context is broken, and answers with that.
#[unsafe(no_mangle)]
pub extern "C" fn simulated_cuda_break(device: u32) {
    let code = cudarc::driver::sys::CUresult::CUDA_ERROR_ECC_UNCORRECTABLE;
    if let Some(context) = world::lock().contexts.get_mut(device as usize) {
        context.broken = Some(code);
    }
}

/// Violations of the interface so far, of all threads.
#[unsafe(no_mangle)]
pub extern "C" fn simulated_cuda_violations() -> u64 {
    world::lock().violations
}
