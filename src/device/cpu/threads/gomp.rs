//! libgomp's team, entered through the function compilers call for `#pragma omp parallel`.
//!
//! The library is opened at run time and never closed: its threads outlive any loop. oneDNN's own
//! dependency is the same `libgomp.so.1`, so both see the same team.

use std::any::Any;
use std::ffi::{c_int, c_uint, c_void};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::OnceLock;

use parking_lot::Mutex;

type ParallelFn = unsafe extern "C" fn(
    body: extern "C" fn(*mut c_void),
    data: *mut c_void,
    num_threads: c_uint,
    flags: c_uint,
);
type IntFn = unsafe extern "C" fn() -> c_int;

/// The functions of libgomp that a loop needs.
pub(super) struct Gomp {
    parallel: ParallelFn,
    thread_num: IntFn,
    num_threads: IntFn,
}

impl fmt::Debug for Gomp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("libgomp")
    }
}

/// What one parallel region shares between its threads.
struct Region<'a> {
    gomp: &'a Gomp,
    body: &'a (dyn Fn(usize, usize) + Sync),
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Gomp {
    /// libgomp, opened on the first call; `None` where it is not installed.
    pub(super) fn get() -> Option<&'static Self> {
        static GOMP: OnceLock<Option<Gomp>> = OnceLock::new();
        GOMP.get_or_init(Self::open).as_ref()
    }

    fn open() -> Option<Self> {
        // SAFETY: libgomp's initialisers only read the environment. The types are those of gcc's
        // documented ABI (libgomp_g.h, omp.h), unchanged since OpenMP 4.0 (gcc 4.9).
        unsafe {
            let library = libloading::Library::new("libgomp.so.1").ok()?;
            let found = Self {
                parallel: *library.get::<ParallelFn>(b"GOMP_parallel\0").ok()?,
                thread_num: *library.get::<IntFn>(b"omp_get_thread_num\0").ok()?,
                num_threads: *library.get::<IntFn>(b"omp_get_num_threads\0").ok()?,
            };
            std::mem::forget(library);
            Some(found)
        }
    }

    /// Runs `body(member, of)` on a team of up to `count` threads, the caller among them, and
    /// returns when all have ended. libgomp may give fewer threads than asked for; `of` says how
    /// many there are. Unwinding must not cross the C frames: a panic is kept and raised here.
    pub(super) fn run(&self, count: usize, body: &(dyn Fn(usize, usize) + Sync)) {
        let mut region = Region { gomp: self, body, panic: Mutex::new(None) };
        let threads = c_uint::try_from(count).unwrap_or(c_uint::MAX);
        // SAFETY: `enter` gets back exactly this pointer, and GOMP_parallel returns only after
        // every thread has left `enter`, so `region` outlives all uses.
        unsafe { (self.parallel)(enter, (&raw const region).cast_mut().cast(), threads, 0) };
        if let Some(panic) = region.panic.get_mut().take() {
            resume_unwind(panic);
        }
    }
}

extern "C" fn enter(data: *mut c_void) {
    // SAFETY: `data` is the `Region` of the `run` that is on the caller's stack until all threads
    // have returned from here; it is shared, never written except through its mutex.
    let region = unsafe { &*data.cast_const().cast::<Region<'_>>() };
    // SAFETY: both functions take nothing and may be called from any thread.
    let (member, of) = unsafe { ((region.gomp.thread_num)(), (region.gomp.num_threads)()) };
    let member = usize::try_from(member).unwrap_or(0);
    let of = usize::try_from(of).unwrap_or(1);
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (region.body)(member, of))) {
        region.panic.lock().get_or_insert(panic);
    }
}
