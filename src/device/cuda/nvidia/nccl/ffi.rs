//! The few functions of NCCL that are called, taken from the library that was found: cudarc looks for
//! another file name. Names, types and numbers are those of `nccl.h`.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use crate::device::cuda::library::Library;
use crate::{Error, Result};

/// `ncclComm_t`.
pub(super) type Comm = *mut c_void;

/// `ncclResult_t`.
pub(super) type Code = c_int;
/// `ncclSuccess`.
pub(super) const SUCCESS: Code = 0;
/// `ncclInProgress`.
pub(super) const IN_PROGRESS: Code = 7;
/// `ncclFloat32`.
pub(super) const FLOAT32: c_int = 7;
/// `ncclSum`.
pub(super) const SUM: c_int = 0;

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct UniqueId(pub [c_char; 128]);

/// `ncclConfig_t` as of NCCL 2.17; later ones take it by its size and version.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
}

impl Config {
    /// Calls return at once; whoever has to wait asks.
    pub(super) fn polled() -> Config {
        // What stands for "not said".
        let unsaid = c_int::MIN;
        Config {
            size: size_of::<Config>(),
            magic: 0xcafe_beef,
            version: 21700,
            blocking: 0,
            cga_cluster_size: unsaid,
            min_ctas: unsaid,
            max_ctas: unsaid,
            net_name: std::ptr::null(),
            split_share: unsaid,
        }
    }
}

/// The functions.
#[derive(Clone, Copy)]
pub(super) struct Nccl {
    pub(super) get_unique_id: unsafe extern "C" fn(*mut UniqueId) -> Code,
    pub(super) comm_init_rank_config:
        unsafe extern "C" fn(*mut Comm, c_int, UniqueId, c_int, *mut Config) -> Code,
    pub(super) comm_get_async_error: unsafe extern "C" fn(Comm, *mut Code) -> Code,
    pub(super) comm_abort: unsafe extern "C" fn(Comm) -> Code,
    pub(super) comm_destroy: unsafe extern "C" fn(Comm) -> Code,
    pub(super) reduce: unsafe extern "C" fn(
        *const c_void,
        *mut c_void,
        usize,
        c_int,
        c_int,
        c_int,
        Comm,
        *mut c_void,
    ) -> Code,
    get_error_string: unsafe extern "C" fn(Code) -> *const c_char,
}

impl Nccl {
    /// All of them.
    ///
    /// # Errors
    /// A library that is missing, or too old to have one.
    pub(super) fn open() -> Result<Nccl> {
        let found = Library::Nccl.open().map_err(|missing| Error::Invalid(missing.to_string()))?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the type of the field is that of the function in `nccl.h`; the library stays
                // open for good.
                *unsafe { found.handle.get(concat!($name, "\0").as_bytes()) }.map_err(|error| {
                    let (version, path) = (found.version, found.path.display());
                    Error::Invalid(format!(
                        "NCCL {version} ({path}) has no {}: {error}; install 2.17 or newer",
                        $name
                    ))
                })?
            };
        }
        Ok(Nccl {
            get_unique_id: function!("ncclGetUniqueId"),
            comm_init_rank_config: function!("ncclCommInitRankConfig"),
            comm_get_async_error: function!("ncclCommGetAsyncError"),
            comm_abort: function!("ncclCommAbort"),
            comm_destroy: function!("ncclCommDestroy"),
            reduce: function!("ncclReduce"),
            get_error_string: function!("ncclGetErrorString"),
        })
    }

    /// A failed call as an error that names it.
    pub(super) fn failed(&self, what: &str, code: Code) -> Error {
        // SAFETY: any number may be asked for; the text is NCCL's own and constant.
        let text = unsafe { (self.get_error_string)(code) };
        let text = match text.is_null() {
            true => format!("error {code}"),
            // SAFETY: not null, and ends with a zero.
            false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
        };
        Error::Invalid(format!("NCCL: {what} failed: {text} (NCCL_DEBUG=WARN says more)"))
    }
}
