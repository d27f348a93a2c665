//! `caffe train`: flags of a training run. The run itself is [`crate::trainer`]'s.
//!
//! [`TrainArgs`] has what every run needs; the other flags stand in groups, as in `--help`:
//! [`sharing`], [`resources`], [`lasting`], [`seeing`].

mod lasting;
mod resources;
mod seeing;
mod sharing;

use std::path::PathBuf;

use caffe_proto::solver_from_file;
use caffe_proto::solver_parameter::SolverMode;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use self::lasting::Lasting;
use self::resources::Resources;
use self::seeing::Seeing;
use self::sharing::Sharing;
use super::gpu::GpuArgs;
use crate::device::cuda::Choice;
use crate::log::Log;
use crate::solver::LossScale;
use crate::trainer::{self, Options};
use crate::{Error, Result};

pub(super) use self::resources::{Device, device};

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
    /// Begin with these weights (.caffemodel), copied by layer name
    #[arg(long, value_name = "FILES", value_delimiter = ',')]
    pub weights: Vec<PathBuf>,
    /// Level for the nets' include and exclude rules
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub level: i32,
    /// Stages for the nets' include and exclude rules
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub stage: Vec<String>,
    /// Read databases in another order every epoch: a function of random_seed, so runs resume where
    /// they stood
    #[arg(long)]
    pub shuffle: bool,
    /// Plain computations only, for bit-comparisons
    #[arg(long)]
    pub exact: bool,
    #[command(flatten)]
    lasting: Lasting,
    #[command(flatten)]
    sharing: Sharing,
    #[command(flatten)]
    resources: Resources,
    #[command(flatten)]
    gpu: GpuArgs,
    /// What the loss is multiplied by before it is differentiated, so that small gradients survive in 16
    /// bits: dynamic (as large as goes without overflow) or a number [default: dynamic in fp16, else 1]
    #[arg(long, value_name = "dynamic|N", help_heading = "GPU")]
    pub loss_scale: Option<LossScale>,
    /// Ask the GPU for every layer by itself; passes that repeat are CUDA graphs otherwise
    #[arg(long, help_heading = "GPU")]
    pub no_cuda_graphs: bool,
    #[command(flatten)]
    seeing: Seeing,
}

impl TrainArgs {
    /// Trains.
    ///
    /// # Errors
    /// Wrong flags, everything wrong with solver, nets and data, and the fault that ended the job.
    pub fn run(self, log: &Log) -> Result<()> {
        let devices = self.gpu.choices()?;
        self.warn_of_settings(log)?;
        trainer::run(&self.options(devices)?, log).map_err(of_this_rank)
    }

    fn options(self, devices: Vec<Choice>) -> Result<Options> {
        let mut options = Options::new(self.solver);
        options.weights = self.weights;
        options.level = self.level;
        options.stages = self.stage;
        options.shuffle = self.shuffle;
        options.exact = self.exact;
        options.loss_scale = self.loss_scale;
        options.graphs = !self.no_cuda_graphs;
        self.lasting.apply(&mut options);
        self.sharing.apply(&mut options);
        self.resources.apply(&mut options)?;
        options.cpu_fallback = self.gpu.allow_cpu_fallback;
        options.compute_on(devices)?;
        self.seeing.apply(&mut options);
        Ok(options)
    }

    /// Settings of the solver file that change nothing here; they are common, and training goes as
    /// well without.
    fn warn_of_settings(&self, log: &Log) -> Result<()> {
        let solver = solver_from_file(&self.solver)?.solver;
        if caffe_actors::launched().is_some_and(|(rank, _)| rank != 0) {
            return Ok(());
        }
        let file = self.solver.display();
        let asks = solver.solver_mode.is_some() && solver.solver_mode() == SolverMode::Gpu;
        if asks && self.gpu.gpu.is_empty() {
            let text = "solver_mode is GPU, but no --gpu names a device: training on the CPU";
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
