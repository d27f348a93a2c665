//! The glue between engine and actors: a solver prototxt, a mode and a number of workers become a
//! running job.
//!
//! * `options`: what to train and how. `job`: everything equal on all replicas. `replica`, `source`: the engine behind the
//!   actors' traits. `buckets`: how parameters are cut for travel, `copy_out`, `fences`: their way out of backward. `report`: Caffe's log lines;
//!   [`observe`]: all who listen, and the numbers for files and dashboards. `identity`: what all
//!   ranks must have been given alike. `signals`: SIGINT, SIGHUP, SIGUSR1, SIGTERM. `guard`: what a
//!   loss that is no number does. `algorithms`: those of convolutions, one choice for all replicas. `nodes`: several nodes in this process. `emulation`: devices that
//!   wait instead of computing.
//!
//! The actors know no layer and the engine knows no actor; only this module knows both.

mod algorithms;
mod buckets;
mod copy_out;
mod device_memory;
mod emulation;
mod equivalence;
mod fences;
mod guard;
mod identity;
mod job;
mod nodes;
pub mod observe;
mod on_nan;
mod options;
mod record_log;
mod replica;
mod report;
mod signals;
mod source;
mod team;
mod tuning;

use std::sync::Arc;

use caffe_actors::{Config, Factories, Requests};
pub use caffe_actors::{Link, Loss, Mode, Wire, measure_link};
use caffe_proto::solver_from_file;

use crate::log::Log;
use crate::snapshot::{self, PrefixLock};
pub use crate::snapshot::{Best, Keep};
use crate::{Error, Result, ensure};
pub use emulation::{Blueprint, DeviceSpec, Dilation};
use job::Job;
pub use on_nan::OnNan;
pub use options::{BatchMeaning, Options, black_box_folder};
use replica::SolverReplica;
pub use signals::{Effect, Effects};
use source::Records;
pub use tuning::{LrScaling, Tuning};

/// Trains to the end, to a request to stop, or to the first error anywhere in the job.
///
/// # Errors
/// Whatever was wrong with the files before training, or the fault that ended the job.
pub fn run(options: &Options, log: &Log) -> Result<()> {
    ensure!(options.workers > 0, "--workers must be at least 1");
    ensure!(options.nodes > 0, "--nodes must be at least 1");
    ensure!(
        options.nodes == 1 || caffe_actors::launched().is_none(),
        "--nodes puts all nodes of a job into one process; under mpirun every rank is a node"
    );
    // Held to the end; taken first, so that nobody writes while this job looks for snapshots.
    let _lock = lock_prefix(options)?;
    let job = Arc::new(Job::new(options)?);
    for folder in options.trace.iter().chain(&options.log_records) {
        std::fs::create_dir_all(folder).map_err(|e| Error::file(folder, e))?;
    }
    let requests = Requests::default();
    signals::install(options.effects, &requests)?;
    signals::end_on_sigterm(&job, log)?;
    let mut config = Config::new(options.mode, job.schedule());
    config.look_ahead = options.look_ahead;
    config.wire = options.wire;
    config.stall_warning = options.stall_warning;
    config.stall_timeout = options.stall_timeout;
    config.link = options.link.clone();
    config.identities = job.identities()?;
    config.identities.push(options.emulated());
    config.trace = options.trace.clone();
    config.black_box = Some(options.black_box.clone());
    config.trace_layers = options.trace_layers;
    config.record = options.record;
    config.requests = requests;
    if let Some(device) = &options.device {
        return emulation::run(&job, options, device, config, log);
    }
    config.identities.extend(job.data_identities()?);
    let own = options.threads.div_ceil(options.nodes);
    config.threads = divide(own, options.workers);
    config.adders = adders(options.threads);
    let (readers, decoders) = share_reading(options, &job);
    config.readers = readers;

    let (for_replicas, for_readers) = (job.clone(), job.clone());
    let factories = Factories::new(
        move |place| Ok(SolverReplica::build(&for_replicas, place)?),
        move |place| Ok(Records::open(&for_readers, place.replicas, decoders)?),
    );
    let observers = observe::observers(&job, options, log)?;
    nodes::run_all(&config, options.nodes, &factories, Box::new(observers), log).map(|_| ())
}

/// The right to write snapshots under the solver's prefix: rank 0's, and only where any are written.
fn lock_prefix(options: &Options) -> Result<Option<PrefixLock>> {
    let solver = solver_from_file(&options.solver)?.solver;
    let prefix = solver.snapshot_prefix();
    let root = caffe_actors::launched().is_none_or(|(rank, _)| rank == 0);
    if !root || prefix.is_empty() || !(solver.snapshot() > 0 || solver.snapshot_after_train()) {
        return Ok(None);
    }
    snapshot::check_writable(prefix)?;
    PrefixLock::take(prefix)
}

/// Number of reader actors, and of threads with which each decodes. There is no use for more actors
/// than workers: they would each read the whole database to pass over the others' records.
fn share_reading(options: &Options, job: &Job) -> (usize, usize) {
    let wanted = options.readers.unwrap_or_else(|| if job.decodes() { options.threads } else { 1 });
    let readers = wanted.clamp(1, options.workers);
    (readers, wanted.div_ceil(readers).max(1))
}

/// Threads that add gradients, beside so many that compute: hardware threads that are left over, but
/// memory's bandwidth is all used by a few.
fn adders(computing: usize) -> usize {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    all.saturating_sub(computing).clamp(1, 4)
}

/// Shares threads among workers: as evenly as possible, at least one each.
fn divide(threads: usize, workers: usize) -> Vec<usize> {
    (0..workers).map(|w| (threads / workers + usize::from(w < threads % workers)).max(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_divided_without_loss() {
        assert_eq!(divide(8, 3), [3, 3, 2]);
        assert_eq!(divide(1, 2), [1, 1]);
    }
}
