//! How a job ends badly, and well at that: [`Fault`], the alarm that stops every wait of a node,
//! the panic hook, and the edge at which an actor's errors and panics become faults.
//!
//! The first fault of a node wins; it closes the node's stop channel, on which every wait of
//! every actor selects. What follows (telling the other ranks, printing, the trace, `MPI_Abort`)
//! is the business of the pump, of [`run`](crate::run) and of the watchdog.

mod abort;
mod hook;
mod inject;
mod watchdog;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::replica::Cause;
use crate::trace::Tracer;

pub(crate) use abort::install_last_words;
pub(crate) use hook::{enter, guarded, install_hook};
pub(crate) use inject::Inject;
#[cfg(feature = "mpi")]
pub(crate) use watchdog::FAULT_STATUS;
pub(crate) use watchdog::Watchdog;

/// Who found a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This rank: its line tells everything.
    Own,
    /// Another rank, which told this one.
    Remote,
    /// All ranks found the same when they compared notes; one line, rank 0's, is enough.
    Agreed,
}

/// Why the job ended: which rank and actor, doing what, and the cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The rank at fault.
    pub rank: usize,
    /// Its host.
    pub host: Box<str>,
    /// The actor, as in "device 0", "reader 0", "communicator".
    pub actor: Box<str>,
    /// The iteration it was in, if it had one.
    pub iter: Option<u64>,
    /// What it was doing, as in "forward".
    pub doing: Box<str>,
    /// The cause, in one line.
    pub cause: Box<str>,
    /// Who found it.
    pub origin: Origin,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} (host {}), {}", self.rank, self.host, self.actor)?;
        if let Some(iter) = self.iter {
            write!(f, ", iteration {iter}")?;
        }
        if !self.doing.is_empty() {
            write!(f, ", {}", self.doing)?;
        }
        write!(f, ": {}", self.cause)
    }
}

impl std::error::Error for Fault {}

/// Nothing is ever sent on a stop channel: it only closes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Never {}

/// Why an actor's work ended before its end.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The node is stopping because of a fault elsewhere. Nothing to report.
    Stopped,
    /// A cause on a thread that belongs to no run; to be dressed with a place.
    Cause(Cause),
    /// A fault that already knows its place.
    Fault(Fault),
}

/// `?` dresses a cause with the thread's place and activity while the spans are still open.
impl From<Cause> for Halt {
    fn from(cause: Cause) -> Self {
        let text = full_text(cause.as_ref());
        hook::here(|post| post.fault(&text)).map_or(Halt::Cause(cause), Halt::Fault)
    }
}

impl From<Fault> for Halt {
    fn from(fault: Fault) -> Self {
        Halt::Fault(fault)
    }
}

impl From<String> for Halt {
    fn from(text: String) -> Self {
        Halt::from(Cause::from(text))
    }
}

/// The node's fault, once there is one, and the stop channel it closes.
#[derive(Debug)]
pub(crate) struct Alarm {
    fault: Mutex<Option<Fault>>,
    raised: AtomicBool,
    keep_open: Mutex<Option<Sender<Never>>>,
    stop: Receiver<Never>,
}

impl Default for Alarm {
    fn default() -> Self {
        // Of size 1, not 0: waiting on a channel without room takes memory each time.
        let (keep_open, stop) = bounded(1);
        Alarm {
            fault: Mutex::default(),
            raised: AtomicBool::new(false),
            keep_open: Mutex::new(Some(keep_open)),
            stop,
        }
    }
}

impl Alarm {
    /// Records `fault` if it is the first and wakes every wait of the node.
    pub(crate) fn raise(&self, fault: Fault) {
        {
            let mut first = self.fault.lock();
            if first.is_none() {
                *first = Some(fault);
            }
        }
        self.raised.store(true, Ordering::Release);
        self.keep_open.lock().take();
    }

    /// Whether a fault has been recorded.
    pub(crate) fn raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }

    /// The first fault.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault.lock().clone()
    }

    /// The channel that closes when a fault is recorded.
    pub(crate) fn stop(&self) -> Receiver<Never> {
        self.stop.clone()
    }
}

/// A thread's place in the job: what turns a cause into a fault.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub(crate) rank: usize,
    pub(crate) host: Arc<str>,
    pub(crate) actor: Arc<str>,
    pub(crate) alarm: Arc<Alarm>,
    pub(crate) tracer: Tracer,
    /// A fault that a test has asked for.
    pub(crate) inject: Option<Arc<Inject>>,
}

impl Post {
    /// A place where tests may want a fault.
    pub(crate) fn inject(&self, phase: &str) -> Result<(), Halt> {
        self.inject.as_ref().map_or(Ok(()), |inject| inject.strike(self, phase))
    }

    /// A fault of this thread, in what it is doing now.
    pub(crate) fn fault(&self, cause: impl std::fmt::Display) -> Fault {
        Fault {
            rank: self.rank,
            host: (&*self.host).into(),
            actor: (&*self.actor).into(),
            iter: self.tracer.iter(),
            doing: self.tracer.doing().into(),
            cause: one_line(&cause.to_string()).into(),
            origin: Origin::Own,
        }
    }

    /// Raises the alarm for `halt`, unless the node is stopping anyway.
    pub(crate) fn report(&self, halt: Halt) {
        match halt {
            Halt::Stopped => {}
            Halt::Cause(cause) => self.alarm.raise(self.fault(full_text(cause.as_ref()))),
            Halt::Fault(fault) => self.alarm.raise(fault),
        }
    }
}

/// An error's text with the texts of its sources, where they add something.
fn full_text(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = inner.source();
    }
    text
}

/// A fault is one line of the log: line ends become "; ".
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for part in text.lines().map(str::trim).filter(|part| !part.is_empty()) {
        if !line.is_empty() {
            line.push_str("; ");
        }
        line.push_str(part);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Traces;

    fn post() -> Post {
        let traces = Traces::new(Arc::new(crate::SystemClock::default()), Default::default());
        Post {
            rank: 2,
            host: "node7".into(),
            actor: "device 1".into(),
            alarm: Arc::default(),
            tracer: traces.lane("device 1"),
            inject: None,
        }
    }

    #[test]
    fn the_first_fault_wins_and_closes_the_stop_channel() {
        let post = post();
        let stop = post.alarm.stop();
        assert!(stop.try_recv().is_err_and(|e| e.is_empty()));
        post.report(Halt::from("first".to_owned()));
        post.report(Halt::from("second".to_owned()));
        assert!(stop.try_recv().is_err_and(|e| e.is_disconnected()));
        assert_eq!(post.alarm.fault().map(|f| f.cause), Some("first".into()));
    }

    #[test]
    fn a_fault_is_one_line_that_says_where() {
        let post = post();
        post.tracer.set_iter(120);
        let _span = post.tracer.span(crate::trace::Kind::Forward);
        let fault = post.fault("layer conv1:\n  out of memory\n");
        assert_eq!(
            fault.to_string(),
            "rank 2 (host node7), device 1, iteration 120, forward: layer conv1:; out of memory"
        );
    }
}
