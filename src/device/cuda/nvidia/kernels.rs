//! The layers' kernels as functions of a device: compiled once, kept on disk, loaded when first used.

use std::collections::HashMap;
use std::ffi::CString;

use cudarc::driver::{DriverError, result, sys};

use super::driver;
use crate::device::cuda::Kind;
use crate::device::cuda::cache::Cache;
use crate::device::cuda::compiler::{self, Architecture, Compiler};
use crate::device::cuda::source::Source;
use crate::{Error, Result, bail};

/// All that have been used so far.
pub(super) struct Kernels {
    compiler: Compiler,
    architecture: Architecture,
    cache: Cache,
    modules: HashMap<(&'static str, Kind), sys::CUmodule>,
    functions: HashMap<(&'static str, Kind), sys::CUfunction>,
}

fn compiling(error: compiler::Error) -> Error {
    Error::Invalid(error.to_string())
}

impl Kernels {
    /// None yet, for a device of this compute capability.
    pub(super) fn new(capability: (i32, i32)) -> Result<Kernels> {
        let compiler = Compiler::open().map_err(compiling)?;
        let architecture = compiler.architecture(capability).map_err(compiling)?;
        let (modules, functions) = Default::default();
        Ok(Kernels { compiler, architecture, cache: Cache::of_process(), modules, functions })
    }

    /// A kernel's function, with `real` in this kind.
    pub(super) fn get(
        &mut self,
        source: &'static Source,
        kind: Kind,
        function: &'static str,
    ) -> Result<sys::CUfunction> {
        if let Some(kernel) = self.functions.get(&(function, kind)) {
            return Ok(*kernel);
        }
        let module = match self.modules.get(&(source.name, kind)) {
            Some(module) => *module,
            None => {
                let code = self.cache.compiled(&self.compiler, source, kind, self.architecture);
                let code = code.map_err(compiling)?;
                // SAFETY: machine code of the device's architecture, just compiled or read with its
                // checksum; the driver copies it.
                let module = unsafe { result::module::load_data(code.as_ptr().cast()) }
                    .map_err(|error| self.unloaded(error))?;
                self.modules.insert((source.name, kind), module);
                module
            }
        };
        let Ok(name) = CString::new(function) else { bail!("internal: a kernel named {function}") };
        // SAFETY: modules are unloaded in `drop` only.
        let kernel = unsafe { result::module::get_function(module, name) }
            .map_err(driver("finding a kernel"))?;
        self.functions.insert((function, kind), kernel);
        Ok(kernel)
    }
}

impl Kernels {
    /// Why a driver does not take machine code: mostly it is older than the compiler.
    fn unloaded(&self, error: DriverError) -> Error {
        Error::Invalid(format!(
            "CUDA: loading kernels failed: {:?}; NVRTC {} made them for {}. A driver takes what compilers of \
             its own CUDA version and older ones make (`caffe device_query` names both): update the driver, or \
             install an older NVRTC",
            error.0,
            self.compiler.version(),
            self.architecture
        ))
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        for module in self.modules.values() {
            // SAFETY: loaded by `get`, and nothing runs any more: the device has been waited for.
            let _ = unsafe { result::module::unload(*module) };
        }
    }
}
