//! Modules, functions and launches.

use std::ffi::{c_char, c_int, c_uint, c_void};

use cudarc::driver::sys::CUresult;

use super::CAPABILITY;
use crate::kernels::{self, THREADS};
use crate::places::{get, put, text};
use crate::stream::Op;
use crate::world::{Fault, World, bad, driver};

#[unsafe(no_mangle)]
extern "C" fn cuModuleLoadData(module: *mut u64, image: *const u8) -> CUresult {
    // Compiling may take long: others go on meanwhile.
    let loaded = kernels::unpack(image).and_then(|(architecture, text)| {
        let (major, minor) = (architecture as c_int / 10, architecture as c_int % 10);
        if major != CAPABILITY.0 || minor > CAPABILITY.1 {
            let why = format!("machine code for sm_{architecture}");
            return Err(Fault::new(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU, why));
        }
        kernels::load(&text)
    });
    driver("cuModuleLoadData", |world| {
        world.unsafe_in_capture()?;
        let device = world.current()?;
        Ok(put(module, world.modules.add((device, loaded.clone()?)))?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleUnload(module: u64) -> CUresult {
    driver("cuModuleUnload", |world| {
        let current = world.current()?;
        let (device, _) = world.modules.get(module).map_err(bad)?;
        if *device != current {
            let why = format!("a module of device {device} in the context of {current}");
            return Err(Fault::new(CUresult::CUDA_ERROR_INVALID_CONTEXT, why));
        }
        world.modules.remove(module).map_err(bad)?;
        world.functions.retire(|kernel| kernel.module == module);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuModuleGetFunction(
    function: *mut u64,
    module: u64,
    name: *const c_char,
) -> CUresult {
    driver("cuModuleGetFunction", |world| {
        world.current()?;
        let (device, code) = world.modules.get(module).map_err(bad)?;
        let name = text(name)?;
        let Some(kernel) = kernels::find(code, (*device, module), &name) else {
            let why = format!("the module has no kernel {name}");
            return Err(Fault::new(CUresult::CUDA_ERROR_NOT_FOUND, why));
        };
        Ok(put(function, world.functions.add(kernel))?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuFuncGetAttribute(value: *mut c_int, which: c_int, function: u64) -> CUresult {
    driver("cuFuncGetAttribute", |world| {
        world.functions.get(function).map_err(bad)?;
        // The first says how many threads a block may have; memory and registers are not simulated.
        Ok(put(value, if which == 0 { THREADS as c_int } else { 0 })?)
    })
}

/// Whether a kernel can be launched so.
fn checked(grid: [c_uint; 3], block: [c_uint; 3], shared: c_uint) -> Result<(), Fault> {
    let [x, y, z] = grid;
    if x == 0 || y == 0 || z == 0 || x > i32::MAX as u32 || y > 65535 || z > 65535 {
        let why = format!("a grid of {grid:?} blocks");
        return Err(Fault::new(CUresult::CUDA_ERROR_INVALID_VALUE, why));
    }
    if block.contains(&0) || block.iter().product::<c_uint>() > 1024 {
        let why = format!("blocks of {block:?} threads");
        return Err(Fault::new(CUresult::CUDA_ERROR_INVALID_VALUE, why));
    }
    if block != [THREADS, 1, 1] || [y, z] != [1, 1] || shared != 0 {
        let why = format!(
            "a grid of {grid:?} blocks of {block:?} threads with {shared} bytes of dynamic memory: \
             only one-dimensional grids of blocks of {THREADS} without are simulated"
        );
        return Err(Fault::new(CUresult::CUDA_ERROR_NOT_SUPPORTED, why));
    }
    Ok(())
}

/// Copies the arguments of a launch, each into a word of its own.
fn arguments(parameters: &[u8], places: *const *const c_void) -> Result<Vec<u64>, Fault> {
    let argument = |(i, size): (usize, &u8)| {
        let place = get(places.wrapping_add(i))?;
        match size & 127 {
            size @ 1..=8 => {
                let mut word = [0; 8];
                for (byte, to) in word.iter_mut().enumerate().take(size as usize) {
                    *to = get(place.cast::<u8>().wrapping_add(byte))?;
                }
                Ok(u64::from_le_bytes(word))
            }
            size => {
                let why = format!("a parameter of {size} bytes is not simulated");
                Err(Fault::new(CUresult::CUDA_ERROR_NOT_SUPPORTED, why))
            }
        }
    };
    parameters.iter().enumerate().map(argument).collect()
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchKernel(
    function: u64,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: u64,
    places: *const *const c_void,
    extra: *const c_void,
) -> CUresult {
    driver("cuLaunchKernel", |world| {
        let device = world.current()?;
        let kernel = world.functions.get(function).map_err(bad)?.clone();
        if kernel.device != device {
            let why = format!("{} was loaded for device {}", kernel.name, kernel.device);
            return Err(Fault::new(CUresult::CUDA_ERROR_INVALID_CONTEXT, why));
        }
        checked([grid_x, grid_y, grid_z], [block_x, block_y, block_z], shared)
            .map_err(|fault| Fault { why: format!("{}: {}", kernel.name, fault.why), ..fault })?;
        if !extra.is_null() {
            let why = "arguments in a buffer are not simulated";
            return Err(Fault::new(CUresult::CUDA_ERROR_NOT_SUPPORTED, why));
        }
        let words = arguments(&kernel.parameters, places)?;
        let work = move |world: &mut World| kernel.run(&world.memory, grid_x, &words);
        world.ask(stream, Op::new("cuLaunchKernel", work))
    })
}
