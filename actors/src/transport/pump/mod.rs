//! The pump: the plain thread that owns the transport.
//!
//! It connects, makes every call into the transport (every MPI call of the process but one, the
//! watchdog's abort) and finalises, so MPI needs no more than `Funneled`. It never waits inside
//! a call: while operations are open it looks after them every 150 µs, else it sleeps until
//! there is something to do. It also keeps the heartbeats.

use std::sync::Arc;
use std::thread::{JoinHandle, Thread, park_timeout};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::emulated::Emulated;
use super::{Beat, Done, Link, Op, Transport};
use crate::clock::Clock;
use crate::config::Launch;
use crate::fault::{Alarm, Fault, Halt, Origin, Post, enter, guarded};
use crate::trace::{Kind, Tracer};

mod clocks;
mod hello;

pub use clocks::ClockOffset;
pub(super) use hello::introduce;
pub(crate) use hello::{Hello, Meeting};

/// How often open operations are looked after.
const POLL: Duration = Duration::from_micros(150);
/// How long a pump without open operations sleeps: how late it notices a fault.
const NAP: Duration = Duration::from_millis(20);
/// How long a wait for headers alone looks without sleeping.
const EAGER: Duration = Duration::from_millis(2);
/// How often peers hear from each other.
const BEAT: Duration = Duration::from_secs(1);
/// How long a failing node goes on so that its peers hear why.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// How long a node that was told of a fault leaves it to the culprit to end the job.
const DEFER: Duration = Duration::from_millis(1200);
/// How long a failing node waits for its own thread to print and to write the trace.
const RELEASE: Duration = Duration::from_millis(1500);
/// Operations and completions that can lie in the channels; far more than are ever open.
const DEPTH: usize = 4096;

/// To the pump.
enum Command {
    Op(Op),
    /// Whom to wake when something has finished.
    Attach(Box<dyn Fn() + Send>),
    /// Measure the clocks again, with all other nodes.
    Align(Sender<Vec<ClockOffset>>),
    /// All work is done on all nodes: leave in order.
    Finish,
    /// The fault has been printed: end the job.
    Release,
}

/// A completion, or a line for the log.
pub(crate) enum News {
    Done(Done),
    Warning(String),
}

/// The handle of the pump thread.
pub(crate) struct Pump {
    commands: Sender<Command>,
    news: Receiver<News>,
    thread: JoinHandle<()>,
}

/// Sends operations to the pump and takes their completions.
#[derive(Clone)]
pub(crate) struct Line {
    commands: Sender<Command>,
    news: Receiver<News>,
    pump: Thread,
}

impl Line {
    /// Starts an operation.
    pub(crate) fn post(&self, op: Op) -> Result<(), Halt> {
        // The pump is gone only after a fault.
        self.commands.try_send(Command::Op(op)).map_err(|_| Halt::Stopped)?;
        self.pump.unpark();
        Ok(())
    }

    /// The next completion, if there is one.
    pub(crate) fn next(&self) -> Option<News> {
        self.news.try_recv().ok()
    }
}

impl Pump {
    /// The communicator's end.
    pub(crate) fn line(&self) -> Line {
        let (commands, news) = (self.commands.clone(), self.news.clone());
        Line { commands, news, pump: self.thread.thread().clone() }
    }

    fn tell(&self, command: Command) {
        // A pump that has ended has raised the alarm.
        drop(self.commands.send(command));
        self.thread.thread().unpark();
    }

    /// Sets whom to wake when something has finished.
    pub(crate) fn attach(&self, wake: Box<dyn Fn() + Send>) {
        self.tell(Command::Attach(wake));
    }

    /// Measures the clocks again; to be called on all nodes, when no other operation is open.
    /// `None` after a fault.
    pub(crate) fn align(&self) -> Option<Vec<ClockOffset>> {
        let (found, offsets) = bounded(1);
        self.tell(Command::Align(found));
        offsets.recv().ok()
    }

    /// Leaves in order; waits for all nodes to do so.
    pub(crate) fn finish(self) {
        self.tell(Command::Finish);
        drop(self.thread.join());
    }

    /// Ends the whole job after a fault that has been printed; with MPI and several ranks this
    /// does not return.
    pub(crate) fn release(self) {
        self.tell(Command::Release);
        drop(self.thread.join());
    }
}

/// How long a peer may be silent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Until it is named in a warning.
    pub(crate) warning: Duration,
    /// Until the job ends; zero: for ever.
    pub(crate) timeout: Duration,
}

