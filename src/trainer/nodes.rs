//! Runs this process's part of a job: one node, or all nodes of a job inside this process, each on
//! threads of its own.

use caffe_actors::{
    BatchSource, Config, Factories, Fault, InProcess, Launch, Observer, Origin, Replica, RunReport,
    run,
};

use crate::log::Log;
use crate::{Error, Result};

/// Runs `nodes` nodes like `config` and returns the first one's report. Only the first hears
/// `observer`; of the others, warnings are logged.
///
/// # Errors
/// The fault that ended the job.
pub(super) fn run_all<R, S>(
    config: &Config,
    nodes: usize,
    factories: &Factories<R, S>,
    observer: Box<dyn Observer>,
    log: &Log,
) -> Result<RunReport>
where
    R: Replica,
    S: BatchSource<Batch = R::Batch>,
{
    let failed = |fault: Fault| Error::Fault(Box::new(fault));
    if nodes == 1 {
        return run(config.clone(), factories.clone(), observer).map_err(failed);
    }
    let mut first = Some(observer);
    let start = |node: InProcess| {
        // No rank may end the process of the others before the culprit has spoken.
        let config =
            Config { launch: Launch::InProcess(node), owns_process: false, ..config.clone() };
        let factories = factories.clone();
        let observer = first.take().unwrap_or_else(|| Box::new(Warnings(log.clone())));
        std::thread::Builder::new()
            .name("node".into())
            .spawn(move || run(config, factories, observer))
            .map_err(|e| Error::Invalid(format!("cannot start a thread for a node: {e}")))
    };
    let threads: Vec<_> = InProcess::nodes(nodes).into_iter().map(start).collect::<Result<_>>()?;
    let ended = threads.into_iter().map(|thread| thread.join());
    let mut reports = Vec::new();
    let mut faults = Vec::new();
    for outcome in ended {
        match outcome {
            Ok(Ok(report)) => reports.push(report),
            Ok(Err(fault)) => faults.push(fault),
            Err(_) => return Err(Error::Invalid("a node's thread panicked".into())),
        }
    }
    // The culprit's own words, if it had any.
    faults.sort_by_key(|fault| fault.origin != Origin::Own);
    match (faults.into_iter().next(), reports.into_iter().next()) {
        (Some(fault), _) => Err(failed(fault)),
        (None, Some(report)) => Ok(report),
        (None, None) => Err(Error::Invalid("no node reported".into())),
    }
}

/// What a node that is not the first has to say.
struct Warnings(Log);

impl Observer for Warnings {
    fn warning(&mut self, text: &str) {
        self.0.warning(super::report::PLACE, text);
    }
}
