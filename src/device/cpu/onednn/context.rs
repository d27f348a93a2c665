//! What all primitives of one replica share.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::ptr;
use std::rc::Rc;

use super::error::{Result, check};
use super::ffi;
use super::library::Library;
use crate::device::cpu::aligned::AlignedBuf;
use crate::device::cpu::threads::Threads;

/// oneDNN's engine and stream for one replica, with its threads and its scratch memory.
///
/// Cheap to clone (a counted pointer) and bound to the thread that made it. Primitives keep the
/// number of threads they were made for, so one replica should have one context.
#[derive(Clone)]
pub struct Context {
    shared: Rc<Shared>,
}

struct Shared {
    library: &'static Library,
    engine: ffi::dnnl_engine_t,
    stream: ffi::dnnl_stream_t,
    threads: Threads,
    scratchpad: RefCell<AlignedBuf>,
    staging: RefCell<AlignedBuf>,
}

impl Context {
    /// A context for a replica with these threads.
    ///
    /// # Errors
    /// Where the library is missing or refuses to make an engine.
    pub fn new(threads: Threads) -> Result<Self> {
        let library = Library::open()?;
        let (api, what) = (&library.api, || "the CPU engine".to_owned());
        let mut shared = Shared {
            library,
            engine: ptr::null_mut(),
            stream: ptr::null_mut(),
            threads,
            scratchpad: RefCell::default(),
            staging: RefCell::default(),
        };
        // SAFETY: writes the handle of engine 0, which every CPU build has.
        let status = unsafe { api.dnnl_engine_create(&raw mut shared.engine, ffi::dnnl_cpu, 0) };
        check(status, "dnnl_engine_create", what)?;
        let flags = ffi::dnnl_stream_default_flags;
        // SAFETY: the engine was made above and outlives the stream (see Drop).
        let status =
            unsafe { api.dnnl_stream_create(&raw mut shared.stream, shared.engine, flags) };
        check(status, "dnnl_stream_create", what)?;
        Ok(Self { shared: Rc::new(shared) })
    }

    /// The replica's threads.
    pub fn threads(&self) -> Threads {
        self.shared.threads
    }

    /// The library behind it.
    pub fn library(&self) -> &'static Library {
        self.shared.library
    }

    /// Bytes of scratch memory that the primitives made so far need.
    pub fn scratch_bytes(&self) -> usize {
        4 * (self.shared.scratchpad.borrow().len() + self.shared.staging.borrow().len())
    }

    pub(super) fn api(&self) -> &'static ffi::Dnnl {
        &self.shared.library.api
    }

    pub(super) fn engine(&self) -> ffi::dnnl_engine_t {
        self.shared.engine
    }

    pub(super) fn stream(&self) -> ffi::dnnl_stream_t {
        self.shared.stream
    }

    /// Makes oneDNN use this replica's number of threads for the calling thread's next call.
    pub(super) fn enter(&self) {
        self.shared.library.set_threads(self.shared.threads.count());
    }

    /// The buffer primitives use while they run; nothing in it survives a call.
    pub(super) fn scratchpad(&self) -> RefMut<'_, AlignedBuf> {
        self.shared.scratchpad.borrow_mut()
    }

    /// A second such buffer, for results on their way to their plain form.
    pub(super) fn staging(&self) -> RefMut<'_, AlignedBuf> {
        self.shared.staging.borrow_mut()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: primitives and memories hold a clone of the context, so they are gone; null
        // handles (a failed `new`) are refused by both functions without harm.
        unsafe {
            self.library.api.dnnl_stream_destroy(self.stream);
            self.library.api.dnnl_engine_destroy(self.engine);
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {} threads", self.shared.library, self.shared.threads.count())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;

    #[test]
    fn a_context_knows_its_threads() {
        let Some(cx) = testing::context(2) else { return };
        assert_eq!(cx.threads().count(), 2);
        assert!(format!("{cx:?}").starts_with("oneDNN 2."));
        assert_eq!(cx.clone().scratch_bytes(), 0);
    }
}
