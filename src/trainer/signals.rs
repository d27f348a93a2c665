//! What a signal to a rank does: stop, snapshot or nothing, on all ranks together; and the end on
//! SIGTERM, for which `mpirun` leaves about a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use caffe_actors::Requests;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use super::Job;
use crate::log::Log;
use crate::{Error, Result};

/// Open MPI kills its ranks a second after it has told them to end: a snapshot that is almost
/// written gets this much of it.
const LAST_SECOND: Duration = Duration::from_millis(600);
/// What shells say of a process that SIGTERM has ended.
const TERMINATED: i32 = 128 + SIGTERM;

/// Effect of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Write a snapshot and end.
    Stop,
    /// Write a snapshot and go on.
    Snapshot,
    /// Nothing.
    None,
}

/// What each signal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effects {
    /// Of SIGINT.
    pub sigint: Effect,
    /// Of SIGHUP.
    pub sighup: Effect,
    /// Of SIGUSR1, which `mpirun` passes on to all ranks.
    pub sigusr1: Effect,
}

impl Default for Effects {
    fn default() -> Self {
        Effects { sigint: Effect::Stop, sighup: Effect::Snapshot, sigusr1: Effect::Snapshot }
    }
}

/// Whether snapshot files are being written.
#[derive(Clone, Debug, Default)]
pub struct Busy(Arc<AtomicBool>);

impl Busy {
    /// From now until the returned value is dropped.
    pub fn begin(&self) -> impl Drop + use<> {
        struct Until(Arc<AtomicBool>);
        impl Drop for Until {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Release);
            }
        }
        self.0.store(true, Ordering::Release);
        Until(self.0.clone())
    }

    fn now(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Routes SIGINT, SIGHUP and SIGUSR1 of this process to the job's requests. A second SIGINT ends
/// the process at once.
///
/// # Errors
/// When the operating system refuses a handler.
pub fn install(effects: Effects, requests: &Requests) -> Result<()> {
    if effects.sigint == Effect::Stop {
        // Registered first, so that it looks at the flag before this signal sets it.
        signal_hook::flag::register_conditional_shutdown(SIGINT, 130, requests.stop_flag())
            .map_err(explain)?;
    }
    let each = [(SIGINT, effects.sigint), (SIGHUP, effects.sighup), (SIGUSR1, effects.sigusr1)];
    for (signal, effect) in each {
        let flag = match effect {
            Effect::Stop => requests.stop_flag(),
            Effect::Snapshot => requests.snapshot_flag(),
            // A handler that sets nothing, so that the signal does not end the process.
            Effect::None => Default::default(),
        };
        signal_hook::flag::register(signal, flag).map_err(explain)?;
    }
    Ok(())
}

/// Ends the process on SIGTERM: at once, but for a snapshot that is being written. Rank 0 says which
/// snapshot is the newest that is whole.
///
/// # Errors
/// When the operating system refuses a handler or a thread.
pub fn end_on_sigterm(job: &Arc<Job>, log: &Log) -> Result<()> {
    let mut signals = Signals::new([SIGTERM]).map_err(explain)?;
    let (job, log) = (job.clone(), log.clone());
    let wait = move || {
        if signals.forever().next().is_some() {
            // First of all: `mpirun` does not listen for long.
            if caffe_actors::launched().is_none_or(|(rank, _)| rank == 0) {
                log.warning("signals.cpp:1", last_words(job.solver.snapshot_prefix()));
            }
            let until = Instant::now() + LAST_SECOND;
            while job.writing.now() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            signal_hook::low_level::exit(TERMINATED);
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).map_err(explain)?;
    Ok(())
}

fn last_words(prefix: &str) -> String {
    let names = crate::snapshot::find::list(prefix).unwrap_or_default();
    let newest = names.iter().rev().find(|(_, endings)| endings.contains(&"resume"));
    match newest {
        Some((iter, _)) => {
            format!("SIGTERM: ending at once; the newest snapshot is {prefix}_iter_{iter}")
        }
        None => "SIGTERM: ending at once, without a snapshot".to_owned(),
    }
}

fn explain(e: std::io::Error) -> Error {
    Error::Invalid(format!("cannot handle signals: {e}"))
}
