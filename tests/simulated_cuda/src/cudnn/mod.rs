//! cuDNN's entries: handles here; descriptions, the choice of an algorithm and convolutions in the modules.

mod algorithms;
mod descriptions;
mod runs;

use std::ffi::{c_char, c_int};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use cudarc::cudnn::sys::cudnnStatus_t as Status;

use crate::convolution::{Tensor, Windows};
use crate::driver::property;
use crate::places::{Null, put};
use crate::stream::null;
use crate::world::{self, Table, World, setting};

/// As cuDNN counts.
fn version() -> usize {
    setting("SIMULATED_CUDNN_VERSION", 91000)
}

struct Fault(Status, String, bool);

impl From<Null> for Fault {
    fn from(_: Null) -> Fault {
        bad("a pointer is null")
    }
}

impl From<world::Fault> for Fault {
    fn from(fault: world::Fault) -> Fault {
        Fault(Status::CUDNN_STATUS_EXECUTION_FAILED, fault.why, fault.violation)
    }
}

fn bad(why: impl Into<String>) -> Fault {
    Fault(Status::CUDNN_STATUS_BAD_PARAM, why.into(), true)
}

fn unsupported(why: impl Into<String>) -> Fault {
    Fault(Status::CUDNN_STATUS_NOT_SUPPORTED, why.into(), true)
}

/// A device and a stream.
struct Handle {
    device: usize,
    stream: u64,
    /// How many were made before it, and how often it has tried algorithms.
    ordinal: usize,
    tries: usize,
}

/// Descriptions; one that was made and not set is `None`.
struct Library {
    /// Handles made so far.
    made: usize,
    handles: Table<Handle>,
    tensors: Table<Option<Tensor>>,
    filters: Table<Option<Tensor>>,
    windows: Table<Option<Windows>>,
}

static LIBRARY: LazyLock<Mutex<Library>> = LazyLock::new(|| {
    Mutex::new(Library {
        made: 0,
        handles: Table::new("cuDNN handle"),
        tensors: Table::new("tensor description"),
        filters: Table::new("filter description"),
        windows: Table::new("convolution description"),
    })
});

/// The driver's lock is always taken first.
fn library() -> MutexGuard<'static, Library> {
    LIBRARY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is left of a device's; descriptions belong to none, and are left when no handle is.
pub fn left(device: usize) -> Vec<(&'static str, usize)> {
    let mut library = library();
    let mut left = vec![("cuDNN handles", library.handles.retire(|of| of.device == device))];
    if library.handles.len() == 0 {
        let library = &library;
        left.push(("tensor descriptions", library.tensors.len()));
        left.push(("filter descriptions", library.filters.len()));
        left.push(("convolution descriptions", library.windows.len()));
    }
    left
}

fn answer(call: &str, body: impl FnOnce(&mut World, &mut Library) -> Result<(), Fault>) -> Status {
    let mut world = world::lock();
    let done = body(&mut world, &mut library());
    match done {
        Ok(()) => Status::CUDNN_STATUS_SUCCESS,
        Err(Fault(code, why, violation)) => {
            world.report(call, &why, violation);
            code
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn cudnnCreate(handle: *mut u64) -> Status {
    answer("cudnnCreate", |world, library| {
        let device = world.current()?;
        let ordinal = library.made;
        library.made += 1;
        Ok(put(handle, library.handles.add(Handle { device, stream: 0, ordinal, tries: 0 }))?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cudnnDestroy(handle: u64) -> Status {
    answer("cudnnDestroy", |_, library| library.handles.remove(handle).map(drop).map_err(bad))
}

#[unsafe(no_mangle)]
extern "C" fn cudnnSetStream(handle: u64, stream: u64) -> Status {
    answer("cudnnSetStream", |world, library| {
        let found = library.handles.get_mut(handle).map_err(bad)?;
        if !null(stream) && world.stream(stream)?.device != found.device {
            return Err(bad("a stream of another device"));
        }
        found.stream = stream;
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cudnnGetStream(handle: u64, stream: *mut u64) -> Status {
    answer("cudnnGetStream", |_, library| {
        Ok(put(stream, library.handles.get(handle).map_err(bad)?.stream)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cudnnGetVersion() -> usize {
    version()
}

#[unsafe(no_mangle)]
extern "C" fn cudnnGetProperty(which: c_int, value: *mut c_int) -> Status {
    let version = version() as c_int;
    match property(which, value, [version / 10000, version / 100 % 100, version % 100]) {
        true => Status::CUDNN_STATUS_SUCCESS,
        false => Status::CUDNN_STATUS_BAD_PARAM,
    }
}

#[unsafe(no_mangle)]
extern "C" fn cudnnGetErrorString(_code: c_int) -> *const c_char {
    c"a status of the simulated cuDNN".as_ptr()
}

/// cuDNN's convolutions take packed arrays, all of them plain or all with their channels last; where both are
/// the same memory the description's strides say which.
fn one_order(tensors: [&Tensor; 3]) -> Result<(), Fault> {
    let plain =
        tensors.iter().all(|of| of.strides == Tensor::packed(of.kind, of.sizes.clone()).strides);
    let last = tensors
        .iter()
        .all(|of| of.strides == Tensor::channels_last(of.kind, of.sizes.clone()).strides);
    match plain || last {
        true => Ok(()),
        false => {
            let strides = tensors.map(|of| &of.strides);
            Err(unsupported(format!("arrays that are not all NCHW or all NHWC: {strides:?}")))
        }
    }
}

fn made<T>(found: Result<&Option<T>, String>) -> Result<&T, Fault> {
    found.map_err(bad)?.as_ref().ok_or_else(|| bad("a description that was never set"))
}

impl Library {
    /// Windows and x, w, y of descriptions that fit.
    fn fitting(&self, [x, w, y]: [u64; 3], windows: u64) -> Result<(Windows, [Tensor; 3]), Fault> {
        let windows = made(self.windows.get(windows))?;
        let (x, w) = (made(self.tensors.get(x))?, made(self.filters.get(w))?);
        let y = made(self.tensors.get(y))?;
        let wanted = windows.output(x, w).map_err(bad)?;
        if wanted != y.sizes {
            return Err(bad(format!("y is {:?}, the windows give {wanted:?}", y.sizes)));
        }
        if x.kind != w.kind || x.kind != y.kind {
            return Err(unsupported("several data types"));
        }
        one_order([x, w, y])?;
        Ok((windows.clone(), [x.clone(), w.clone(), y.clone()]))
    }

    fn here(&self, world: &World, handle: u64) -> Result<u64, Fault> {
        let found = self.handles.get(handle).map_err(bad)?;
        match world.current()? == found.device {
            true => Ok(found.stream),
            false => Err(bad("the handle was made for another device")),
        }
    }
}
