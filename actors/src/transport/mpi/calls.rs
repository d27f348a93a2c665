//! The MPI calls we make, each with its return code checked.
//!
//! The safe layer of the `mpi` crate ignores return codes, panics when an unfinished request is
//! dropped, and ties requests to stack frames; a pump that keeps requests for a while needs the
//! raw calls. Nonblocking calls here are `unsafe`: the caller keeps the buffer alive, in place
//! and untouched until the request has tested true.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr::null_mut;

use mpi::ffi;

/// The text of an MPI error.
fn check(code: c_int, call: &str) -> Result<(), String> {
    if code == ffi::MPI_SUCCESS as c_int {
        return Ok(());
    }
    let mut text = [0u8; 1024];
    let mut len = 0;
    // SAFETY: the buffer is longer than any MPI's MPI_MAX_ERROR_STRING (256 to 1024).
    let known = unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast(), &mut len) };
    let len = if known == 0 { (len.max(0) as usize).min(text.len()) } else { 0 };
    Err(format!("{call} failed with code {code}: {}", String::from_utf8_lossy(&text[..len])))
}

/// Initialises MPI so that this thread may call it.
pub(super) fn init() -> Result<(), String> {
    let (mut done, mut over) = (0, 0);
    // SAFETY: both may be called at any time, from any thread, before and after everything.
    unsafe {
        check(ffi::MPI_Initialized(&mut done), "MPI_Initialized")?;
        check(ffi::MPI_Finalized(&mut over), "MPI_Finalized")?;
    }
    if done != 0 || over != 0 {
        return Err("MPI has been used by this process already; it can be joined once".into());
    }
    let mut provided = 0;
    // SAFETY: null arguments are allowed since MPI 2; nobody else initialises (checked above).
    let (code, wanted) = unsafe {
        let wanted = ffi::RSMPI_THREAD_FUNNELED;
        (ffi::MPI_Init_thread(null_mut(), null_mut(), wanted, &mut provided), wanted)
    };
    check(code, "MPI_Init_thread")?;
    if provided < wanted {
        return Err(
            "this MPI library supports no threads beside its own (MPI_THREAD_SINGLE)".into()
        );
    }
    Ok(())
}

/// What threads may do, in MPI's word; `None` when MPI is not initialised or has left.
pub(super) fn thread_level() -> Option<String> {
    let (mut done, mut over, mut level) = (0, 0, 0);
    // SAFETY: the first two may be called at any time; the third only in between.
    unsafe {
        check(ffi::MPI_Initialized(&mut done), "MPI_Initialized").ok()?;
        check(ffi::MPI_Finalized(&mut over), "MPI_Finalized").ok()?;
        if done == 0 || over != 0 {
            return None;
        }
        check(ffi::MPI_Query_thread(&mut level), "MPI_Query_thread").ok()?;
        let known = [
            (ffi::RSMPI_THREAD_SINGLE, "single"),
            (ffi::RSMPI_THREAD_FUNNELED, "funneled"),
            (ffi::RSMPI_THREAD_SERIALIZED, "serialized"),
            (ffi::RSMPI_THREAD_MULTIPLE, "multiple"),
        ];
        known.iter().find(|(of, _)| *of == level).map(|(_, name)| (*name).to_owned())
    }
}

/// Leaves MPI. All ranks must do so.
pub(super) fn finalize() -> Result<(), String> {
    // SAFETY: called once, by the thread that initialised, with all requests done or cancelled.
    check(unsafe { ffi::MPI_Finalize() }, "MPI_Finalize")
}

/// Ends all ranks. Works from any thread (measured with Open MPI and MPICH).
pub(super) fn abort(status: i32) {
    // SAFETY: MPI is initialised (the callers know); this ends the process.
    unsafe { ffi::MPI_Abort(ffi::RSMPI_COMM_WORLD, status) };
}

/// First line of the library's version.
pub(super) fn library() -> String {
    let mut text = vec![0u8; 8192];
    let mut len = 0;
    // SAFETY: the buffer is as long as the longest MPI_MAX_LIBRARY_VERSION_STRING (MPICH, 8192).
    unsafe { ffi::MPI_Get_library_version(text.as_mut_ptr().cast(), &mut len) };
    text.truncate(len.max(0) as usize);
    let text = String::from_utf8_lossy(&text).into_owned();
    text.split([',', '\n']).next().unwrap_or("MPI").trim().to_owned()
}