/// Starts the pump and waits until all nodes have met.
///
/// # Errors
/// The transport cannot be had, or a rank differs from rank 0 in what must be equal.
pub(crate) fn start(
    launch: Launch,
    link: Option<Link>,
    hello: Hello,
    patience: Patience,
    clock: Arc<dyn Clock>,
    post: Post,
) -> Result<(Pump, Meeting), Fault> {
    let (commands, inbox) = bounded(DEPTH);
    let (outbox, news) = bounded(DEPTH);
    let (met, meeting) = bounded(1);
    let here = post.clone();
    let body = move || {
        enter(Some(here.clone()));
        guarded(&here, || {
            let span = here.tracer.span(Kind::Start);
            let mut transport = connect(launch, link)?;
            let meeting = hello::meet(transport.as_mut(), &hello, clock.as_ref(), &here)?;
            let peers = transport.size();
            let hosts = meeting.hosts.clone();
            drop(met.send(meeting));
            drop(span);
            let pump = Running {
                post: here.clone(),
                hosts,
                heard: vec![Instant::now(); peers],
                warned: vec![false; peers],
                patience,
                clock,
                transport,
                inbox,
                outbox,
                wake: None,
                tracer: here.tracer.clone(),
                alarm: here.alarm.clone(),
                done: Vec::new(),
                beats: Vec::new(),
                last_beat: Instant::now(),
            };
            pump.run(&here)
        });
        enter(None);
    };
    let thread = std::thread::Builder::new()
        .name("pump".into())
        .spawn(body)
        .map_err(|error| post.fault(format!("cannot start the pump thread: {error}")))?;
    let pump = Pump { commands, news, thread };
    match meeting.recv() {
        Ok(meeting) => Ok((pump, meeting)),
        Err(_) => {
            let fault = post.alarm.fault();
            Err(fault.unwrap_or_else(|| post.fault("the pump thread ended while connecting")))
        }
    }
}

/// Joins the job.
pub(super) fn connect(launch: Launch, link: Option<Link>) -> Result<Box<dyn Transport>, String> {
    let transport: Box<dyn Transport> = match super::launch::resolve(launch)? {
        super::launch::Resolved::InProcess(node) => Box::new(node.connect()),
        #[cfg(feature = "mpi")]
        super::launch::Resolved::Mpi => Box::new(super::mpi::Mpi::connect()?),
    };
    Ok(match link {
        Some(link) if transport.size() > 1 => Box::new(Emulated::new(transport, link)),
        _ => transport,
    })
}

/// A moment between two looks at an exchange that nothing else can be done during: none at first,
/// since its duration is what is measured.
fn pause(since: Instant) {
    match since.elapsed() < EAGER {
        true => std::thread::yield_now(),
        false => std::thread::sleep(POLL),
    }
}

struct Running {
    post: Post,
    /// Host name of each rank.
    hosts: Vec<String>,
    transport: Box<dyn Transport>,
    inbox: Receiver<Command>,
    outbox: Sender<News>,
    wake: Option<Box<dyn Fn() + Send>>,
    tracer: Tracer,
    alarm: Arc<Alarm>,
    done: Vec<Done>,
    beats: Vec<(usize, Beat)>,
    last_beat: Instant,
    heard: Vec<Instant>,
    warned: Vec<bool>,
    patience: Patience,
    clock: Arc<dyn Clock>,
}

impl Running {
    fn run(mut self, post: &Post) -> Result<(), Halt> {
        match self.serve() {
            Ok(()) => {
                self.transport.finish()?;
                Ok(())
            }
            Err(halt) => {
                post.report(halt);
                self.end_badly();
                Ok(())
            }
        }
    }

    /// Until told to finish.
    fn serve(&mut self) -> Result<(), Halt> {
        loop {
            while let Ok(command) = self.inbox.try_recv() {
                if self.take(command)? {
                    return Ok(());
                }
            }
            self.turn()?;
            if self.alarm.raised() {
                return Err(Halt::Stopped);
            }
            if self.inbox.is_empty() {
                // Not a channel's timed receive: that spins before it sleeps, and this thread
                // does nothing but short waits.
                park_timeout(if self.transport.open() { POLL } else { NAP });
            }
        }
    }

