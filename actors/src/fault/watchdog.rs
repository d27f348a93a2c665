//! The watchdog: ends a process that cannot end itself.
//!
//! After a fault the node has 2 s to tell its peers, print, write its trace and leave. A thread
//! stuck inside MPI, a driver or a destructor can hold that up; then this thread calls
//! `MPI_Abort` (the sole MPI call outside the pump; measured to work from any thread), and 3 s
//! later `_exit`, which nothing can hold up.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::{Alarm, Never};

/// Time a node has to end in order.
const GRACE: Duration = Duration::from_secs(2);
/// Further time that `MPI_Abort` has to end the process.
const LAST: Duration = Duration::from_secs(3);
/// Exit status of a job that ended by a fault; also `MPI_Abort`'s error code.
pub(crate) const FAULT_STATUS: i32 = 86;

/// Watches from its making until it is dropped.
pub(crate) struct Watchdog {
    disarm: Option<Sender<Never>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts watching `alarm`; `abort` tears down the whole job.
    pub(crate) fn start(alarm: Arc<Alarm>, abort: Box<dyn FnOnce() + Send>) -> Self {
        let (disarm, over) = bounded::<Never>(0);
        let watch = move || {
            let stop = alarm.stop();
            crossbeam_channel::select! {
                recv(stop) -> _ => {}
                recv(over) -> _ => return,
            }
            if !matches!(over.recv_timeout(GRACE), Err(RecvTimeoutError::Timeout)) {
                return;
            }
            // Abort may itself block: it gets a thread of its own.
            let aborter = std::thread::Builder::new().name("abort".into()).spawn(abort);
            if !matches!(over.recv_timeout(LAST), Err(RecvTimeoutError::Timeout)) {
                drop(aborter);
                return;
            }
            if let Some(fault) = alarm.fault() {
                eprintln!("not ended 5 s after a fault, leaving now: {fault}");
            }
            exit_now();
        };
        let thread = std::thread::Builder::new().name("watchdog".into()).spawn(watch).ok();
        Watchdog { disarm: Some(disarm), thread }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.disarm.take();
        if let Some(thread) = self.thread.take() {
            // It ends at once: its channel has closed.
            drop(thread.join());
        }
    }
}

fn exit_now() -> ! {
    // SAFETY: `_exit` takes any status, touches no memory of ours and does not return. Unlike
    // `exit` it runs no handlers, and MPI's may block for ever when a peer is gone.
    unsafe { libc::_exit(FAULT_STATUS) }
}
