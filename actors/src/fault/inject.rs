//! Faults on demand, for tests: `CAFFE_FAULT=KIND@phase=PHASE[,rank=N][,iter=N]`.
//!
//! | kind | what happens |
//! |---|---|
//! | `panic`, `error` | a panic, an error value |
//! | `kill`, `stop` | SIGKILL, SIGSTOP to this process |
//! | `oom` | an allocation that fails |
//! | `sleep:MS` | nothing for so many milliseconds |
//!
//! Phases: `start` (building a replica), `read`, `train`, `test`, `drain` (taking the agreed weights),
//! `snapshot` (copying), `write` (the files), `verify`. It strikes once, at the first moment of that
//! phase, on that rank, at or after that iteration. Not for users; `scripts/faults.sh` lives on it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Halt, Post};

/// The variable that asks for a fault.
const VARIABLE: &str = "CAFFE_FAULT";

#[derive(Clone, Debug, PartialEq, Eq)]
enum Act {
    Panic,
    Error,
    Kill,
    Stop,
    OutOfMemory,
    Sleep(Duration),
}

/// One planned fault.
#[derive(Debug)]
pub(crate) struct Inject {
    act: Act,
    phase: String,
    rank: Option<usize>,
    iter: u64,
    struck: AtomicBool,
}

impl Inject {
    /// What the environment asks for.
    ///
    /// # Errors
    /// A text that is none of the above.
    pub(crate) fn from_environment() -> Result<Option<Self>, String> {
        match std::env::var(VARIABLE) {
            Ok(text) => Self::parse(&text).map(Some),
            Err(_) => Ok(None),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{VARIABLE}={text}: expected KIND@phase=PHASE[,rank=N][,iter=N]");
        let (kind, place) = text.split_once('@').ok_or_else(wrong)?;
        let act = match kind {
            "panic" => Act::Panic,
            "error" => Act::Error,
            "kill" => Act::Kill,
            "stop" => Act::Stop,
            "oom" => Act::OutOfMemory,
            _ => {
                let ms = kind.strip_prefix("sleep:").and_then(|ms| ms.parse().ok());
                Act::Sleep(Duration::from_millis(ms.ok_or_else(wrong)?))
            }
        };
        let struck = AtomicBool::new(false);
        let mut inject = Inject { act, phase: String::new(), rank: None, iter: 0, struck };
        for part in place.split(',') {
            match part.split_once('=') {
                Some(("phase", phase)) => inject.phase = phase.to_owned(),
                Some(("rank", rank)) => inject.rank = Some(rank.parse().map_err(|_| wrong())?),
                Some(("iter", iter)) => inject.iter = iter.parse().map_err(|_| wrong())?,
                _ => return Err(wrong()),
            }
        }
        if inject.phase.is_empty() { Err(wrong()) } else { Ok(inject) }
    }

    /// Strikes if it is time.
    #[expect(clippy::panic, reason = "a panic is what was asked for")]
    pub(super) fn strike(&self, post: &Post, phase: &str) -> Result<(), Halt> {
        let early = post.tracer.iter().unwrap_or(0) < self.iter;
        let elsewhere = self.rank.is_some_and(|rank| rank != post.rank) || self.phase != phase;
        if elsewhere || early || self.struck.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        match self.act {
            Act::Panic => std::panic::panic_any("injected panic"),
            Act::Error => return Err("injected error".to_owned().into()),
            Act::Kill => signal_self(libc::SIGKILL),
            Act::Stop => signal_self(libc::SIGSTOP),
            Act::OutOfMemory => drop(std::hint::black_box(Vec::<u8>::with_capacity(1 << 60))),
            Act::Sleep(time) => std::thread::sleep(time),
        }
        Ok(())
    }
}

fn signal_self(signal: i32) {
    // SAFETY: `kill` and `getpid` take and return plain numbers.
    unsafe { libc::kill(libc::getpid(), signal) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_language() {
        let inject = Inject::parse("sleep:20@phase=write,rank=1,iter=30").unwrap();
        assert_eq!(inject.act, Act::Sleep(Duration::from_millis(20)));
        assert_eq!((inject.phase.as_str(), inject.rank, inject.iter), ("write", Some(1), 30));
        for wrong in
            ["panic", "panic@iter=3", "sulk@phase=test", "sleep:x@phase=test", "kill@phase"]
        {
            assert!(Inject::parse(wrong).is_err(), "{wrong}");
        }
    }
}
