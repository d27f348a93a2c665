//! Memory, and copies of it.

use std::ffi::{c_uchar, c_uint, c_void};

use cudarc::driver::sys::CUresult;

use crate::memory::NOTHING;
use crate::places::{copy, fill, put};
use crate::stream::{Op, null};
use crate::world::{Fault, World, driver};

#[unsafe(no_mangle)]
extern "C" fn cuMemAlloc_v2(at: *mut u64, bytes: usize) -> CUresult {
    driver("cuMemAlloc", |world| {
        world.unsafe_in_capture()?;
        let device = world.current()?;
        Ok(put(at, world.memory.allocate(Some(device), bytes)?)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(at: u64) -> CUresult {
    driver("cuMemFree", |world| {
        world.unsafe_in_capture()?;
        let device = world.current()?;
        world.drain_device(device)?;
        if at == 0 { Ok(()) } else { world.memory.free(at, true) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocAsync(at: *mut u64, bytes: usize, stream: u64) -> CUresult {
    driver("cuMemAllocAsync", |world| {
        let device = world.current()?;
        if !null(stream) && world.stream(stream)?.capture.is_some() {
            let why = "memory is allocated in a capture; that is not simulated";
            return Err(Fault::new(CUresult::CUDA_ERROR_NOT_SUPPORTED, why));
        }
        // The driver takes what this stream gives back before, without a wait.
        if !null(stream) && world.memory.room(device).0 < bytes && world.stream(stream)?.frees() > 0
        {
            world.drain(stream)?;
        }
        let given = world.memory.allocate(Some(device), bytes)?;
        // It may be what this stream gave back before, and still works with: what others write into it before
        // its turn has come is lost.
        let work = move |_: &mut World| {
            fill(given, NOTHING, bytes);
            Ok(())
        };
        world.ask(stream, Op::new("cuMemAllocAsync", work))?;
        Ok(put(at, given)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeAsync(at: u64, stream: u64) -> CUresult {
    driver("cuMemFreeAsync", |world| {
        world.memory.check(at, 1)?;
        let frees = world.memory.size(at);
        let op = Op::new("cuMemFreeAsync", move |world| world.memory.free(at, true));
        world.ask(stream, Op { frees, ..op })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CUresult {
    driver("cuMemGetInfo", |world| {
        let device = world.current()?;
        let (left, all) = world.memory.room(device);
        put(free, left)?;
        Ok(put(total, all)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostAlloc(at: *mut u64, bytes: usize, flags: c_uint) -> CUresult {
    driver("cuMemHostAlloc", |world| {
        world.unsafe_in_capture()?;
        world.current()?;
        if flags & !7 != 0 {
            return Err(Fault::new(CUresult::CUDA_ERROR_INVALID_VALUE, "unknown flags"));
        }
        Ok(put(at, world.memory.allocate(None, bytes)?)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocHost_v2(at: *mut u64, bytes: usize) -> CUresult {
    cuMemHostAlloc(at, bytes, 0)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(at: u64) -> CUresult {
    driver("cuMemFreeHost", |world| {
        world.unsafe_in_capture()?;
        let device = world.current()?;
        world.drain_device(device)?;
        world.memory.free(at, false)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostRegister_v2(at: u64, bytes: usize, _flags: c_uint) -> CUresult {
    driver("cuMemHostRegister", |world| {
        world.current()?;
        world.memory.register(at, bytes)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostUnregister(at: u64) -> CUresult {
    driver("cuMemHostUnregister", |world| {
        let device = world.current()?;
        world.drain_device(device)?;
        world.memory.unregister(at)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostGetDevicePointer_v2(device: *mut u64, host: u64, _: c_uint) -> CUresult {
    driver("cuMemHostGetDevicePointer", |world| match world.memory.locked(host, 0) {
        true => Ok(put(device, host)?),
        false => Err(Fault::new(CUresult::CUDA_ERROR_INVALID_VALUE, "not page-locked memory")),
    })
}

fn sized(at: u64) -> *const c_void {
    at as *const c_void
}

/// Copies at once, both ends known to be good.
fn now(from: u64, to: u64, bytes: usize) -> Result<(), Fault> {
    Ok(copy(sized(from), to as *mut c_void, bytes)?)
}

/// A copy when its turn comes, with both ends checked then.
fn later(call: &'static str, from: (u64, bool), to: (u64, bool), bytes: usize) -> Op {
    Op::new(call, move |world: &mut World| {
        for (at, on_device) in [from, to] {
            if on_device {
                world.memory.check(at, bytes)?;
            }
        }
        now(from.0, to.0, bytes)
    })
}

fn to_device(
    world: &mut World,
    from: u64,
    to: u64,
    bytes: usize,
    stream: u64,
) -> Result<(), Fault> {
    world.memory.check(to, bytes)?;
    if bytes == 0 {
        return Ok(());
    }
    // Pageable memory, too: a device that reaches the host's memory needs no copy of the driver's.
    world.ask(stream, later("cuMemcpyHtoDAsync", (from, false), (to, true), bytes))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) -> CUresult {
    driver("cuMemcpyHtoDAsync", |world| to_device(world, from, to, bytes, stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoHAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) -> CUresult {
    driver("cuMemcpyDtoHAsync", |world| {
        world.memory.check(from, bytes)?;
        world.ask(stream, later("cuMemcpyDtoHAsync", (from, true), (to, false), bytes))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) -> CUresult {
    driver("cuMemcpyDtoDAsync", |world| {
        world.memory.check(from, bytes)?;
        world.memory.check(to, bytes)?;
        world.ask(stream, later("cuMemcpyDtoDAsync", (from, true), (to, true), bytes))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyPeerAsync(
    to: u64,
    to_context: u64,
    from: u64,
    from_context: u64,
    bytes: usize,
    stream: u64,
) -> CUresult {
    driver("cuMemcpyPeerAsync", |world| {
        world.device_of(to_context)?;
        world.device_of(from_context)?;
        world.memory.check(from, bytes)?;
        world.memory.check(to, bytes)?;
        world.ask(stream, later("cuMemcpyPeerAsync", (from, true), (to, true), bytes))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: u64) -> CUresult {
    driver("cuMemcpyAsync", |world| {
        let there = |at| world.memory.check(at, bytes).is_ok();
        let (reads, writes) = (there(from), there(to));
        match (reads, writes) {
            (false, true) => to_device(world, from, to, bytes, stream),
            _ => world.ask(stream, later("cuMemcpyAsync", (from, reads), (to, writes), bytes)),
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoD_v2(to: u64, from: u64, bytes: usize) -> CUresult {
    driver("cuMemcpyHtoD", |world| to_device(world, from, to, bytes, 0))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoH_v2(to: u64, from: u64, bytes: usize) -> CUresult {
    driver("cuMemcpyDtoH", |world| {
        world.ask(0, later("cuMemcpyDtoH", (from, true), (to, false), bytes))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) -> CUresult {
    driver("cuMemcpyDtoD", |world| {
        world.ask(0, later("cuMemcpyDtoD", (from, true), (to, true), bytes))
    })
}

fn set(world: &mut World, at: u64, value: u8, bytes: usize, stream: u64) -> Result<(), Fault> {
    world.memory.check(at, bytes)?;
    let op = Op::new("cuMemsetD8Async", move |world| {
        world.memory.check(at, bytes)?;
        fill(at, value, bytes);
        Ok(())
    });
    world.ask(stream, op)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8Async(at: u64, value: c_uchar, bytes: usize, stream: u64) -> CUresult {
    driver("cuMemsetD8Async", |world| set(world, at, value, bytes, stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8_v2(at: u64, value: c_uchar, bytes: usize) -> CUresult {
    driver("cuMemsetD8", |world| set(world, at, value, bytes, 0))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD32Async(at: u64, value: c_uint, count: usize, stream: u64) -> CUresult {
    driver("cuMemsetD32Async", |world| {
        world.memory.check(at, 4 * count)?;
        let op = Op::new("cuMemsetD32Async", move |world| {
            world.memory.check(at, 4 * count)?;
            let place = at as *mut c_uint;
            Ok((0..count).try_for_each(|i| put(place.wrapping_add(i), value))?)
        });
        world.ask(stream, op)
    })
}
