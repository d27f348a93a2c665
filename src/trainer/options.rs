//! What to train and how: [`Options`].

use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use caffe_actors::{Digest, Identity};

use super::{DeviceSpec, Dilation, Effects, Keep, Link, Mode, OnNan, Tuning, Wire};
use crate::device::cuda::Choice;
use crate::solver::LossScale;
use crate::{Result, ensure};

/// What a train net's batch_size means when there are several replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BatchMeaning {
    /// Each replica's batch, as in Caffe.
    #[default]
    Replica,
    /// The whole job's batch; each replica takes its part.
    Global,
}

impl BatchMeaning {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            BatchMeaning::Replica => "replica",
            BatchMeaning::Global => "global",
        }
    }
}

/// What to train and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The solver prototxt.
    pub solver: PathBuf,
    /// Weights to start from, by layer name.
    pub weights: Vec<PathBuf>,
    /// A `.solverstate` to resume from.
    pub snapshot: Option<PathBuf>,
    /// Resume from the newest whole snapshot under the solver's prefix, if there is one.
    pub resume_auto: bool,
    /// Level for include/exclude rules.
    pub level: i32,
    /// Stages for include/exclude rules.
    pub stages: Vec<String>,
    /// How replicas share what they learn.
    pub mode: Mode,
    /// How much of what they cannot see replicas allow for, in hogwild: 1 all, 0 nothing.
    pub look_ahead: f32,
    /// Number format of what ranks send each other.
    pub wire: Wire,
    /// What several replicas change in the solver.
    pub tuning: Tuning,
    /// A peer or device that is silent for so long is named in a warning.
    pub stall_warning: Duration,
    /// A peer that is silent for so long ends the job; zero: never.
    pub stall_timeout: Duration,
    /// Nodes of a job inside this process.
    pub nodes: usize,
    /// A link to emulate between nodes.
    pub link: Option<Link>,
    /// Devices to emulate instead of computing.
    pub device: Option<DeviceSpec>,
    /// By what emulated times are multiplied.
    pub dilate: Dilation,
    /// Device actors of each node of this process.
    pub workers: usize,
    /// The CUDA device of each of them; empty: they compute on the CPU.
    pub cuda: Vec<Choice>,
    /// Passes that repeat become CUDA graphs.
    pub graphs: bool,
    /// Layers without code for these compute on the CPU, instead of being refused.
    pub cpu_fallback: bool,
    /// CPU threads of this process, divided among its workers.
    pub threads: usize,
    /// Threads of this process that read and decode records; left out: one, or as many as compute
    /// when images have to be decoded.
    pub readers: Option<usize>,
    /// Read databases in another order every epoch.
    pub shuffle: bool,
    /// Plain path only, for bit-comparisons.
    pub exact: bool,
    /// What batch_size means.
    pub batch: BatchMeaning,
    /// Folder for a Chrome trace of every rank.
    pub trace: Option<PathBuf>,
    /// Folder for the black box of every rank.
    pub black_box: PathBuf,
    /// A span for every layer in the trace.
    pub trace_layers: bool,
    /// What signals do.
    pub effects: Effects,
    /// Which snapshots stay.
    pub keep: Keep,
    /// What a loss or gradient that is no finite number does.
    pub on_nan: OnNan,
    /// What the loss is multiplied by; left out: what the devices' numbers need.
    pub loss_scale: Option<LossScale>,
    /// Folder for a list of the records that every replica trains on.
    pub log_records: Option<PathBuf>,
    /// Record what every thread does. Off only to measure what it costs.
    pub record: bool,
    /// A file for the run's numbers, as JSON lines.
    pub metrics: Option<PathBuf>,
    /// A folder for an event file of TensorBoard.
    pub tensorboard: Option<PathBuf>,
    /// Where Prometheus may ask for the numbers.
    pub prometheus: Option<SocketAddr>,
}

impl Options {
    /// Caffe's defaults for a solver file: one worker on one thread.
    pub fn new(solver: impl Into<PathBuf>) -> Self {
        Options {
            solver: solver.into(),
            weights: Vec::new(),
            snapshot: None,
            resume_auto: false,
            level: 0,
            stages: Vec::new(),
            mode: Mode::Hogwild,
            look_ahead: 1.0,
            wire: Wire::F32,
            tuning: Tuning::default(),
            stall_warning: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(300),
            nodes: 1,
            link: None,
            device: None,
            dilate: Dilation::Auto,
            workers: 1,
            cuda: Vec::new(),
            graphs: true,
            cpu_fallback: false,
            threads: 1,
            readers: None,
            shuffle: false,
            exact: false,
            batch: BatchMeaning::Replica,
            trace: None,
            black_box: black_box_folder(),
            trace_layers: false,
            effects: Effects::default(),
            keep: Keep::default(),
            on_nan: OnNan::default(),
            loss_scale: None,
            log_records: None,
            record: true,
            metrics: None,
            tensorboard: None,
            prometheus: None,
        }
    }
}

impl Options {
    /// A worker for each of these devices; without any, workers compute on the CPU.
    ///
    /// # Errors
    /// When workers or devices have been asked for otherwise.
    pub fn compute_on(&mut self, devices: Vec<Choice>) -> Result<()> {
        if devices.is_empty() {
            return Ok(());
        }
        ensure!(self.device.is_none(), "--gpu and --device=emulated do not go together");
        ensure!(
            self.workers == 1 || self.workers == devices.len(),
            "--gpu names {} device(s) for {} workers; name one for each, as in --gpu=0,0",
            devices.len(),
            self.workers
        );
        self.workers = devices.len();
        self.cuda = devices;
        Ok(())
    }
}

/// Where black boxes are, unless told otherwise.
pub fn black_box_folder() -> PathBuf {
    std::env::temp_dir().join("caffe-blackbox")
}

impl Options {
    /// What is emulated, which all ranks must agree on.
    pub(super) fn emulated(&self) -> Identity {
        let mut digest = Digest::default();
        format!("{:?} {:?} {:?}", self.link, self.device, self.dilate).hash(&mut digest);
        Identity { what: "--link, --device or --dilate".into(), hash: digest.finish() }
    }
}
