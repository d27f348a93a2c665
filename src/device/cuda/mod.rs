//! CUDA devices: which there are, and what the engine asks of one.
//!
//! The driver is opened at run time, so one program runs with and without it. [`probe`] only looks: it
//! creates no context and takes no device memory.
//!
//! * [`backend`]: memory, kernels, products and correlations, as layers use them; [`nvidia`]: a GPU
//!   (not yet run on one); [`Choice`] says which;
//! * [`algorithms`]: the choices among a library's, which a job shares;
//! * [`memory`]: what is given back when dropped; [`pool`]: places in one block; [`meter`]: a device that
//!   only counts; [`CudaRun`]: what a layer gets to compute with; [`sums`]: over long rows;
//! * [`locked`]: memory of the host for copies beside the computation; [`step_record`]: what changes from
//!   pass to pass, and what a pass reports; [`work`]: passes that are asked for in one call;
//! * [`Kind`]: what numbers are stored as, [`Order`]: how they lie, [`Form`]: both; [`Math`]: what is computed
//!   with;
//! * [`library`]: CUDA's libraries, found and opened, or what to install;
//! * [`source`]: the text of kernels; [`packs`]: what those that are bound by memory have in common;
//!   [`compiler`]: machine code from it; [`cache`]: the code on disk.
//!
//! ```
//! match caffe::device::cuda::probe() {
//!     Ok(driver) => println!("CUDA {}.{}, {} devices", driver.version.0, driver.version.1, driver.devices.len()),
//!     Err(why) => println!("{why}"),
//! }
//! ```

pub mod algorithms;
pub mod backend;
pub mod cache;
mod choice;
pub mod clique;
pub mod compiler;
mod correlation;
pub mod divisor;
mod kind;
pub mod library;
pub mod locked;
pub mod memory;
pub mod meter;
pub mod nvidia;
pub mod order;
pub mod packs;
pub mod pool;
mod run;
pub mod source;
pub mod step_record;
pub mod sums;
pub mod work;

pub use choice::Choice;
pub use kind::{Kind, Math};
pub use order::{Form, Order};
pub use run::{CudaDevice, CudaRun, add_to_f32, convert, multiply};

use cudarc::driver::sys::CUdevice_attribute as Attribute;
use cudarc::driver::{DriverError, result, sys};

/// Why no device can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The driver's library is not installed, or not in the loader's path.
    #[error(
        "no CUDA driver found (looked for libcuda.so and libcuda.so.1); install NVIDIA's driver, or \
         set LD_LIBRARY_PATH if it is installed elsewhere"
    )]
    NoDriver,
    /// The driver is there but there is nothing to drive.
    #[error(
        "the CUDA driver finds no device; is the GPU plugged in and visible (CUDA_VISIBLE_DEVICES, container settings)?"
    )]
    NoDevice,
    /// The driver refuses.
    #[error("the CUDA driver does not start: {reason}; `nvidia-smi` may say more")]
    Refused {
        /// The driver's words.
        reason: String,
    },
}

/// The driver and its devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// The CUDA version it supports: major, minor.
    pub version: (i32, i32),
    /// The devices, by number.
    pub devices: Vec<Device>,
}

/// What the driver says about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Number, as in `-gpu 0`.
    pub id: usize,
    /// Product name.
    pub name: String,
    /// Bytes of device memory.
    pub memory: usize,
    /// Compute capability: major, minor.
    pub capability: (i32, i32),
    /// Limits and abilities, with their units where they have some.
    pub limits: Limits,
}

