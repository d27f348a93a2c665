//! GPUs of one process that add arrays up by NCCL: [`Invitation`], made once, and a `Member` for each.
//!
//! Nothing here waits for the others without looking whether they are still there
//! (`Clique::check`): a kernel of NCCL's that waits for a device that never comes is aborted.

mod ffi;
mod peers;

use std::ffi::{c_int, c_void};
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream};

use self::ffi::{Code, Comm, Config, FLOAT32, IN_PROGRESS, Nccl, SUCCESS, SUM, UniqueId};
use super::driver;
use crate::Result;
use crate::device::cuda::backend::Address;
use crate::device::cuda::clique::Clique;

/// How long to sleep between two looks at something that takes time.
const PAUSE: Duration = Duration::from_micros(20);

/// What members find one another by.
#[derive(Clone, Copy)]
pub struct Invitation(UniqueId);

impl Invitation {
    /// A new one.
    ///
    /// # Errors
    /// An NCCL that is missing, too old or does not start.
    pub fn new() -> Result<Invitation> {
        let nccl = Nccl::open()?;
        let mut id = UniqueId([0; 128]);
        // SAFETY: writes into `id`.
        match unsafe { (nccl.get_unique_id)(&mut id) } {
            SUCCESS => Ok(Invitation(id)),
            code => Err(nccl.failed("starting", code)),
        }
    }
}

/// A device's part in a clique.
pub(in crate::device::cuda) struct Member {
    nccl: Nccl,
    /// Marks the last sum in the stream.
    last: CudaEvent,
    pending: bool,
    comm: Comm,
    clique: Arc<Clique>,
    aborted: bool,
}

impl Member {
    /// Joins, on the thread whose context is the device's; returns when all have.
    pub(super) fn join(
        clique: &Arc<Clique>,
        member: usize,
        context: &Arc<CudaContext>,
    ) -> Result<Member> {
        peers::admit(context, clique.devices())?;
        let Invitation(id) = clique.invitation();
        let nccl = Nccl::open()?;
        let last = context.new_event(None).map_err(driver("making an event"))?;
        let mut comm: Comm = std::ptr::null_mut();
        let (members, member) = (clique.members() as c_int, member as c_int);
        // SAFETY: writes the communicator; the identification is copied, and the settings are read
        // before the call returns.
        let code = unsafe {
            (nccl.comm_init_rank_config)(&mut comm, members, *id, member, &mut Config::polled())
        };
        if comm.is_null() {
            return Err(nccl.failed("joining the other devices", code));
        }
        let clique = clique.clone();
        let mut joined = Member { nccl, last, pending: false, comm, clique, aborted: false };
        joined.settle("joining the other devices", code)?;
        Ok(joined)
    }

    /// Adds everybody's array up into the first member's, in the stream's order.
    pub(super) fn sum_into_first(
        &mut self,
        at: Address,
        floats: usize,
        stream: &CudaStream,
    ) -> Result<()> {
        // SAFETY: device memory of that length, by the caller's word; in place at the root, and not
        // written elsewhere.
        let code = unsafe {
            (self.nccl.reduce)(
                at.0 as *const c_void,
                at.0 as *mut c_void,
                floats,
                FLOAT32,
                SUM,
                0,
                self.comm,
                stream.cu_stream().cast(),
            )
        };
        self.settle("adding gradients up", code)?;
        self.pending = true;
        self.last.record(stream).map_err(driver("marking a sum"))
    }

    /// Waits for the last sum; gives up when a member that it needs has gone, or the device has failed.
    pub(super) fn wait(&mut self) -> Result<()> {
        while self.pending {
            match self.last.try_is_complete() {
                Ok(true) => self.pending = false,
                Ok(false) => {
                    self.check()?;
                    std::thread::yield_now();
                }
                Err(error) => {
                    // Destroying would wait for what never ends.
                    self.abort();
                    return Err(driver("what was asked for")(error));
                }
            }
        }
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        let gone = self.clique.check();
        if gone.is_err() {
            self.abort();
        }
        gone
    }

    /// Waits until a call has done what it was to do on the host.
    fn settle(&mut self, what: &str, first: Code) -> Result<()> {
        let mut code = first;
        while code == IN_PROGRESS {
            self.check()?;
            std::thread::sleep(PAUSE);
            // SAFETY: the communicator is alive; writes the code.
            match unsafe { (self.nccl.comm_get_async_error)(self.comm, &mut code) } {
                SUCCESS => {}
                failed => code = failed,
            }
        }
        match code {
            SUCCESS => Ok(()),
            code => {
                let error = self.nccl.failed(what, code);
                self.abort();
                Err(error)
            }
        }
    }

    /// Ends what still runs on the device.
    fn abort(&mut self) {
        if !std::mem::replace(&mut self.aborted, true) {
            // SAFETY: alive, and not used again.
            let _ = unsafe { (self.nccl.comm_abort)(self.comm) };
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // Destroying waits for the last sum without looking whether others, which may never come, are gone.
        let _ = self.wait();
        match self.clique.check() {
            Ok(()) if !self.aborted => {
                self.aborted = true;
                // SAFETY: alive, and not used again.
                let _ = unsafe { (self.nccl.comm_destroy)(self.comm) };
            }
            _ => self.abort(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cuda::library::Library;

    #[test]
    fn the_library_that_is_installed_invites_without_a_device() {
        match Library::Nccl.open() {
            Ok(found) => {
                let Invitation(UniqueId(id)) = Invitation::new().unwrap();
                assert!(id.iter().any(|byte| *byte != 0), "NCCL {}", found.version);
            }
            Err(missing) => println!("skipped: {missing}"),
        }
    }
}
