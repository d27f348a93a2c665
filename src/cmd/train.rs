//! `caffe train`: flags of a training run. The run itself is [`crate::trainer`]'s.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use caffe_proto::solver_from_file;
use caffe_proto::solver_parameter::SolverMode;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::{emulated, gpu, host};
use crate::log::Log;
use crate::trainer::observe::prometheus;
use crate::trainer::{
    self, BatchMeaning, Best, DeviceSpec, Dilation, Effect, Effects, Keep, Link, LrScaling, Mode,
    OnNan, Options, Tuning, Wire,
};
use crate::{Error, Result, ensure};

const EXAMPLES: &str = "\
Examples:
  caffe train -solver lenet_solver.prototxt
  caffe train -solver solver.prototxt -weights bvlc_googlenet.caffemodel
  caffe train -solver solver.prototxt -snapshot lenet_iter_5000.solverstate
  caffe train --solver=solver.prototxt --resume=auto --keep-last=3 --keep-best=accuracy
  mpirun -n 4 caffe train --solver=solver.prototxt --mode=sync --batch=global
  caffe train --solver=solver.prototxt --workers=2 --trace=trace
  caffe train --solver=solver.prototxt --nodes=4 --workers=4 --device=emulated:total=310ms,jitter=2% \
    --link=latency=1.5us,bandwidth=56Gb/s";

