//! Kernels: CUDA C++ compiled for the host, loaded and run.
//!
//! A "CUBIN" is the text itself with the names of its functions where a real one has them; whoever loads it
//! compiles it, unless that has been done. So no stale machine code comes out of anybody's cache.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cudarc::driver::sys::CUresult;

use crate::install;
use crate::memory::Memory;
use crate::world::Fault;

/// What kernels find on a device.
const HOST: &str = include_str!("host.h");

/// Says of each parameter of a kernel how large it is, and whether it is a pointer.
const PARAMETERS: &str = r#"
#include <type_traits>
namespace simulated {
template <class... A>
static const unsigned char* parameters(void (*)(A...)) {
  static const unsigned char all[] = {
      (unsigned char)(sizeof(A) | (std::is_pointer<A>::value ? 128 : 0))..., 0};
  return all;
}
}  // namespace simulated
"#;

/// Threads of every block: as many as the engine's blocks have.
pub const THREADS: c_uint = 256;

/// What the bytes of a "CUBIN" begin with.
const MAGIC: &[u8; 12] = b"\x7fELFsimulate";

type Entry = unsafe extern "C" fn(c_uint, *mut *mut c_void) -> c_int;
type Parameters = unsafe extern "C" fn() -> *const u8;

/// A loaded file of kernels.
pub type Module = Arc<libloading::Library>;

/// A kernel.
#[derive(Clone)]
pub struct Kernel {
    /// The device it was loaded for.
    pub device: usize,
    /// The module it is of.
    pub module: u64,
    /// Its name.
    pub name: String,
    /// Sizes of its parameters; the highest bit says pointer.
    pub parameters: Vec<u8>,
    entry: Entry,
    /// Keeps the code.
    _code: Module,
}

/// Names of the kernels in a text.
pub fn names(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for after in text.split("__global__").skip(1) {
        let Some((before, _)) = after.split_once('(') else { continue };
        let word = |c: char| !(c.is_alphanumeric() || c == '_');
        if before.contains("void")
            && let Some(name) = before.rsplit(word).find(|name| !name.is_empty())
        {
            names.push(name.to_owned());
        }
    }
    names
}

/// The C++ of a text, with an entry for each kernel.
fn unit(text: &str) -> String {
    let mut unit = format!("{HOST}{PARAMETERS}{text}\n#line 1 \"entries\"\n");
    for name in names(text) {
        unit += &format!(
            "static void simulated_call_{name}(void** args) {{ host::call({name}, args); }}\n\
             extern \"C\" int simulated_run_{name}(unsigned blocks, void** args) {{\n  \
             return host::run(blocks, simulated_call_{name}, args);\n}}\n\
             extern \"C\" const unsigned char* simulated_parameters_{name}() {{\n  \
             return simulated::parameters({name});\n}}\n"
        );
    }
    unit
}

/// The shared library of a text, compiled unless that was done before; or the compiler's words.
pub fn compile(text: &str) -> Result<PathBuf, String> {
    let unit = unit(text);
    let mut hash = DefaultHasher::new();
    unit.hash(&mut hash);
    let folder = install::beside("kernels");
    let path = folder.join(format!("{:016x}.so", hash.finish()));
    if path.exists() {
        return Ok(path);
    }
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let own = folder.join(format!("{}-{number}", std::process::id()));
    let made = build(&own, &unit).and_then(|made| {
        fs::rename(made, &path).map_err(|why| format!("{}: {why}", path.display()))
    });
    drop(fs::remove_dir_all(&own));
    made.map(|()| path)
}

