//! Emulated devices: the real actors, buckets and exchanges around replicas that wait instead of
//! computing, so that a job of many nodes can be measured on a small machine.
//!
//! * `blueprint`: the net's plan and its iteration's course. `device`: the replica. `meter`: what
//!   is measured.
//!
//! A small machine has less processor time than the nodes it stands for. So compute, link and
//! everything that the machine paces by time are *dilated* by one factor: the host's own work
//! becomes small beside them, and results are told in undilated time. What the host's work is, is
//! told beside, undilated: on a real cluster each node does its part of it by itself.

mod blueprint;
mod device;
mod meter;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use caffe_actors::{Config, DilatedClock, Factories, Observer, Started};

use self::device::{EmulatedReplica, NoRecords};
use self::meter::{Measured, Meter, cores};
use super::job::Job;
use super::nodes::run_all;
use super::report::PLACE;
use super::{Options, divide};
use crate::log::Log;
use crate::{Result, ensure};

pub use blueprint::Blueprint;

/// What an emulated device is like.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceSpec {
    /// Times of the net's layers; without it they follow from its operations and bytes.
    pub profile: Option<PathBuf>,
    /// Time of an iteration: all layers' times are scaled to it.
    pub total: Option<Duration>,
    /// Standard deviation of a step's time, as a part of it.
    pub jitter: f64,
    /// Replicas that are slower than the others, and how many times.
    pub slow: Vec<(usize, f64)>,
    /// Of the jitter.
    pub seed: u64,
}

/// By what emulated times are multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Dilation {
    /// As much as it takes to keep the host's processor half idle.
    #[default]
    Auto,
    /// So much.
    By(f64),
}

/// Host load that `Auto` aims at, and the most that it accepts, as parts of all cores. At half of
/// them, threads would already wait for each other.
const AIM: f64 = 0.2;
const MOST: f64 = 0.25;
/// Iterations of a trial, and of them those that do not count.
const TRIAL: u64 = 6;
const WARM: u64 = 2;
/// Trials before `Auto` takes what it has.
const TRIALS: usize = 4;

/// One emulated job.
struct Emulation<'a> {
    config: &'a Config,
    options: &'a Options,
    device: &'a DeviceSpec,
    blueprint: Arc<Blueprint>,
    log: &'a Log,
}

/// Runs the job on emulated devices and tells what came out.
///
/// # Errors
/// What is wrong with net or profile, and the fault that ended the job.
pub(super) fn run(
    job: &Job,
    options: &Options,
    device: &DeviceSpec,
    mut config: Config,
    log: &Log,
) -> Result<()> {
    // Nothing is learned: there is nothing to display, to test or to keep.
    let schedule = &mut config.schedule;
    (schedule.display, schedule.test_interval, schedule.snapshot) = (0, 0, 0);
    schedule.snapshot_after_train = false;
    (schedule.test_batches, schedule.test_cursors) = (Vec::new(), Vec::new());
    let iterations = schedule.max_iter.saturating_sub(schedule.start_iter);
    ensure!(
        iterations >= TRIAL,
        "an emulated run needs at least {TRIAL} iterations to measure anything; max_iter allows \
         {iterations}"
    );
    let plan = job.nets(1)?.train;
    let blueprint = Arc::new(Blueprint::new(&plan, device)?);
    ensure!(blueprint.total > 0.0, "an iteration takes no time; give total= or a profile");
    config.threads = divide(options.workers, options.workers);
    let emulation = Emulation { config: &config, options, device, blueprint, log };
    emulation.announce();
    let dilation = emulation.dilation()?;
    let first = config.schedule.start_iter + WARM;
    // The drain is no part of the pace: a tenth of the iterations, and at least two.
    let last = config.schedule.max_iter - (iterations / 10).max(WARM);
    let (measured, replicas, rounds) = emulation.job(&config, dilation, first..last)?;
    match measured {
        Some(measured) => {
            let rounds = rounds as f64 / iterations as f64;
            emulation.tell(&measured, dilation, replicas, rounds);
        }
        None => log.warning(PLACE, "too few iterations to measure anything; raise max_iter"),
    }
    Ok(())
}

