//! The shared library and its function table.

use std::ffi::c_int;
use std::fmt;
use std::sync::OnceLock;

use super::error::{Error, Result};
use super::ffi;

type SetThreads = unsafe extern "C" fn(c_int);

/// oneDNN 2.x, opened once per process and never closed (its threads and compiled kernels live on).
pub struct Library {
    pub(super) api: ffi::Dnnl,
    version: (i32, i32, i32),
    set_num_threads: Option<SetThreads>,
}

impl Library {
    /// Names tried, in order: Debian's runtime package has only the first.
    const NAMES: [&'static str; 2] = ["libdnnl.so.2", "libdnnl.so"];

    /// Opens the library, or says why that is impossible. Only the first call does any work.
    ///
    /// # Errors
    /// [`Error::Missing`] where no library is found or a function is absent from it,
    /// [`Error::Version`] where it is not 2.x.
    pub fn open() -> Result<&'static Self> {
        static LIBRARY: OnceLock<Result<Library>> = OnceLock::new();
        LIBRARY.get_or_init(|| Self::open_first(&Self::NAMES)).as_ref().map_err(Clone::clone)
    }

    fn open_first(names: &[&str]) -> Result<Self> {
        let mut reason = String::new();
        for name in names {
            // SAFETY: oneDNN's and libgomp's initialisers only read the environment.
            match unsafe { libloading::Library::new(name) } {
                Ok(library) => return Self::from_library(library),
                Err(error) => {
                    let separator = if reason.is_empty() { "" } else { "; " };
                    reason = format!("{reason}{separator}{error}");
                }
            }
        }
        Err(Error::Missing { reason })
    }

    fn from_library(library: libloading::Library) -> Result<Self> {
        // SAFETY: the type is omp.h's. Looked up through oneDNN's handle, so that it is the OpenMP
        // runtime oneDNN itself is linked with, whichever that is.
        let set_num_threads =
            unsafe { library.get::<SetThreads>(b"omp_set_num_threads\0").map(|f| *f).ok() };
        // SAFETY: the signatures are generated from the header of 2.6; functions of 2.x are stable,
        // and the version is checked before any other call.
        let api = unsafe { ffi::Dnnl::from_library(library) }
            .map_err(|error| Error::Missing { reason: error.to_string() })?;
        // SAFETY: returns a pointer to a static structure.
        let version = unsafe { api.dnnl_version().as_ref() }
            .map_or((0, 0, 0), |v| (v.major, v.minor, v.patch));
        if version.0 != 2 {
            let found = format!("{}.{}.{}", version.0, version.1, version.2);
            return Err(Error::Version { found });
        }
        Ok(Self { api, version, set_num_threads })
    }

    /// Version of the library: major, minor, patch.
    pub fn version(&self) -> (i32, i32, i32) {
        self.version
    }

    /// Sets how many threads oneDNN takes for what the calling thread asks of it.
    pub(super) fn set_threads(&self, count: usize) {
        if let Some(set) = self.set_num_threads {
            // SAFETY: sets a variable of the calling thread; any positive number is allowed.
            unsafe { set(c_int::try_from(count).unwrap_or(c_int::MAX)) };
        }
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, patch) = self.version;
        write!(f, "oneDNN {major}.{minor}.{patch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_an_error_that_says_what_to_install() {
        let error = Library::open_first(&["libdoes-not-exist.so.9"]).unwrap_err();
        assert!(matches!(error, Error::Missing { .. }));
        let text = error.to_string();
        assert!(text.contains("libdoes-not-exist.so.9") && text.contains("libdnnl2"), "{text}");
    }

    #[test]
    fn a_library_without_its_functions_is_refused() {
        let error = Library::open_first(&["libm.so.6"]).unwrap_err();
        assert!(matches!(error, Error::Missing { .. }), "{error}");
    }

    #[test]
    fn the_installed_library_is_2_x() {
        match Library::open() {
            Ok(library) => assert_eq!(library.version().0, 2),
            Err(error) => println!("skipped: {error}"),
        }
    }
}