/// A word that MPI has a type for.
pub(super) trait Word {
    fn datatype() -> ffi::MPI_Datatype;
}

impl Word for u16 {
    fn datatype() -> ffi::MPI_Datatype {
        // SAFETY: an immutable constant of the library, valid once MPI is initialised.
        unsafe { ffi::RSMPI_UINT16_T }
    }
}

impl Word for u64 {
    fn datatype() -> ffi::MPI_Datatype {
        // SAFETY: as for u16.
        unsafe { ffi::RSMPI_UINT64_T }
    }
}

/// A communicator.
#[derive(Clone, Copy)]
pub(super) struct Comm {
    raw: ffi::MPI_Comm,
    /// MPI_IN_PLACE, a cast macro that no binding carries.
    in_place: *const c_void,
}

impl Comm {
    /// All ranks.
    pub(super) fn world() -> Result<Comm, String> {
        // Open MPI's mpi.h says (void *) 1; MPICH's and its descendants' (void *) -1.
        let address: isize = if library().contains("Open MPI") { 1 } else { -1 };
        // SAFETY: an immutable constant of the library, valid once MPI is initialised.
        let raw = unsafe { ffi::RSMPI_COMM_WORLD };
        let world = Comm { raw, in_place: address as *const c_void };
        world.return_errors()?;
        Ok(world)
    }

    /// Without this an error ends the process inside the library, without a word of ours.
    fn return_errors(&self) -> Result<(), String> {
        // SAFETY: a valid communicator and a constant handler.
        let code = unsafe { ffi::MPI_Comm_set_errhandler(self.raw, ffi::RSMPI_ERRORS_RETURN) };
        check(code, "MPI_Comm_set_errhandler")
    }