impl Emulation<'_> {
    fn rank0(&self) -> bool {
        caffe_actors::launched().is_none_or(|(rank, _)| rank == 0)
    }

    fn say(&self, text: String) {
        if self.rank0() {
            self.log.info(PLACE, text);
        }
    }

    fn announce(&self) {
        let b = &self.blueprint;
        self.say(format!(
            "emulated device: net {}, {:.1} ms an iteration (forward {:.1} ms), {:.1} MB of \
             gradients in {} buckets; times: {}{}",
            b.net,
            1e3 * b.total,
            1e3 * b.forward,
            1e-6 * b.bytes() as f64,
            b.buckets.len(),
            b.source,
            match self.device.jitter {
                0.0 => String::new(),
                jitter => format!("; jitter {:.1} %", 100.0 * jitter),
            }
        ));
        for (replica, factor) in &self.device.slow {
            self.say(format!("replica {replica} is {factor} times slower"));
        }
    }

    /// The factor for this run.
    fn dilation(&self) -> Result<f64> {
        if let Dilation::By(factor) = self.options.dilate {
            return Ok(factor);
        }
        ensure!(
            caffe_actors::launched().is_none_or(|(_, ranks)| ranks == 1),
            "several ranks cannot choose one dilation: give all of them --dilate=FACTOR"
        );
        let mut factor = 1.0;
        for _ in 0..TRIALS {
            let mut config = self.config.clone();
            config.schedule.max_iter = config.schedule.start_iter + TRIAL;
            config.trace = None;
            let first = config.schedule.start_iter + WARM;
            let window = first..config.schedule.max_iter;
            let (Some(trial), ..) = self.job(&config, factor, window)? else { break };
            if trial.busy <= MOST {
                break;
            }
            // On a busy host rounds become rarer, and so look cheaper than they will be.
            let wanted = trial.host / (AIM * cores() as f64 * self.blueprint.total);
            factor = wanted.max(1.2 * factor);
        }
        Ok(factor)
    }

    /// One run: what was measured, R, and the rounds between nodes.
    fn job(
        &self,
        config: &Config,
        dilation: f64,
        window: std::ops::Range<u64>,
    ) -> Result<(Option<Measured>, usize, u64)> {
        let meter = Arc::new(Meter::new(window));
        let config = Config {
            link: config.link.as_ref().map(|link| link.dilated(dilation)),
            clock: Arc::new(DilatedClock::new(dilation)),
            ..config.clone()
        };
        let (blueprint, device) = (self.blueprint.clone(), self.device.clone());
        let metered = meter.clone();
        let factories = Factories::new(
            move |place| {
                Ok(EmulatedReplica::build(&blueprint, &device, dilation, &metered, place)?)
            },
            |_| Ok(NoRecords),
        );
        let replicas = Arc::new(parking_lot::Mutex::new(0));
        let listener = Listener { replicas: replicas.clone(), log: self.log.clone() };
        let report =
            run_all(&config, self.options.nodes, &factories, Box::new(listener), self.log)?;
        let replicas = *replicas.lock();
        Ok((meter.measured(), replicas, report.rounds))
    }

    fn tell(&self, measured: &Measured, dilation: f64, replicas: usize, rounds: f64) {
        let Measured { rate, cycle, compute, host, busy, .. } = *measured;
        // Of several processes each measures its own replicas.
        let all = replicas as f64 / measured.replicas.max(1) as f64;
        let speedup = rate * all * self.blueprint.total * dilation;
        let ms = |seconds: f64| 1e3 * seconds / dilation;
        self.say(format!(
            "dilated {dilation:.2} times: the host's work took {:.1} % of its {} cores{}",
            100.0 * busy,
            cores(),
            if busy > 0.5 { ", which is too much to trust the rest; raise --dilate" } else { "" }
        ));
        self.say(format!(
            "speed-up {speedup:.2} of {replicas} ({:.1} %); an iteration takes {:.1} ms, of it \
             {:.1} ms compute and {:.1} ms exposed",
            100.0 * speedup / replicas as f64,
            ms(cycle),
            ms(compute),
            ms(cycle - compute)
        ));
        self.say(format!(
            "host: {:.1} ms of processor time (undilated) for an iteration of {} replicas; \
             {rounds:.2} rounds between nodes an iteration",
            1e3 * host,
            measured.replicas
        ));
    }
}

/// Learns R, passes warnings on.
struct Listener {
    replicas: Arc<parking_lot::Mutex<usize>>,
    log: Log,
}

impl Observer for Listener {
    fn started(&mut self, started: &Started) {
        *self.replicas.lock() = started.workers.iter().sum();
    }

    fn warning(&mut self, text: &str) {
        self.log.warning(PLACE, text);
    }
}