/// Limits and abilities of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of shared memory a block.
    pub shared_memory_per_block: i32,
    /// 32-bit registers a block.
    pub registers_per_block: i32,
    /// Threads a warp.
    pub warp: i32,
    /// Bytes of the longest row of a pitched copy.
    pub pitch: i32,
    /// Threads a block.
    pub threads_per_block: i32,
    /// Threads a block in each direction.
    pub block: [i32; 3],
    /// Blocks a grid in each direction.
    pub grid: [i32; 3],
    /// Clock in kHz.
    pub clock: i32,
    /// Bytes of constant memory.
    pub constant_memory: i32,
    /// Bytes to which textures are aligned.
    pub texture_alignment: i32,
    /// Whether it copies while it computes.
    pub overlap: bool,
    /// Multiprocessors.
    pub multiprocessors: i32,
    /// Whether kernels may run for a limited time only (a display hangs on the device).
    pub timeout: bool,
}

/// The engine's own kernels; those of layers stand in their [`LayerDef`](crate::layers::LayerDef).
pub fn sources() -> Vec<source::Source> {
    vec![
        source::AXPY,
        source::CONVERT,
        source::MULTIPLY,
        order::KERNELS,
        sums::KERNELS,
        crate::net::LOSS,
    ]
}

/// Looks for the driver and its devices.
///
/// # Errors
/// Why there are none; on most machines [`Unavailable::NoDriver`].
pub fn probe() -> Result<Driver, Unavailable> {
    // Without the library every call of cudarc panics: this question comes first.
    if library::Library::Driver.open().is_err() {
        return Err(Unavailable::NoDriver);
    }
    result::init().map_err(refused)?;
    let count = result::device::get_count().map_err(refused)?;
    if count == 0 {
        return Err(Unavailable::NoDevice);
    }
    let mut version = 0;
    // SAFETY: writes one int to a valid place; the driver is initialised.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().map_err(refused)?;
    let devices = (0..count).map(device).collect::<Result<_, _>>().map_err(refused)?;
    Ok(Driver { version: (version / 1000, version % 1000 / 10), devices })
}

fn refused(error: DriverError) -> Unavailable {
    match error.0 {
        sys::CUresult::CUDA_ERROR_NO_DEVICE => Unavailable::NoDevice,
        code => Unavailable::Refused { reason: format!("{code:?}") },
    }
}

fn device(id: i32) -> Result<Device, DriverError> {
    let handle = result::device::get(id)?;
    // SAFETY: the handle comes from the driver.
    let memory = unsafe { result::device::total_mem(handle) }?;
    let get = |attribute| {
        // SAFETY: as above.
        unsafe { result::device::get_attribute(handle, attribute) }
    };
    Ok(Device {
        id: id as usize,
        name: result::device::get_name(handle)?,
        memory,
        capability: (
            get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            get(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        limits: limits(get)?,
    })
}

fn limits(get: impl Fn(Attribute) -> Result<i32, DriverError>) -> Result<Limits, DriverError> {
    use Attribute as A;
    Ok(Limits {
        shared_memory_per_block: get(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK)?,
        registers_per_block: get(A::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK)?,
        warp: get(A::CU_DEVICE_ATTRIBUTE_WARP_SIZE)?,
        pitch: get(A::CU_DEVICE_ATTRIBUTE_MAX_PITCH)?,
        threads_per_block: get(A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
        block: [
            get(A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X)?,
            get(A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y)?,
            get(A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z)?,
        ],
        grid: [
            get(A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X)?,
            get(A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y)?,
            get(A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z)?,
        ],
        clock: get(A::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?,
        constant_memory: get(A::CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY)?,
        texture_alignment: get(A::CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT)?,
        overlap: get(A::CU_DEVICE_ATTRIBUTE_GPU_OVERLAP)? != 0,
        multiprocessors: get(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        timeout: get(A::CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT)? != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probing_answers_instead_of_panicking() {
        match probe() {
            Ok(driver) => {
                assert!(driver.version.0 >= 8, "{driver:?}");
                for (i, device) in driver.devices.iter().enumerate() {
                    assert_eq!(device.id, i);
                    assert!(device.memory > 0 && device.capability.0 > 0, "{device:?}");
                }
            }
            Err(why) => assert!(!why.to_string().is_empty()),
        }
    }
}
