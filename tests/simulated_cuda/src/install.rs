//! Where the simulated libraries are: under the names by which a program looks for NVIDIA's.

use std::ffi::{CStr, c_void};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The file that has all functions, where cargo leaves it.
pub const LIBRARY: &str = "libsimulated_cuda.so";

/// The names. A file of its own for each, as the loader knows a library by the one name written into it.
const NAMES: [&str; 11] = [
    "libcuda.so.1",
    "libnvrtc.so.13",
    "libnvrtc-builtins.so.13.0",
    "libcublasLt.so.13",
    "libcublas.so.13",
    "libcudnn.so.9",
    "libcudnn_graph.so.9",
    "libcudnn_ops.so.9",
    "libcudnn_cnn.so.9",
    "libcudnn_adv.so.9",
    "libnccl.so.2",
];

/// The C++ compiler: `$CXX`, else `c++`.
pub fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "c++".into())
}

/// A folder beside the programs of this build in which all libraries are, for `CAFFE_CUDA_LIBS` or
/// `LD_LIBRARY_PATH`. Made by the first who asks.
///
/// # Errors
/// What is missing: a C++ compiler, or the library (where a test runs that was built elsewhere).
pub fn install() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|why| why.to_string())?;
    let built = program.ancestors().skip(1).map(|folder| folder.join(LIBRARY));
    let built = built.take(2).find(|file| file.exists());
    let Some(built) = built.or_else(|| Some(program.parent()?.join("deps").join(LIBRARY))) else {
        return Err(format!("no {LIBRARY} beside {}", program.display()));
    };
    let built = built.canonicalize().map_err(|why| format!("{}: {why}", built.display()))?;
    let folder = built.with_file_name("simulated-cuda");
    let wrong = |why: std::io::Error| format!("{}: {why}", folder.display());
    fs::create_dir_all(folder.join("kernels")).map_err(wrong)?;
    link(&folder, &built, LIBRARY).map_err(wrong)?;
    for name in NAMES.iter().filter(|name| !folder.join(name).exists()) {
        stub(&folder, name)?;
    }
    for name in NAMES.iter().filter(|name| !name.contains(['_', '-'])) {
        // A toolkit's packages have names without numbers, which come first.
        let short = name.split(".so").next().unwrap_or(name);
        link(&folder, Path::new(name), &format!("{short}.so")).map_err(wrong)?;
    }
    Ok(folder)
}

/// Makes a link, unless it is there.
fn link(folder: &Path, to: &Path, name: &str) -> std::io::Result<()> {
    let place = folder.join(name);
    if fs::read_link(&place).is_ok_and(|known| known == to) {
        return Ok(());
    }
    let own = folder.join(format!("{name}-{}", std::process::id()));
    std::os::unix::fs::symlink(to, &own)?;
    fs::rename(&own, &place)
}

/// A library of this name that has nothing of its own and needs the one that has all.
fn stub(folder: &Path, name: &str) -> Result<(), String> {
    let made = folder.join(format!("{name}-{}", std::process::id()));
    // The old kind of search path comes before LD_LIBRARY_PATH, in which cargo has the folder of the library
    // itself: opened from there, nothing else would be beside it.
    let output = Command::new(compiler())
        .args(["-shared", "-fPIC", "-nostdlib", "-Wl,--no-as-needed"])
        .args(["-Wl,--disable-new-dtags", "-Wl,-rpath,$ORIGIN"])
        .arg(format!("-Wl,-soname,{name}"))
        .arg(format!("-L{}", folder.display()))
        .arg(format!("-l:{LIBRARY}"))
        .arg("-o")
        .arg(&made)
        .output()
        .map_err(|why| format!("{} does not run: {why}; install g++ or set CXX", compiler()))?;
    if !output.status.success() {
        return Err(format!("{name}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    fs::rename(&made, folder.join(name)).map_err(|why| format!("{name}: {why}"))
}

/// A folder beside this library, or one for temporary files where it cannot be had.
pub fn beside(name: &str) -> PathBuf {
    // SAFETY: a structure of pointers, for which zero is a value.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    let here = beside as *const c_void;
    // SAFETY: asks about a function of this library; the answer is written to a valid place.
    let found = unsafe { libc::dladdr(here, &mut info) } != 0 && !info.dli_fname.is_null();
    let folder = found.then(|| {
        // SAFETY: a text of the loader's that lives as long as this library.
        let file = unsafe { CStr::from_ptr(info.dli_fname) }.to_string_lossy().into_owned();
        Some(Path::new(&file).parent()?.join(name))
    });
    match folder.flatten() {
        Some(folder) if folder.is_dir() => folder,
        _ => std::env::temp_dir().join(format!("simulated-cuda-{name}")),
    }
}
