//! cuBLASLt's entries: handles here; descriptions and products in the modules.

mod descriptions;
mod products;

use std::ffi::{c_char, c_int};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use cudarc::cublaslt::sys::cublasStatus_t as Status;

use crate::driver::property;
use crate::matmul::Matrix;
use crate::places::{Null, put};
use crate::world::{self, Table, World};

const VERSION: [c_int; 3] = [13, 0, 0];
struct Fault(Status, String);

impl From<Null> for Fault {
    fn from(_: Null) -> Fault {
        Fault(Status::CUBLAS_STATUS_INVALID_VALUE, "a pointer is null".into())
    }
}

impl From<world::Fault> for Fault {
    fn from(fault: world::Fault) -> Fault {
        Fault(Status::CUBLAS_STATUS_EXECUTION_FAILED, fault.why)
    }
}

fn invalid(why: impl Into<String>) -> Fault {
    Fault(Status::CUBLAS_STATUS_INVALID_VALUE, why.into())
}

fn unsupported(why: impl Into<String>) -> Fault {
    Fault(Status::CUBLAS_STATUS_NOT_SUPPORTED, why.into())
}

/// Bytes of attributes, by number, in the order in which they were set.
type Attributes = Vec<(c_int, Vec<u8>)>;

/// Descriptions: all attributes that were set, and what they were made with.
struct Library {
    handles: Table<usize>,
    layouts: Table<(Matrix, Attributes)>,
    products: Table<([c_int; 2], Attributes)>,
    preferences: Table<Attributes>,
}

static LIBRARY: LazyLock<Mutex<Library>> = LazyLock::new(|| {
    Mutex::new(Library {
        handles: Table::new("cuBLASLt handle"),
        layouts: Table::new("matrix layout"),
        products: Table::new("matmul description"),
        preferences: Table::new("matmul preference"),
    })
});

/// The driver's lock is always taken first.
fn library() -> MutexGuard<'static, Library> {
    LIBRARY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is left of a device's; descriptions belong to none, and are left when no handle is.
pub fn left(device: usize) -> Vec<(&'static str, usize)> {
    let mut library = library();
    let handles = library.handles.retire(|of| *of == device);
    let mut left = vec![("cuBLASLt handles", handles)];
    if library.handles.len() == 0 {
        let library = &library;
        left.push(("matrix layouts", library.layouts.len()));
        left.push(("matmul descriptions", library.products.len()));
        left.push(("matmul preferences", library.preferences.len()));
    }
    left
}

fn answer(call: &str, body: impl FnOnce(&mut World, &mut Library) -> Result<(), Fault>) -> Status {
    let mut world = world::lock();
    let done = body(&mut world, &mut library());
    match done {
        Ok(()) => Status::CUBLAS_STATUS_SUCCESS,
        Err(Fault(code, why)) => {
            world.report(call, &why, true);
            code
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtCreate(handle: *mut u64) -> Status {
    answer("cublasLtCreate", |world, library| {
        let device = world.current()?;
        Ok(put(handle, library.handles.add(device))?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtDestroy(handle: u64) -> Status {
    answer("cublasLtDestroy", |_, library| {
        library.handles.remove(handle).map(drop).map_err(invalid)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetProperty(which: c_int, value: *mut c_int) -> Status {
    match property(which, value, VERSION) {
        true => Status::CUBLAS_STATUS_SUCCESS,
        false => Status::CUBLAS_STATUS_INVALID_VALUE,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cublasGetProperty(which: c_int, value: *mut c_int) -> Status {
    cublasLtGetProperty(which, value)
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetVersion() -> usize {
    130_000
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetStatusString(_code: c_int) -> *const c_char {
    c"a status of the simulated cuBLASLt".as_ptr()
}