/// Train a model, or go on training one, on one node or under mpirun on many
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct TrainArgs {
    /// The solver, a prototxt
    #[arg(long, value_name = "FILE")]
    pub solver: PathBuf,
    /// Go on from this .solverstate
    #[arg(long, value_name = "FILE")]
    pub snapshot: Option<PathBuf>,
    /// Go on from the newest whole snapshot under the solver's snapshot_prefix (auto), or from this
    /// .solverstate
    #[arg(long, value_name = "auto|FILE", conflicts_with = "snapshot")]
    pub resume: Option<PathBuf>,
    /// Keep the last N snapshots and delete older ones of this snapshot_prefix
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub keep_last: Option<u64>,
    /// Keep also the snapshot with the best value of this output of a test net
    #[arg(long, value_name = "OUTPUT[:min|max]")]
    pub keep_best: Option<Best>,
    /// What a loss or gradient that is no finite number does: stop, skip (drop that update) or
    /// rollback[:N] (drop it and take the newest snapshot, at most N times)
    #[arg(long, value_name = "WHAT", default_value_t = OnNan::Stop)]
    pub on_nan: OnNan,
    /// Begin with these weights (.caffemodel), copied by layer name
    #[arg(long, value_name = "FILES", value_delimiter = ',')]
    pub weights: Vec<PathBuf>,
    /// Devices: `all` or numbers such as 0,1; left out: the CPU
    #[arg(long, value_name = "IDS", default_value = "", hide_default_value = true)]
    pub gpu: String,
    /// Level for the nets' include and exclude rules
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub level: i32,
    /// Stages for the nets' include and exclude rules
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub stage: Vec<String>,
    /// What SIGINT does: stop (after a snapshot), snapshot (and go on), none
    #[arg(long = "sigint_effect", value_name = "EFFECT", value_parser = effect())]
    #[arg(default_value = "stop", hide_possible_values = true)]
    pub sigint_effect: Effect,
    /// What SIGHUP does: stop, snapshot or none
    #[arg(long = "sighup_effect", value_name = "EFFECT", value_parser = effect())]
    #[arg(default_value = "snapshot", hide_possible_values = true)]
    pub sighup_effect: Effect,
    /// What SIGUSR1 does, which mpirun passes on to all ranks: stop, snapshot or none
    #[arg(long = "sigusr1_effect", value_name = "EFFECT", value_parser = effect())]
    #[arg(default_value = "snapshot", hide_possible_values = true)]
    pub sigusr1_effect: Effect,
    /// How replicas share what they learn: sync, hogwild, ssp or local-sgd
    #[arg(long, value_parser = mode(), default_value = "hogwild", hide_possible_values = true)]
    pub mode: ModeName,
    /// In ssp: by how many iterations replicas may be apart
    #[arg(long, value_name = "S", default_value_t = 3)]
    pub staleness: u64,
    /// In local-sgd: iterations from one average of the nodes' weights to the next
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    pub exchange_every: u64,
    /// In hogwild, compute at where the weights will be, allowing for what the other replicas push
    /// meanwhile: 1 for all of it, 0 for nothing
    #[arg(long, value_name = "PART", default_value_t = 1.0, value_parser = look_ahead)]
    pub look_ahead: f32,
    /// Number format of what ranks send each other: f32, bf16 or fp16 (half the bytes; what rounding
    /// takes is sent later)
    #[arg(long, value_name = "FORMAT", value_parser = wire())]
    #[arg(default_value = "f32", hide_possible_values = true)]
    pub wire: Wire,
    /// How the learning rate grows with the number of replicas: none, linear or sqrt
    #[arg(long, value_parser = scaling(), default_value = "none", hide_possible_values = true)]
    pub lr_scaling: LrScaling,
    /// Iterations over which the rate rises to its full height
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub warmup_iters: u64,
    /// Momentum of replicas in hogwild and ssp [default: the solver's]
    #[arg(long, value_name = "M")]
    pub async_momentum: Option<f32>,
    /// Seconds of silence after which a rank is named in a warning
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    pub stall_warning: u64,
    /// Seconds of silence of a rank after which the job ends; 0: never
    #[arg(long, value_name = "S", default_value_t = 300)]
    pub stall_timeout: u64,
    /// Replicas in this process
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub workers: u16,
    /// Nodes inside this process, with K replicas each, in place of ranks under mpirun
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub nodes: u16,
    /// Emulate a link between nodes: latency=1.5us,bandwidth=56Gb/s,jitter=2%,lose=RANK@20s,seed=N
    #[arg(long, value_name = "LINK", value_parser = emulated::link)]
    pub link: Option<Link>,
    /// What replicas compute on: cpu, or emulated, which waits as long as a device of that speed
    /// would compute: emulated:FILE,total=310ms,jitter=2%,slow=REPLICA:FACTOR,seed=N. FILE is what
    /// `caffe time --profile` writes; without it times follow from operations and bytes
    #[arg(long, value_name = "DEVICE", value_parser = device, default_value = "cpu")]
    pub device: Device,
    /// With --device=emulated, multiply emulated times, so that this host's own work is small beside
    /// them: a factor, or auto (less than half of its processor)
    #[arg(long, value_name = "FACTOR", value_parser = emulated::dilation, default_value = "auto")]
    pub dilate: Dilation,
    /// CPU threads of this process, divided among its workers [default: this host's cores, divided
    /// among the ranks on it]
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Threads of this process that read and decode records [default: 1, or the number of CPU
    /// threads when images have to be decoded]
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u16).range(1..))]
    pub readers: Option<u16>,
    /// Read databases in another order every epoch: a function of random_seed, so runs resume where
    /// they stood
    #[arg(long)]
    pub shuffle: bool,
    /// Whose the net's batch_size is: each replica's, as in Caffe, or the whole job's (global)
    #[arg(long, value_name = "WHOSE", value_parser = batch())]
    #[arg(default_value = "replica", hide_possible_values = true)]
    pub batch: BatchMeaning,
    /// Plain computations only, for bit-comparisons
    #[arg(long)]
    pub exact: bool,
    /// Write a Chrome trace of every rank into this folder, for ui.perfetto.dev
    #[arg(long, value_name = "DIR")]
    pub trace: Option<PathBuf>,
    /// Folder for black boxes: the last events of every actor of every rank, removed at a good end
    /// [default: caffe-blackbox in the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    pub blackbox: Option<PathBuf>,
    /// Show every layer in the trace
    #[arg(long)]
    pub trace_layers: bool,
    /// Write into this folder, for every replica, which records it trains on: a line for each batch,
    /// its number and the records' keys
    #[arg(long, value_name = "DIR")]
    pub log_records: Option<PathBuf>,
    /// A file for the run's numbers: a line of JSON for each display, test and snapshot
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,
    /// A folder for an event file that TensorBoard shows
    #[arg(long, value_name = "DIR")]
    pub tensorboard: Option<PathBuf>,
    /// Serve the numbers to Prometheus: a port of this host, or an address to listen on
    #[arg(long, value_name = "ADDR", value_parser = prometheus::address)]
    pub prometheus: Option<SocketAddr>,
}

/// Among several ranks an error says whose it is; a fault does so already.
fn of_this_rank(error: Error) -> Error {
    match caffe_actors::launched() {
        Some((rank, ranks)) if ranks > 1 && !matches!(error, Error::Fault(_)) => {
            Error::Invalid(format!("rank {rank}: {error}"))
        }
        _ => error,
    }
}

/// Reads one of some names as the value that belongs to it.
fn one_of<T: Copy + Send + Sync + 'static, const N: usize>(
    known: [(&'static str, T); N],
) -> impl TypedValueParser<Value = T> {
    let names = known.map(|(name, _)| name);
    PossibleValuesParser::new(names).try_map(move |name| {
        let found = known.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| *value).ok_or("unknown name")
    })
}

fn effect() -> impl TypedValueParser<Value = Effect> {
    one_of([("stop", Effect::Stop), ("snapshot", Effect::Snapshot), ("none", Effect::None)])
}

/// A mode without its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModeName {
    /// [`Mode::Sync`]
    Sync,
    /// [`Mode::Hogwild`]
    Hogwild,
    /// [`Mode::Ssp`]
    Ssp,
    /// [`Mode::LocalSgd`]
    LocalSgd,
}

