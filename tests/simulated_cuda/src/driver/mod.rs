//! The driver's entries: devices and contexts here, the rest in the modules.

mod copies;
mod launch;
mod queues;

use std::ffi::{c_char, c_int, c_uint};

use cudarc::driver::sys::{CUdevice_attribute as Attribute, CUresult};

use crate::places::put;
use crate::world::{CURRENT, Fault, World, driver, lock};

/// Newest compute capability of Hopper, as the devices that the engine is meant for.
const CAPABILITY: (c_int, c_int) = (9, 0);
/// CUDA 13.0.
const VERSION: c_int = 13000;

fn device(world: &World, device: c_int) -> Result<usize, Fault> {
    let found = usize::try_from(device).ok().filter(|device| *device < world.contexts.len());
    let none =
        || Fault::fair(CUresult::CUDA_ERROR_INVALID_DEVICE, format!("there is no device {device}"));
    found.ok_or_else(none)
}

#[unsafe(no_mangle)]
extern "C" fn cuInit(flags: c_uint) -> CUresult {
    let mut world = lock();
    if flags != 0 {
        world.report("cuInit", &"flags that are not zero", true);
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    }
    world.initialised = true;
    match world.contexts.len() {
        0 => CUresult::CUDA_ERROR_NO_DEVICE,
        _ => CUresult::CUDA_SUCCESS,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuDriverGetVersion(version: *mut c_int) -> CUresult {
    // May be asked before cuInit.
    match put(version, VERSION) {
        Ok(()) => CUresult::CUDA_SUCCESS,
        Err(_) => CUresult::CUDA_ERROR_INVALID_VALUE,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetCount(count: *mut c_int) -> CUresult {
    driver("cuDeviceGetCount", |world| Ok(put(count, world.contexts.len() as c_int)?))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGet(handle: *mut c_int, ordinal: c_int) -> CUresult {
    driver("cuDeviceGet", |world| {
        device(world, ordinal)?;
        Ok(put(handle, ordinal)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, handle: c_int) -> CUresult {
    driver("cuDeviceGetName", |world| {
        device(world, handle)?;
        let room = (length.max(1) - 1) as usize;
        for (i, byte) in world.name.bytes().take(room).chain([0]).enumerate() {
            put(name.wrapping_add(i), byte as c_char)?;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, handle: c_int) -> CUresult {
    driver("cuDeviceTotalMem", |world| {
        let device = device(world, handle)?;
        Ok(put(bytes, world.memory.room(device).1)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], handle: c_int) -> CUresult {
    driver("cuDeviceGetUuid", |world| Ok(put(uuid, [1 + device(world, handle)? as u8; 16])?))
}

/// What the pools' handles begin at: each device has one.
const POOLS: u64 = 0x52_0000_0000;

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetMemPool(pool: *mut u64, handle: c_int) -> CUresult {
    driver("cuDeviceGetMemPool", |world| Ok(put(pool, POOLS + device(world, handle)? as u64)?))
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceCanAccessPeer(can: *mut c_int, from: c_int, to: c_int) -> CUresult {
    driver("cuDeviceCanAccessPeer", |world| {
        let devices = (device(world, from)?, device(world, to)?);
        Ok(put(can, c_int::from(devices.0 != devices.1))?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemPoolSetAccess(pool: u64, list: *const [c_int; 3], count: usize) -> CUresult {
    driver("cuMemPoolSetAccess", |world| {
        let own = device(world, pool.wrapping_sub(POOLS) as c_int)?;
        for [kind, other, access] in crate::places::list(list, count)? {
            if (kind, access) != (1, 3) {
                let why = format!("access {access} of a place of kind {kind} is not simulated");
                return Err(Fault::new(CUresult::CUDA_ERROR_NOT_SUPPORTED, why));
            }
            device(world, other)?;
            world.contexts[own].admitted.push(other);
        }
        Ok(())
    })
}

/// What a device says of itself; those of an H100 where it matters.
fn attribute(attribute: c_int) -> Option<c_int> {
    use Attribute as A;
    let known = [
        (A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024),
        (A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024),
        (A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024),
        (A::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64),
        (A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, i32::MAX),
        (A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535),
        (A::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535),
        (A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 49152),
        (A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 49152),
        (A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 49152),
        (A::CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 65536),
        (A::CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32),
        (A::CU_DEVICE_ATTRIBUTE_MAX_PITCH, i32::MAX),
        (A::CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536),
        (A::CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1_000_000),
        (A::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 1_000_000),
        (A::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 1024),
        (A::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 1 << 20),
        (A::CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT, 512),
        (A::CU_DEVICE_ATTRIBUTE_GPU_OVERLAP, 1),
        (A::CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 2),
        (A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 4),
        (A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048),
        (A::CU_DEVICE_ATTRIBUTE_KERNEL_EXEC_TIMEOUT, 0),
        (A::CU_DEVICE_ATTRIBUTE_INTEGRATED, 0),
        (A::CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1),
        (A::CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1),
        (A::CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1),
        (A::CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 0),
        (A::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1),
        (A::CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS, 0),
        (A::CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, 0),
        (A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, CAPABILITY.0),
        (A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, CAPABILITY.1),
    ];
    known.iter().find(|(known, _)| *known as c_int == attribute).map(|(_, value)| *value)
}

#[unsafe(no_mangle)]
extern "C" fn cuDeviceGetAttribute(value: *mut c_int, which: c_int, handle: c_int) -> CUresult {
    driver("cuDeviceGetAttribute", |world| {
        device(world, handle)?;
        let unknown = || {
            let why = format!("attribute {which} is not simulated");
            Fault::new(CUresult::CUDA_ERROR_INVALID_VALUE, why)
        };
        Ok(put(value, attribute(which).ok_or_else(unknown)?)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRetain(context: *mut u64, handle: c_int) -> CUresult {
    driver("cuDevicePrimaryCtxRetain", |world| {
        let device = device(world, handle)?;
        world.contexts[device].retained += 1;
        Ok(put(context, World::context(device))?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(handle: c_int) -> CUresult {
    driver("cuDevicePrimaryCtxRelease", |world| {
        let device = device(world, handle)?;
        match world.contexts[device].retained {
            0 => {
                let why = "the context is not retained";
                return Err(Fault::new(CUresult::CUDA_ERROR_INVALID_CONTEXT, why));
            }
            1 => {
                let done = world.drain_device(device);
                if !done.as_ref().is_err_and(|fault| fault.stalled) {
                    world.destroy(device);
                }
                done?;
            }
            _ => world.contexts[device].retained -= 1,
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetCurrent(context: *mut u64) -> CUresult {
    driver("cuCtxGetCurrent", |_| Ok(put(context, CURRENT.get())?))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: u64) -> CUresult {
    driver("cuCtxSetCurrent", |world| {
        if context != 0 {
            world.device_of(context)?;
        }
        CURRENT.set(context);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetDevice(handle: *mut c_int) -> CUresult {
    driver("cuCtxGetDevice", |world| Ok(put(handle, world.current()? as c_int)?))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> CUresult {
    driver("cuCtxSynchronize", |world| {
        let device = world.current()?;
        world.none_captured(device)?;
        world.drain_device(device)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetFlags(_flags: c_uint) -> CUresult {
    driver("cuCtxSetFlags", |world| world.current().map(drop))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) -> CUresult {
    driver("cuCtxGetStreamPriorityRange", |world| {
        world.current()?;
        put(least, 0)?;
        Ok(put(greatest, -5)?)
    })
}

/// A result's name, with the zero that ends it.
fn name(code: c_int) -> &'static [u8] {
    const NAMES: [(CUresult, &[u8]); 18] = [
        (CUresult::CUDA_SUCCESS, b"CUDA_SUCCESS\0"),
        (CUresult::CUDA_ERROR_INVALID_VALUE, b"CUDA_ERROR_INVALID_VALUE\0"),
        (CUresult::CUDA_ERROR_OUT_OF_MEMORY, b"CUDA_ERROR_OUT_OF_MEMORY\0"),
        (CUresult::CUDA_ERROR_NOT_INITIALIZED, b"CUDA_ERROR_NOT_INITIALIZED\0"),
        (CUresult::CUDA_ERROR_NO_DEVICE, b"CUDA_ERROR_NO_DEVICE\0"),
        (CUresult::CUDA_ERROR_INVALID_DEVICE, b"CUDA_ERROR_INVALID_DEVICE\0"),
        (CUresult::CUDA_ERROR_INVALID_IMAGE, b"CUDA_ERROR_INVALID_IMAGE\0"),
        (CUresult::CUDA_ERROR_INVALID_CONTEXT, b"CUDA_ERROR_INVALID_CONTEXT\0"),
        (CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU, b"CUDA_ERROR_NO_BINARY_FOR_GPU\0"),
        (CUresult::CUDA_ERROR_INVALID_HANDLE, b"CUDA_ERROR_INVALID_HANDLE\0"),
        (CUresult::CUDA_ERROR_ILLEGAL_STATE, b"CUDA_ERROR_ILLEGAL_STATE\0"),
        (CUresult::CUDA_ERROR_NOT_FOUND, b"CUDA_ERROR_NOT_FOUND\0"),
        (CUresult::CUDA_ERROR_NOT_READY, b"CUDA_ERROR_NOT_READY\0"),
        (CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, b"CUDA_ERROR_ILLEGAL_ADDRESS\0"),
        (CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED, b"CUDA_ERROR_CONTEXT_IS_DESTROYED\0"),
        (CUresult::CUDA_ERROR_LAUNCH_FAILED, b"CUDA_ERROR_LAUNCH_FAILED\0"),
        (CUresult::CUDA_ERROR_NOT_SUPPORTED, b"CUDA_ERROR_NOT_SUPPORTED\0"),
        (
            CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
            b"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED\0",
        ),
    ];
    let found = NAMES.iter().find(|(known, _)| *known as c_int == code);
    found.map_or(b"an error\0", |(_, name)| name)
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorName(code: c_int, text: *mut *const c_char) -> CUresult {
    driver("cuGetErrorName", |_| Ok(put(text, name(code).as_ptr().cast())?))
}

#[unsafe(no_mangle)]
extern "C" fn cuGetErrorString(code: c_int, text: *mut *const c_char) -> CUresult {
    cuGetErrorName(code, text)
}

/// The version that a library tells part by part: major, minor, patch.
pub(crate) fn property(which: c_int, value: *mut c_int, version: [c_int; 3]) -> bool {
    let part = usize::try_from(which).ok().and_then(|which| version.get(which));
    part.is_some_and(|part| put(value, *part).is_ok())
}
