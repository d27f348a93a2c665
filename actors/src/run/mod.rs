//! One node's run from start to end: [`run`].
//!
//! Connects to the other nodes, starts the actors ([`wiring`]), waits until the communicator
//! reports or a fault closes the stop channel, and leaves: in order, or with the fault printed,
//! the trace written and the whole job torn down.

mod wiring;

use std::sync::Arc;
use std::time::Duration;

use actix::{Arbiter, System};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded, select};
use parking_lot::Mutex;

use crate::communicator::SharedObserver;
use crate::config::{Config, Factories, Launch, MAX_IDENTITIES};
use crate::fault::{
    Alarm, Fault, Inject, Origin, Post, Watchdog, enter, install_hook, install_last_words,
};
use crate::hands::Hands;
use crate::observe::{Observer, RunReport};
use crate::replica::Replica;
use crate::source::BatchSource;
use crate::trace::{self, BlackBox, Facts, Traces, Wanted};
use crate::transport::{self, Hello, Patience};

/// How long threads have to leave after the last message.
const LEAVE: Duration = Duration::from_secs(5);

/// Runs this node's part of a job and returns when the whole job is done.
///
/// Blocks the calling thread, which must not be inside another actix system or tokio runtime.
///
/// # Errors
/// The fault that ended the job. It has been given to [`Observer::fault`] (on rank 0 only when
/// all ranks found the same), and the trace is written. With MPI and several ranks this function
/// does not return after a fault: `MPI_Abort` ends the process with status 86.
pub fn run<R, S>(
    config: Config,
    factories: Factories<R, S>,
    observer: Box<dyn Observer>,
) -> Result<RunReport, Fault>
where
    R: Replica,
    S: BatchSource<Batch = R::Batch>,
{
    install_hook();
    if config.owns_process {
        install_last_words();
    }
    let observer: SharedObserver = Arc::new(Mutex::new(observer));
    let wanted =
        Wanted { record: config.record, keep: config.trace.is_some(), layers: config.trace_layers };
    let traces = Traces::new(config.clock.clone(), wanted);
    let (rank, _) = transport::launched().unwrap_or((0, 1));
    let traces = Arc::new(traces.recorded(black_box(&config, rank, &observer)));
    let mut post = Post {
        rank,
        host: host_name().into(),
        actor: "main".into(),
        alarm: Arc::new(Alarm::default()),
        tracer: traces.lane("main"),
        inject: None,
    };
    match Inject::from_environment() {
        Ok(inject) => post.inject = inject.map(Arc::new),
        Err(text) => return Err(post.fault(text)),
    }
    let watchdog = config
        .owns_process
        .then(|| Watchdog::start(post.alarm.clone(), Box::new(transport::abort_job)));
    let outcome = node(&config, factories, &observer, &traces, &mut post);
    drop(watchdog);
    outcome
}

fn node<R, S>(
    config: &Config,
    factories: Factories<R, S>,
    observer: &SharedObserver,
    traces: &Arc<Traces>,
    post: &mut Post,
) -> Result<RunReport, Fault>
where
    R: Replica,
    S: BatchSource<Batch = R::Batch>,
{
    let mut pump = None;
    let mut facts = Facts { mode: config.mode.to_string(), ..Facts::default() };
    let outcome = check(config, post)
        .and_then(|()| train(config, factories, observer, traces, post, &mut facts, &mut pump));
    if let (Some(pump), Ok(report)) = (&pump, &outcome) {
        facts.report = Some(report.clone());
        // Clocks drift: a second measurement says by how much.
        facts.clocks.extend(pump.align().and_then(|clocks| clocks.get(post.rank).copied()));
    }
    if let Err(fault) = &outcome
        && (fault.origin != Origin::Agreed || post.rank == 0)
    {
        observer.lock().fault(fault);
    }
    close_black_box(traces, post.rank, outcome.is_ok(), observer);
    (facts.rank, facts.host) = (post.rank, post.host.to_string());
    if let Some(dir) = &config.trace
        && let Err(text) = trace::write(traces, dir, &facts)
    {
        observer.lock().warning(&text);
    }
    match (pump, &outcome) {
        (Some(pump), Ok(_)) => transport::Pump::finish(pump),
        (Some(pump), Err(_)) => transport::Pump::release(pump),
        (None, _) => {}
    }
    // The pump may have failed while finishing.
    match post.alarm.fault() {
        Some(fault) if outcome.is_ok() => {
            observer.lock().fault(&fault);
            Err(fault)
        }
        _ => outcome,
    }
}