fn mode() -> impl TypedValueParser<Value = ModeName> {
    use ModeName::{Hogwild, LocalSgd, Ssp, Sync};
    one_of([("sync", Sync), ("hogwild", Hogwild), ("ssp", Ssp), ("local-sgd", LocalSgd)])
}

fn scaling() -> impl TypedValueParser<Value = LrScaling> {
    use LrScaling::{Linear, None, Sqrt};
    one_of([("none", None), ("linear", Linear), ("sqrt", Sqrt)])
}

fn look_ahead(text: &str) -> std::result::Result<f32, String> {
    let part: f32 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if (0.0..=4.0).contains(&part) { Ok(part) } else { Err("must lie in 0..4".to_owned()) }
}

/// `--device`; clap would take an `Option` for a flag that may be left out.
#[derive(Clone, Debug)]
pub struct Device(pub Option<DeviceSpec>);

/// Reads `--device`.
pub(super) fn device(text: &str) -> std::result::Result<Device, String> {
    emulated::device(text).map(Device)
}

fn wire() -> impl TypedValueParser<Value = Wire> {
    one_of([("f32", Wire::F32), ("bf16", Wire::Bf16), ("fp16", Wire::Fp16)])
}

fn batch() -> impl TypedValueParser<Value = BatchMeaning> {
    one_of([("replica", BatchMeaning::Replica), ("global", BatchMeaning::Global)])
}

impl TrainArgs {
    /// Trains.
    ///
    /// # Errors
    /// Wrong flags, everything wrong with solver, nets and data, and the fault that ended the job.
    pub fn run(self, log: &Log) -> Result<()> {
        gpu::refuse(&self.gpu)?;
        ensure!(
            self.device.0.is_some() || self.dilate == Dilation::Auto,
            "--dilate belongs to --device=emulated: real devices cannot be slowed down"
        );
        self.warn_of_settings(log)?;
        trainer::run(&self.into(), log).map_err(of_this_rank)
    }

    /// Settings of the solver file that change nothing here; they are common, and training goes as
    /// well without.
    fn warn_of_settings(&self, log: &Log) -> Result<()> {
        let solver = solver_from_file(&self.solver)?.solver;
        if caffe_actors::launched().is_some_and(|(rank, _)| rank != 0) {
            return Ok(());
        }
        let file = self.solver.display();
        if solver.solver_mode.is_some() && solver.solver_mode() == SolverMode::Gpu {
            let text = "solver_mode is GPU, but this version computes on the CPU: training there";
            log.warning("caffe.cpp:218", format!("{file}: {text}"));
        }
        if solver.debug_info() {
            let text =
                "debug_info prints nothing here; `--trace=DIR --trace-layers` shows every layer";
            log.warning("solver.cpp:81", format!("{file}: {text}"));
        }
        Ok(())
    }
}

impl From<TrainArgs> for Options {
    fn from(args: TrainArgs) -> Self {
        Options {
            solver: args.solver,
            weights: args.weights,
            resume_auto: args.resume.as_deref() == Some(Path::new("auto")),
            snapshot: args.snapshot.or(args.resume.filter(|resume| resume != Path::new("auto"))),
            level: args.level,
            stages: args.stage,
            mode: match args.mode {
                ModeName::Sync => Mode::Sync,
                ModeName::Hogwild => Mode::Hogwild,
                ModeName::Ssp => Mode::Ssp { staleness: args.staleness },
                ModeName::LocalSgd => Mode::LocalSgd { every: args.exchange_every },
            },
            look_ahead: args.look_ahead,
            wire: args.wire,
            tuning: Tuning {
                scaling: args.lr_scaling,
                warmup: args.warmup_iters,
                async_momentum: args.async_momentum,
            },
            stall_warning: Duration::from_secs(args.stall_warning),
            stall_timeout: Duration::from_secs(args.stall_timeout),
            nodes: args.nodes.into(),
            link: args.link,
            device: args.device.0,
            dilate: args.dilate,
            workers: args.workers.into(),
            threads: args.threads.map_or_else(host::own_cores, usize::from),
            readers: args.readers.map(usize::from),
            shuffle: args.shuffle,
            exact: args.exact,
            batch: args.batch,
            trace: args.trace,
            black_box: args.blackbox.unwrap_or_else(trainer::black_box_folder),
            trace_layers: args.trace_layers,
            effects: Effects {
                sigint: args.sigint_effect,
                sighup: args.sighup_effect,
                sigusr1: args.sigusr1_effect,
            },
            keep: Keep { last: args.keep_last.map(|n| n as usize), best: args.keep_best },
            on_nan: args.on_nan,
            log_records: args.log_records,
            record: true,
            metrics: args.metrics,
            tensorboard: args.tensorboard,
            prometheus: args.prometheus,
        }
    }
}
