//! Opening a library so that a later `dlopen` of its bare name finds it, and asking its version.

use std::ffi::{CStr, c_int, c_void};
use std::fs;
use std::path::{Path, PathBuf};

use libloading::os::unix::{Library as Handle, RTLD_GLOBAL, RTLD_LAZY};

use super::{Found, Library, Places, Version};

/// cuDNN's libraries, each after those it needs. Without the first four nothing works; the rest holds
/// kernels, and which there are depends on the version.
const DNN_PARTS: [&str; 9] = [
    "graph",
    "ops",
    "cnn",
    "adv",
    "heuristic",
    "engines_precompiled",
    "engines_runtime_compiled",
    "engines_tensor_ir",
    "ext",
];
const DNN_NEEDED: usize = 4;

/// Opens `library` from the first of `places` that has it.
///
/// # Errors
/// The files that were there and could not be used, with the reason of each; none where none was there.
pub(super) fn first(
    library: Library,
    places: &Places,
    driver: Option<i32>,
) -> Result<Found, Vec<String>> {
    let mut refused = Vec::new();
    for folders in [&places.named, &places.others] {
        let file = preload(library, folders, driver, &mut refused);
        // What cudarc will get is what counts, wherever it lies.
        match (by_name(library), file) {
            (Some(handle), _) => {
                return examined(library, handle).map_err(|why| {
                    refused.push(why);
                    refused
                });
            }
            (None, Some(file)) => {
                let file = file.display();
                refused.push(format!("{file}: the name written inside (SONAME) is another"));
            }
            (None, None) => {}
        }
    }
    Err(refused)
}

/// Opens the first file of one of the library's names that can be opened.
fn preload(
    library: Library,
    folders: &[PathBuf],
    driver: Option<i32>,
    refused: &mut Vec<String>,
) -> Option<PathBuf> {
    for name in library.sonames(driver) {
        for file in folders.iter().map(|folder| folder.join(&name)).filter(|file| file.exists()) {
            if library == Library::Nvrtc {
                builtins(&file);
            }
            match open(&file) {
                Ok(_) => return Some(file),
                Err(why) => refused.push(why),
            }
        }
    }
    None
}

/// NVRTC looks for these by bare name, and says so only when it compiles.
fn builtins(nvrtc: &Path) {
    let Some(entries) = nvrtc.parent().and_then(|folder| fs::read_dir(folder).ok()) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with("libnvrtc-builtins.so") {
            let _ = open(&entry.path());
        }
    }
}

/// The library under the first name that the loader knows; for libraries of cudarc its own list.
fn by_name(library: Library) -> Option<&'static libloading::Library> {
    let names = match library {
        Library::Nccl => library.sonames(None),
        _ => cudarc::get_lib_name_candidates(library.stem()),
    };
    names.iter().find_map(|name| open(Path::new(name)).ok())
}

/// Opens a file or a bare name, and leaves it open.
fn open(file: &Path) -> Result<&'static libloading::Library, String> {
    // SAFETY: the initialisers of NVIDIA's libraries have no demands on the caller. The handle is
    // never closed: their threads and atexit handlers would outlive it.
    match unsafe { Handle::open(Some(file), RTLD_LAZY | RTLD_GLOBAL) } {
        Ok(handle) => Ok(Box::leak(Box::new(handle.into()))),
        Err(error) => Err(error.to_string()),
    }
}

fn examined(library: Library, handle: &'static libloading::Library) -> Result<Found, String> {
    let name = question(library);
    // SAFETY: the address of a function is looked up, not called.
    let address = unsafe { handle.get::<*const c_void>(name.to_bytes_with_nul()) }
        .map_err(|error| format!("no {} of NVIDIA's: {error}", library.name()))?;
    let path = file_of(*address).unwrap_or_else(|| library.stem().into());
    let fail = |why: String| format!("{}: {why}", path.display());
    if library == Library::Cudnn {
        dnn_parts(&path).map_err(fail)?;
    }
    let version = version(library, handle).map_err(fail)?;
    // Functions are looked up one by one when they are called, and cudarc panics at one that is not
    // there: the loader's path may hold a version that is too old.
    let wanted = match library {
        Library::Driver => None,
        Library::Nvrtc | Library::CublasLt | Library::Cublas => Some((12, "12 or newer")),
        Library::Cudnn => Some((9, "9")),
        Library::Nccl => Some((2, "2")),
    };
    if let Some((oldest, wanted)) = wanted
        && version.major < oldest
    {
        return Err(fail(format!("version {version}, {wanted} is needed")));
    }
    let path = path.canonicalize().unwrap_or(path);
    Ok(Found { path, version, handle })
}