    /// A copy whose traffic meets no other's. Collective.
    pub(super) fn duplicate(&self) -> Result<Comm, String> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: writes the handle on success, which is checked before it is read.
        check(unsafe { ffi::MPI_Comm_dup(self.raw, raw.as_mut_ptr()) }, "MPI_Comm_dup")?;
        // SAFETY: written, as the call succeeded.
        let copy = Comm { raw: unsafe { raw.assume_init() }, in_place: self.in_place };
        copy.return_errors()?;
        Ok(copy)
    }

    /// This process's rank, and the number of ranks.
    pub(super) fn place(&self) -> Result<(usize, usize), String> {
        let (mut rank, mut size) = (0, 0);
        // SAFETY: a valid communicator; plain out parameters.
        unsafe {
            check(ffi::MPI_Comm_rank(self.raw, &mut rank), "MPI_Comm_rank")?;
            check(ffi::MPI_Comm_size(self.raw, &mut size), "MPI_Comm_size")?;
        }
        Ok((rank as usize, size as usize))
    }

    /// Starts a nonblocking call that writes its request.
    fn start(
        call: &str,
        body: impl FnOnce(*mut ffi::MPI_Request) -> c_int,
    ) -> Result<Request, String> {
        let mut raw = MaybeUninit::uninit();
        check(body(raw.as_mut_ptr()), call)?;
        // SAFETY: every nonblocking call writes its request when it succeeds.
        Ok(Request(unsafe { raw.assume_init() }))
    }

    /// Sums `len` floats in place over all ranks.
    ///
    /// # Safety
    /// `data` stays valid and untouched until the request is done.
    pub(super) unsafe fn sum(&self, data: *mut f32, len: usize) -> Result<Request, String> {
        let len = count(len)?;
        // SAFETY: the caller's promise; type and operation are the library's constants.
        Self::start("MPI_Iallreduce", |request| unsafe {
            let (float, sum) = (ffi::RSMPI_FLOAT, ffi::RSMPI_SUM);
            ffi::MPI_Iallreduce(self.in_place, data.cast(), len, float, sum, self.raw, request)
        })
    }

    /// Gives rank 0's `len` floats to all.
    ///
    /// # Safety
    /// As [`sum`](Comm::sum).
    pub(super) unsafe fn broadcast(&self, data: *mut f32, len: usize) -> Result<Request, String> {
        let len = count(len)?;
        // SAFETY: the caller's promise.
        Self::start("MPI_Ibcast", |request| unsafe {
            ffi::MPI_Ibcast(data.cast(), len, ffi::RSMPI_FLOAT, 0, self.raw, request)
        })
    }

    /// Gives `each` words to every rank and takes as many from it: block p of `own` goes to rank p,
    /// block p of `all` comes from it.
    ///
    /// # Safety
    /// As [`sum`](Comm::sum), for both; both have room for a block of every rank.
    pub(super) unsafe fn exchange<W: Word>(
        &self,
        own: *const W,
        all: *mut W,
        each: usize,
    ) -> Result<Request, String> {
        let (len, word) = (count(each)?, W::datatype());
        // SAFETY: the caller's promise.
        Self::start("MPI_Ialltoall", |request| unsafe {
            ffi::MPI_Ialltoall(own.cast(), len, word, all.cast(), len, word, self.raw, request)
        })
    }

    /// Gathers `each` words of each rank into `all`, in rank order.
    ///
    /// # Safety
    /// As [`sum`](Comm::sum), for both; `all` has room for those of every rank.
    pub(super) unsafe fn gather<W: Word>(
        &self,
        own: *const W,
        all: *mut W,
        each: usize,
    ) -> Result<Request, String> {
        let (len, word) = (count(each)?, W::datatype());
        // SAFETY: the caller's promise.
        Self::start("MPI_Iallgather", |request| unsafe {
            ffi::MPI_Iallgather(own.cast(), len, word, all.cast(), len, word, self.raw, request)
        })
    }

    /// Sends bytes to a rank.
    ///
    /// # Safety
    /// As [`sum`](Comm::sum).
    pub(super) unsafe fn send(
        &self,
        data: *const u8,
        len: usize,
        to: usize,
    ) -> Result<Request, String> {
        let (len, to) = (count(len)?, count(to)?);
        // SAFETY: the caller's promise.
        Self::start("MPI_Isend", |request| unsafe {
            ffi::MPI_Isend(data.cast(), len, ffi::RSMPI_UINT8_T, to, 0, self.raw, request)
        })
    }

    /// Receives bytes from a rank.
    ///
    /// # Safety
    /// As [`sum`](Comm::sum).
    pub(super) unsafe fn receive(
        &self,
        data: *mut u8,
        len: usize,
        from: usize,
    ) -> Result<Request, String> {
        let (len, from) = (count(len)?, count(from)?);
        // SAFETY: the caller's promise.
        Self::start("MPI_Irecv", |request| unsafe {
            ffi::MPI_Irecv(data.cast(), len, ffi::RSMPI_UINT8_T, from, 0, self.raw, request)
        })
    }

    /// Done when all ranks have called it.
    pub(super) fn barrier(&self) -> Result<Request, String> {
        // SAFETY: no buffers.
        Self::start("MPI_Ibarrier", |request| unsafe { ffi::MPI_Ibarrier(self.raw, request) })
    }
}

fn count(len: usize) -> Result<c_int, String> {
    c_int::try_from(len).map_err(|_| format!("{len} elements are too many for one MPI call"))
}

/// A request. Dropping one unfinished leaks it, which is the safe direction.
pub(super) struct Request(ffi::MPI_Request);

impl Request {
    /// Moves things on; true when done.
    pub(super) fn test(&mut self) -> Result<bool, String> {
        let mut done = 0;
        // SAFETY: a request that some call of ours wrote; a done one is the null request.
        let code = unsafe { ffi::MPI_Test(&mut self.0, &mut done, ffi::RSMPI_STATUS_IGNORE) };
        check(code, "MPI_Test")?;
        Ok(done != 0)
    }

    /// Gives up a receive that no message will match any more.
    pub(super) fn cancel(mut self) -> Result<(), String> {
        // SAFETY: an active receive of ours; after a cancel the wait is local and short.
        unsafe {
            check(ffi::MPI_Cancel(&mut self.0), "MPI_Cancel")?;
            check(ffi::MPI_Wait(&mut self.0, ffi::RSMPI_STATUS_IGNORE), "MPI_Wait")
        }
    }
}
