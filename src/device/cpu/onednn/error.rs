//! What can go wrong between us and oneDNN.

use super::ffi;

/// An error of the oneDNN bindings.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The library could not be opened.
    #[error(
        "oneDNN is not usable: {reason}; install libdnnl2 (Debian), or run on the plain CPU path"
    )]
    Missing {
        /// What the loader said.
        reason: String,
    },
    /// A library was found whose calls are not the ones we know.
    #[error("found oneDNN {found}, but only 2.x is supported (3.x changed its descriptors)")]
    Version {
        /// The version found, "major.minor.patch".
        found: String,
    },
    /// A call failed.
    #[error("oneDNN: {call} of {what} failed: {status}")]
    Call {
        /// The C function.
        call: &'static str,
        /// The primitive, with its sizes.
        what: String,
        /// The status, in words.
        status: &'static str,
    },
    /// oneDNN has no kernel for it, or one whose semantics are not Caffe's: use a plain loop.
    #[error("oneDNN cannot do {what}: {reason}")]
    Unsupported {
        /// The primitive, with its sizes.
        what: String,
        /// Why.
        reason: &'static str,
    },
    /// A slice has the wrong number of elements.
    #[error("{what}: the {argument} buffer has {found} elements, its layout needs {wanted}")]
    Length {
        /// The primitive, with its sizes.
        what: String,
        /// Which argument.
        argument: &'static str,
        /// Elements wanted.
        wanted: usize,
        /// Elements found.
        found: usize,
    },
}

/// Result of the bindings.
pub(super) type Result<T> = std::result::Result<T, Error>;

/// Turns a status into a result; `what` is asked for only in the error case.
pub(super) fn check(
    status: ffi::dnnl_status_t,
    call: &'static str,
    what: impl FnOnce() -> String,
) -> Result<()> {
    let status = match status {
        ffi::dnnl_success => return Ok(()),
        ffi::dnnl_out_of_memory => "out of memory",
        ffi::dnnl_invalid_arguments => "invalid arguments",
        ffi::dnnl_unimplemented => "no implementation for these sizes and layouts",
        ffi::dnnl_runtime_error => "runtime error",
        _ => "unknown status",
    };
    Err(Error::Call { call, what: what(), status })
}

/// Checks the length of an argument.
pub(super) fn check_len(
    argument: &'static str,
    found: usize,
    wanted: usize,
    what: impl FnOnce() -> String,
) -> Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(Error::Length { what: what(), argument, wanted, found })
}