/// The file from which an address was loaded.
fn file_of(address: *const c_void) -> Option<PathBuf> {
    // SAFETY: a structure of pointers, for which zero is a value.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: any address may be asked about; the answer is written to a valid place.
    if unsafe { libc::dladdr(address, &mut info) } == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: a string of the loader's that lives as long as the library, which stays open.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    Some(PathBuf::from(name.to_string_lossy().into_owned()))
}

/// Opens cuDNN's other libraries, from beside the first if they are there: asked anything without
/// them, cuDNN ends the process.
fn dnn_parts(main: &Path) -> Result<(), String> {
    for (i, part) in DNN_PARTS.iter().enumerate() {
        let name = format!("libcudnn_{part}.so.9");
        let beside = main.with_file_name(&name);
        let opened = open(if beside.exists() { &beside } else { Path::new(&name) });
        if let (Err(why), true) = (opened, i < DNN_NEEDED) {
            return Err(format!("its part {name} cannot be opened: {why}"));
        }
    }
    Ok(())
}

/// The function that tells the version.
fn question(library: Library) -> &'static CStr {
    match library {
        Library::Driver => c"cuDriverGetVersion",
        Library::Nvrtc => c"nvrtcVersion",
        Library::CublasLt => c"cublasLtGetProperty",
        Library::Cublas => c"cublasGetProperty",
        Library::Cudnn => c"cudnnGetProperty",
        Library::Nccl => c"ncclGetVersion",
    }
}

fn version(library: Library, handle: &libloading::Library) -> Result<Version, String> {
    let function = question(library);
    let name = function.to_bytes_with_nul();
    let mut parts = [0; 3];
    let [major, minor, patch] = &mut parts;
    // SAFETY: the signatures are those of NVIDIA's headers, where every function returns an
    // enumeration whose zero is success and writes ints to valid places; none needs a device.
    let status = unsafe {
        match library {
            Library::Nvrtc => handle
                .get::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>(name)
                .map(|ask| ask(major, minor)),
            Library::Driver | Library::Nccl => {
                handle.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(name).map(|ask| ask(major))
            }
            Library::CublasLt | Library::Cublas | Library::Cudnn => handle
                .get::<unsafe extern "C" fn(c_int, *mut c_int) -> c_int>(name)
                .map(|ask| ask(0, major) | ask(1, minor) | ask(2, patch)),
        }
    };
    match status {
        Ok(0) => Ok(read(library, parts)),
        Ok(code) => Err(format!("{} fails with {code}", function.to_string_lossy())),
        Err(error) => Err(error.to_string()),
    }
}

/// Some pack all parts into one number.
fn read(library: Library, [first, minor, patch]: [c_int; 3]) -> Version {
    match library {
        Library::Driver => Version { major: first / 1000, minor: first % 1000 / 10, patch: None },
        Library::Nccl => {
            Version { major: first / 10000, minor: first / 100 % 100, patch: Some(first % 100) }
        }
        Library::Nvrtc => Version { major: first, minor, patch: None },
        _ => Version { major: first, minor, patch: Some(patch) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that is no library is met before the loader's own, is refused, and stops nothing.
    #[test]
    fn an_empty_file_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        for library in Library::ALL {
            for name in library.sonames(None) {
                fs::write(folder.path().join(name), "").unwrap();
            }
            let mut refused = Vec::new();
            let folders = [folder.path().to_owned()];
            assert_eq!(preload(library, &folders, None, &mut refused), None);
            assert_eq!(refused.len(), library.sonames(None).len(), "{refused:?}");
            for why in &refused {
                assert!(why.contains(folder.path().to_str().unwrap()), "{why}");
            }
            if let Err(missing) = library.open_in(&Places::default().with(folder.path())) {
                assert!(missing.to_string().contains(&refused[0]), "{missing}");
            }
        }
    }

    #[test]
    fn versions_are_unpacked() {
        assert_eq!(read(Library::Driver, [13020, 0, 0]).to_string(), "13.2");
        assert_eq!(read(Library::Nccl, [22703, 0, 0]).to_string(), "2.27.3");
        assert_eq!(read(Library::Nvrtc, [13, 0, 0]).to_string(), "13.0");
        assert_eq!(read(Library::Cudnn, [9, 10, 2]).to_string(), "9.10.2");
    }

    #[test]
    fn what_is_installed_says_where_it_lies() {
        for library in Library::ALL {
            match library.open() {
                Ok(found) => {
                    assert!(found.path.is_file() && found.version.major > 0, "{found:?}");
                }
                Err(missing) => println!("skipped: {missing}"),
            }
        }
    }
}