fn build(folder: &Path, unit: &str) -> Result<PathBuf, String> {
    let wrong = |why: std::io::Error| format!("{}: {why}", folder.display());
    fs::create_dir_all(folder).map_err(wrong)?;
    let (code, made) = (folder.join("kernels.cpp"), folder.join("kernels.so"));
    fs::write(&code, unit).map_err(wrong)?;
    let output = Command::new(install::compiler())
        .args(["-std=c++17", "-O1", "-w", "-fPIC", "-shared", "-ffp-contract=off"])
        // An access that is not aligned to what it reads ends the process, as it would break a context.
        .args(["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error", "-o"])
        .args([&made, &code])
        .output()
        .map_err(wrong)?;
    match output.status.success() {
        true => Ok(made),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The "CUBIN" of a text for an architecture such as 90.
pub fn pack(text: &str, architecture: u32) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(architecture.to_le_bytes());
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
    for name in names(text) {
        bytes.extend(format!("\0.text.{name}").as_bytes());
    }
    bytes.push(0);
    bytes
}

/// The architecture and the text in a "CUBIN".
pub fn unpack(image: *const u8) -> Result<(u32, String), Fault> {
    let invalid = || {
        let why = "the image is no machine code of the simulated NVRTC";
        Fault::new(CUresult::CUDA_ERROR_INVALID_IMAGE, why)
    };
    let bytes = |from: usize, count: usize| crate::places::list(image.wrapping_add(from), count);
    let start = MAGIC.len();
    if bytes(0, start)? != MAGIC {
        return Err(invalid());
    }
    let architecture =
        bytes(start, 4)?.try_into().map(u32::from_le_bytes).map_err(|_| invalid())?;
    let length = bytes(start + 4, 8)?.try_into().map(u64::from_le_bytes).map_err(|_| invalid())?;
    let text = String::from_utf8(bytes(start + 12, length as usize)?).map_err(|_| invalid())?;
    Ok((architecture, text))
}

/// Loads the kernels of a text.
pub fn load(text: &str) -> Result<Module, Fault> {
    let invalid = |why: String| Fault::new(CUresult::CUDA_ERROR_INVALID_IMAGE, why);
    let path = compile(text).map_err(invalid)?;
    // SAFETY: a library of kernels has no initialisers but those of plain values.
    let library = unsafe { libloading::Library::new(path) };
    library.map(Arc::new).map_err(|why| invalid(why.to_string()))
}

/// A kernel of a module.
pub fn find(code: &Module, (device, module): (usize, u64), name: &str) -> Option<Kernel> {
    // SAFETY: `unit` declares these functions with these types.
    let (entry, parameters) = unsafe {
        let entry = code.get::<Entry>(format!("simulated_run_{name}\0").as_bytes()).ok()?;
        let asked = format!("simulated_parameters_{name}\0");
        let parameters = code.get::<Parameters>(asked.as_bytes()).ok()?;
        (*entry, parameters().cast::<c_char>())
    };
    // SAFETY: a list that ends with zero, as no parameter has no size; the module is alive.
    let list = unsafe { std::ffi::CStr::from_ptr(parameters) };
    let parameters = list.to_bytes().to_vec();
    Some(Kernel { device, module, name: name.into(), parameters, entry, _code: code.clone() })
}

impl Kernel {
    fn pointers<'a>(&'a self, words: &'a [u64]) -> impl Iterator<Item = (usize, u64)> + 'a {
        let pointer =
            |(i, (size, word)): (usize, (&u8, &u64))| (size & 128 != 0).then_some((i, *word));
        self.parameters.iter().zip(words).enumerate().filter_map(pointer)
    }

    /// Runs it on so many blocks, on memory that is there.
    pub fn run(&self, memory: &Memory, blocks: c_uint, words: &[u64]) -> Result<(), Fault> {
        let illegal = |why| Fault::new(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, why);
        for (i, at) in self.pointers(words) {
            memory.check(at, 0).map_err(|fault| {
                illegal(format!("{}: its argument {i}: {}", self.name, fault.why))
            })?;
        }
        let mut words = words.to_vec();
        let mut places: Vec<*mut c_void> =
            words.iter_mut().map(|word| std::ptr::from_mut(word).cast()).collect();
        let failed = |why: &str| {
            Err(Fault::new(CUresult::CUDA_ERROR_LAUNCH_FAILED, format!("{}: {why}", self.name)))
        };
        // SAFETY: as many arguments as the kernel has parameters, each at the start of its word (little
        // endian); pointers point into memory that is alive.
        match unsafe { (self.entry)(blocks, places.as_mut_ptr()) } {
            0 => {}
            1 => return failed("not all threads of a block reach a barrier"),
            _ => return failed("no memory for a block's threads"),
        }
        for (i, at) in self.pointers(&words) {
            memory.intact(at).map_err(|fault| {
                illegal(format!("{}: its argument {i}: {}", self.name, fault.why))
            })?;
        }
        Ok(())
    }
}