    /// Carries out one command; true when it was the last.
    fn take(&mut self, command: Command) -> Result<bool, Halt> {
        match command {
            Command::Op(op) => {
                match &op {
                    Op::Sum { id, .. } => self.tracer.open(Kind::Exchange, *id as u32),
                    Op::Header { .. } => self.tracer.open(Kind::Header, 0),
                    Op::Broadcast { .. } | Op::Collect { .. } => {}
                }
                self.transport.post(op)?;
            }
            Command::Attach(wake) => {
                // Something may have completed while there was nobody to wake.
                wake();
                self.wake = Some(wake);
            }
            Command::Align(found) => drop(found.send(self.align()?)),
            Command::Finish => return Ok(true),
            Command::Release => {}
        }
        Ok(false)
    }

    /// One look at everything.
    fn turn(&mut self) -> Result<(), Halt> {
        self.transport.poll(&mut self.done)?;
        let mut news = !self.done.is_empty();
        for done in self.done.drain(..) {
            match &done {
                Done::Sum { id, .. } => self.tracer.close(Kind::Exchange, *id as u32),
                Done::Headers { .. } => self.tracer.close(Kind::Header, 0),
                Done::Broadcast { .. } | Done::Collect { .. } => {}
            }
            if self.outbox.try_send(News::Done(done)).is_err() {
                return Err("the communicator takes no completions".to_owned().into());
            }
        }
        if self.transport.size() > 1 {
            news |= self.keep_in_touch()?;
        }
        if let (true, Some(wake)) = (news, &self.wake) {
            wake();
        }
        Ok(())
    }

    /// Heartbeats: sends, listens, and names the silent; true when there is something to log.
    fn keep_in_touch(&mut self) -> Result<bool, Halt> {
        let now = Instant::now();
        self.transport.heard(&mut self.beats)?;
        for (rank, beat) in self.beats.drain(..) {
            self.heard[rank] = now;
            self.warned[rank] = false;
            if let Beat::Fault(fault) = beat {
                return Err(Halt::Fault(Fault { origin: Origin::Remote, ..fault }));
            }
        }
        if now - self.last_beat < BEAT {
            return Ok(false);
        }
        self.last_beat = now;
        self.transport.beat(&Beat::Alive)?;
        let mut news = false;
        let me = self.transport.rank();
        for peer in self.transport.peers() {
            let silent = now - self.heard[peer];
            if peer == me {
                continue;
            }
            let Patience { warning, timeout } = self.patience;
            if !timeout.is_zero() && silent > timeout {
                return Err(self.stalled(peer, silent));
            }
            if silent > warning && !self.warned[peer] {
                self.warned[peer] = true;
                let text = format!("rank {peer} has been silent for {} s", silent.as_secs());
                news |= self.outbox.try_send(News::Warning(text)).is_ok();
            }
        }
        Ok(news)
    }

    /// A peer has been silent for too long: its fault, as far as anybody can tell.
    fn stalled(&self, rank: usize, silent: Duration) -> Halt {
        let host = self.hosts.get(rank).cloned().unwrap_or_default().into();
        let cause = format!(
            "has not been heard for {} s (--stall-timeout); rank {} ends the job",
            silent.as_secs(),
            self.transport.rank()
        );
        let fault = self.post.fault(cause);
        Halt::Fault(Fault { rank, host, actor: "process".into(), iter: None, ..fault })
    }

    /// Tells the peers why, gives this process time to print, and ends the job.
    fn end_badly(&mut self) {
        let start = Instant::now();
        if self.transport.size() > 1
            && let Some(fault) = self.alarm.fault().filter(|fault| fault.origin == Origin::Own)
        {
            drop(self.transport.beat(&Beat::Fault(fault)));
        }
        let culprit = self.alarm.fault().is_none_or(|fault| match fault.origin {
            Origin::Own => true,
            Origin::Remote => false,
            Origin::Agreed => self.transport.rank() == 0,
        });
        // When all ranks abort at once, launchers print noise.
        let least = if culprit { LAST_WORDS } else { DEFER };
        let mut released = false;
        while start.elapsed() < RELEASE && !(released && start.elapsed() >= least) {
            match self.inbox.recv_timeout(Duration::from_millis(1)) {
                Ok(Command::Release) | Err(RecvTimeoutError::Disconnected) => released = true,
                _ => {}
            }
            // Beats move only while the library is called; whatever else it says is moot now.
            drop(self.transport.poll(&mut self.done));
            self.done.clear();
            drop(self.transport.heard(&mut self.beats));
            self.beats.clear();
            if self.transport.size() == 1 && released {
                break;
            }
        }
        self.transport.abort();
    }
}
