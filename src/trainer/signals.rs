//! What a signal to a rank does: stop, snapshot or nothing, on all ranks together.

use caffe_actors::Requests;
use signal_hook::consts::{SIGHUP, SIGINT};

use crate::{Error, Result};

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

/// Routes SIGINT and SIGHUP of this process to the job's requests. A second SIGINT ends the process
/// at once.
///
/// # Errors
/// When the operating system refuses a handler.
pub fn install(sigint: Effect, sighup: Effect, requests: &Requests) -> Result<()> {
    let explain = |e: std::io::Error| Error::Invalid(format!("cannot handle signals: {e}"));
    if sigint == Effect::Stop {
        // Registered first, so that it looks at the flag before this signal sets it.
        signal_hook::flag::register_conditional_shutdown(SIGINT, 130, requests.stop_flag())
            .map_err(explain)?;
    }
    for (signal, effect) in [(SIGINT, sigint), (SIGHUP, sighup)] {
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