/// This rank's black box. Training goes as well without.
fn black_box(config: &Config, rank: usize, observer: &SharedObserver) -> Option<Arc<BlackBox>> {
    // Nodes of one process would share a file, and end together anyway.
    if matches!(config.launch, Launch::InProcess(_)) {
        return None;
    }
    let made = BlackBox::create(config.black_box.as_deref()?, rank, &host_name());
    made.map_err(|text| observer.lock().warning(&text)).ok()
}

/// What becomes of it.
fn close_black_box(traces: &Traces, rank: usize, well: bool, observer: &SharedObserver) {
    let Some(black_box) = traces.black_box() else { return };
    if well {
        return black_box.discard();
    }
    if let Some(dir) = black_box.path().parent().filter(|_| rank == 0) {
        let text = format!("what every actor did last: caffe blackbox {}", dir.display());
        observer.lock().warning(&text);
    }
}

/// What can be wrong with a configuration.
fn check(config: &Config, post: &Post) -> Result<(), Fault> {
    let schedule = &config.schedule;
    let wrong = if config.threads.is_empty() {
        "a node needs at least one device actor"
    } else if config.readers == 0 {
        "a node needs at least one reader"
    } else if config.identities.len() > MAX_IDENTITIES {
        "too many identities to compare"
    } else if schedule.iter_size == 0 {
        "iter_size must be at least 1"
    } else if schedule.test_cursors.len() != schedule.test_batches.len() {
        "the schedule needs one test cursor for each test net"
    } else {
        return Ok(());
    };
    Err(post.fault(wrong))
}

fn train<R, S>(
    config: &Config,
    factories: Factories<R, S>,
    observer: &SharedObserver,
    traces: &Arc<Traces>,
    post: &mut Post,
    facts: &mut Facts,
    kept: &mut Option<transport::Pump>,
) -> Result<RunReport, Fault>
where
    R: Replica,
    S: BatchSource<Batch = R::Batch>,
{
    let hello = Hello {
        workers: config.threads.len(),
        config: config.hash(),
        identities: config.identities.clone(),
        host: post.host.to_string(),
    };
    let at_pump =
        Post { actor: "communicator".into(), tracer: traces.lane("pump"), ..post.clone() };
    let hands = Hands::new(config.adders).map_err(|text| post.fault(text))?;
    let patience = Patience { warning: config.stall_warning, timeout: config.stall_timeout };
    let (pump, meeting) = transport::start(
        config.launch.clone(),
        config.link.clone(),
        hello,
        patience,
        config.clock.clone(),
        at_pump,
    )?;
    post.rank = meeting.rank;
    facts.workers.clone_from(&meeting.workers);
    facts.clocks.extend(meeting.clocks.get(meeting.rank));
    let line = pump.line();
    let pump = kept.insert(pump);
    enter(Some(post.clone()));
    let system = System::new();
    let (report, outcome) = bounded(1);
    let wires =
        wiring::Wires { config, meeting, observer, traces, post, line, hands, outcome: report };
    let (arbiters, wake) = wires.start(factories);
    pump.attach(wake);
    let result = wait(&outcome, post);
    for arbiter in &arbiters {
        arbiter.stop();
    }
    if result.is_ok() {
        join_all(arbiters);
    }
    // After a fault a thread may be stuck; its arbiter is left alone, and so is the system.
    drop(system);
    enter(None);
    result
}

/// Until the communicator reports or a fault stops the node.
fn wait(outcome: &Receiver<RunReport>, post: &Post) -> Result<RunReport, Fault> {
    let stop = post.alarm.stop();
    let report = select! {
        recv(outcome) -> report => report.ok(),
        recv(stop) -> _ => None,
    };
    match (post.alarm.fault(), report) {
        (None, Some(report)) => Ok(report),
        (Some(fault), _) => Err(fault),
        (None, None) => Err(post.fault("the communicator ended without a report")),
    }
}

/// Joins the actors' threads, but not for ever: a replica's destructor may block.
fn join_all(arbiters: Vec<Arbiter>) {
    let (done, joined) = bounded::<()>(0);
    let join = move || {
        for arbiter in arbiters {
            drop(arbiter.join());
        }
        drop(done);
    };
    if std::thread::Builder::new().name("join".into()).spawn(join).is_ok() {
        let timed_out = joined.recv_timeout(LEAVE) == Err(RecvTimeoutError::Timeout);
        if timed_out {
            eprintln!("a thread has not left {} s after the end", LEAVE.as_secs());
        }
    }
}

/// This host's name, as the kernel knows it.
pub(crate) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".into() } else { name.into() }
}
