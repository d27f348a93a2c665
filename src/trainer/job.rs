//! The job: everything that is equal for all replicas, settled before any of them is built.

use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use caffe_actors::{Digest, Mode, Schedule, SnapshotRequest, Wire};
use caffe_proto::{SolverParameter, solver_from_file};

use super::algorithms::Told;
use super::device_memory::DeviceMemory;
use super::equivalence::batch_mixing;
use super::signals::Busy;
use super::tuning::Tuning;
use super::{BatchMeaning, OnNan, Options};
use crate::data::Reading;
use crate::data::readers::batch_size_mut;
use crate::device::cuda::clique::Clique;
use crate::device::cuda::{Choice, Kind};
use crate::net::is_included;
use crate::snapshot::{self, Keeper, Meaning, Resumed, Sidecar};
use crate::solver::{
    DataLayers, LossScale, LrPolicy, NetPlans, Ramp, Solver, Value, test_cursors_at,
};
use crate::{Result, bail, ensure};

/// What all replicas of a job share.
pub struct Job {
    /// The solver prototxt, upgraded.
    pub solver: SolverParameter,
    /// Its nets, as written.
    pub(super) plans: NetPlans,
    /// What reading the files changed in them.
    pub changes: Vec<String>,
    /// Seed of everything random.
    pub seed: u64,
    /// Whether databases are read in another order every epoch.
    pub shuffle: bool,
    /// Plain path only.
    pub exact: bool,
    /// The CUDA device of each worker of a node; empty: the CPU.
    pub cuda: Vec<Choice>,
    /// These devices, where they add gradients up among themselves.
    pub clique: Option<Arc<Clique>>,
    /// What these devices' memory is needed for.
    pub device_memory: DeviceMemory,
    /// What the job's first replica has to say of its algorithms.
    pub algorithms: OnceLock<Told>,
    /// Passes that repeat become CUDA graphs there.
    pub graphs: bool,
    /// Whether they have, in words.
    pub about_graphs: OnceLock<String>,
    /// Layers without code for these compute on the CPU.
    pub cpu_fallback: bool,
    /// How replicas share what they learn.
    pub mode: Mode,
    /// Whether batch_size is a replica's or the job's.
    batch: BatchMeaning,
    /// What several replicas change in the solver.
    tuning: Tuning,
    /// What a loss or gradient that is no finite number does.
    pub on_nan: OnNan,
    /// What the loss is multiplied by before it is differentiated.
    pub loss_scale: LossScale,
    pub(super) weights: Vec<PathBuf>,
    pub(super) snapshot: Option<PathBuf>,
    /// Number format between ranks.
    wire: Wire,
    /// Where replicas list their records.
    pub log_records: Option<PathBuf>,
    /// Where the run resumes.
    pub resumed: Resumed,
    /// What `--resume=auto` has found and passed over, for the log.
    pub search: Vec<String>,
    /// Decides which snapshots stay.
    pub keeper: Keeper,
    /// Whether snapshot files are being written.
    pub writing: Busy,
    /// Names of the nets' outputs, from the first replica that is built.
    names: OnceLock<OutputNames>,
}

/// Names and loss weights of outputs, value by value.
#[derive(Clone, Debug, Default)]
pub struct OutputNames {
    /// Of the train net.
    pub train: Vec<Value>,
    /// Of each test net.
    pub tests: Vec<Vec<Value>>,
}

impl Job {
    /// Reads solver, nets and the position to resume from, and checks what can be checked without
    /// building a net.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(options: &Options) -> Result<Job> {
        let file = solver_from_file(&options.solver)?;
        let solver = file.solver;
        let (snapshot, search) = resume_from(options, solver.snapshot_prefix())?;
        // Found by itself a snapshot goes before the weights that the first run began with.
        ensure!(
            options.weights.is_empty() || options.snapshot.is_none(),
            "give a snapshot to resume from, or weights to start from, not both"
        );
        let plans = NetPlans::read(&solver, options.level, &options.stages)?;
        let mut changes: Vec<String> = file.changes.iter().map(ToString::to_string).collect();
        changes.extend(plans.changes.iter().cloned());
        let mut weights = match snapshot {
            Some(_) => Vec::new(),
            None => options.weights.clone(),
        };
        if weights.is_empty() && snapshot.is_none() {
            weights = solver.weights.iter().flat_map(|w| w.split(',')).map(PathBuf::from).collect();
        }
        for path in &weights {
            snapshot::read_weights(path)?;
        }
        let resumed = match &snapshot {
            Some(path) => Resumed::peek(path)?,
            None => Resumed::default(),
        };
        let kind = options.cuda.first().map_or(Kind::F32, Choice::kind);
        Ok(Job {
            keeper: Keeper::open(solver.snapshot_prefix(), options.keep.clone())?,
            writing: Busy::default(),
            search,
            seed: seed_of(&solver),
            solver,
            plans,
            changes,
            shuffle: options.shuffle,
            exact: options.exact,
            cuda: options.cuda.clone(),
            clique: match options.mode {
                Mode::Sync | Mode::LocalSgd { .. } => Clique::of(&options.cuda)?,
                Mode::Hogwild | Mode::Ssp { .. } => None,
            },
            device_memory: DeviceMemory::default(),
            algorithms: OnceLock::new(),
            graphs: options.graphs,
            about_graphs: OnceLock::new(),
            cpu_fallback: options.cpu_fallback,
            mode: options.mode,
            batch: options.batch,
            tuning: options.tuning,
            on_nan: options.on_nan,
            loss_scale: options.loss_scale.unwrap_or(LossScale::usual(kind)),
            wire: options.wire,
            log_records: options.log_records.clone(),
            weights,
            snapshot,
            resumed,
            names: OnceLock::new(),
        })
    }

    /// The solver that each of so many replicas runs.
    ///
    /// # Errors
    /// A momentum that makes no sense.
    pub fn solver_of(&self, replicas: usize) -> Result<SolverParameter> {
        self.tuning.apply(&self.solver, self.mode, replicas)
    }

    /// The warm-up of a job of so many replicas.
    pub fn ramp(&self, replicas: usize) -> Ramp {
        self.tuning.ramp(replicas)
    }

    /// Layers of the train net that see a replica's batch as a whole, and why that matters.
    pub fn batch_mixing(&self) -> Vec<(String, &'static str)> {
        batch_mixing(&self.plans.train.param)
    }

    /// The nets for a job of so many replicas: with `--batch=global` each takes its part of the
    /// train batch.
    ///
    /// # Errors
    /// A batch that cannot be divided.
    pub fn nets(&self, replicas: usize) -> Result<NetPlans> {
        let mut plans = self.plans.clone();
        if self.batch == BatchMeaning::Replica {
            return Ok(plans);
        }
        for layer in &mut plans.train.param.layer {
            if !is_included(layer, &plans.train.state)? {
                continue;
            }
            let name = layer.name().to_owned();
            if let Some(batch_size) = batch_size_mut(layer) {
                let all = *batch_size;
                ensure!(
                    all > 0 && (all as usize).is_multiple_of(replicas),
                    "layer `{name}`: batch_size {all} cannot be divided among {replicas} replicas; \
                     use --batch=replica or another batch_size"
                );
                *batch_size = all / replicas as u32;
            }
        }
        Ok(plans)
    }

    /// Data layers of the train net and of each test net.
    ///
    /// # Errors
    /// Contradictory rules in a net, or a batch that cannot be divided.
    pub fn data(&self, replicas: usize) -> Result<(DataLayers, Vec<DataLayers>)> {
        let plans = self.nets(replicas)?;
        let tests = plans.test.iter().map(DataLayers::of).collect::<Result<_>>()?;
        Ok((DataLayers::of(&plans.train)?, tests))
    }

    /// How its data layers read, with so many threads to decode.
    pub fn reading(&self, threads: usize) -> Reading {
        Reading { seed: self.seed, threads, shuffle: self.shuffle, raw: !self.cuda.is_empty() }
    }

    /// Whether the train net's records are images to be decoded. What cannot be opened is not; its
    /// reader will say why.
    pub fn decodes(&self) -> bool {
        let reading = Reading::new(self.seed);
        let source = DataLayers::of(&self.plans.train).and_then(|layers| layers.open(reading));
        source.is_ok_and(|source| source.decodes())
    }

    /// Gives a freshly built replica its weights, or the state to resume from.
    ///
    /// # Errors
    /// Files that do not fit the net or the solver.
    pub fn load(&self, solver: &mut Solver, replica: usize, replicas: usize) -> Result<()> {
        if let Some(path) = &self.snapshot {
            restore(solver, path, replica, replicas)?;
        }
        for path in &self.weights {
            snapshot::copy_weights(solver.net(), path)?;
        }
        let names = self.names.get_or_init(|| names_of(solver));
        if let Some(output) = self.keeper.output() {
            let mut known = names.tests.iter().flatten().map(|value| value.name.as_str());
            ensure!(
                known.any(|name| name == output),
                "--keep-best={output}: no test net has an output of this name; there are: {}",
                names
                    .tests
                    .iter()
                    .flatten()
                    .map(|v| v.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", ")
            );
        }
        Ok(())
    }

    /// Takes a replica back to the newest whole snapshot; which one that is.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn reload(&self, solver: &mut Solver, replica: usize, replicas: usize) -> Result<String> {
        let prefix = self.solver.snapshot_prefix();
        let Some(found) = snapshot::find::newest(prefix)?.found else {
            bail!("--on-nan=rollback: there is no whole snapshot under \"{prefix}\" to go back to")
        };
        restore(solver, &found.paths.state, replica, replicas)?;
        Ok(found.paths.state.display().to_string())
    }

    /// Name of the train net.
    pub fn net_name(&self) -> &str {
        self.plans.train.param.name()
    }

    /// Names of the outputs; empty before the first replica is built.
    pub fn names(&self) -> OutputNames {
        self.names.get().cloned().unwrap_or_default()
    }

    /// Whether replicas keep histories of their own, which a mean cannot replace.
    pub fn keeps_own_histories(&self) -> bool {
        !self.mode.shares_history()
    }

    /// What to add to a train ticket so that the run goes on at the record where the resumed one
    /// stood, in units of today's batches (rounded up: no record is seen twice).
    pub fn ticket_offset(&self, replicas: usize, batch: u64) -> i64 {
        let Some(sidecar) = &self.resumed.sidecar else { return 0 };
        if batch == 0 {
            return 0;
        }
        let passes = self.solver.iter_size() as u64;
        let stood = (sidecar.ticket * sidecar.batch as u64).div_ceil(batch);
        stood as i64 - (self.resumed.iter * replicas as u64 * passes) as i64
    }

    /// What is not as it was in the run that this one resumes, in words.
    pub fn changed_since(&self, replicas: usize, batch: usize) -> Vec<String> {
        let Some(old) = &self.resumed.sidecar else {
            return vec![
                "the state has no sidecar: records go on at its iteration's ticket".into(),
            ];
        };
        let mut lines = Vec::new();
        if old.replicas != replicas {
            let history = match old.histories.is_empty() {
                true => "all take the one history there is",
                false => "each takes the mean of their histories",
            };
            lines.push(format!(
                "the snapshot is of {} replica(s), this job has {replicas}: {history}; an iteration \
                 has {} records instead of {}",
                old.replicas,
                batch * replicas,
                old.batch * old.replicas
            ));
        }
        if old.batch != batch {
            lines.push(format!("a replica's batch is {batch}; it was {}", old.batch));
        }
        if old.mode != self.mode.to_string() {
            lines.push(format!("mode {}; it was {}", self.mode, old.mode));
        }
        if old.seed != self.seed {
            lines.push(format!("the seed is {}; it was {}", self.seed, old.seed));
        }
        lines
    }

    /// What batch_size and base_lr have come to mean, at an iteration.
    pub fn meaning(&self, iter: u64, replicas: usize, batch: usize) -> Meaning {
        let policy = self.solver_of(replicas).and_then(|solver| LrPolicy::new(&solver));
        Meaning {
            batch_of: self.batch.name().into(),
            records_per_iter: batch * replicas * self.solver.iter_size().max(1) as usize,
            lr: policy.map_or(0.0, |policy| policy.ramped(self.ramp(replicas)).rate(iter)),
            lr_scaling: self.tuning.scaling.name().into(),
            lr_factor: self.tuning.factor(replicas),
            warmup_iters: self.tuning.warmup,
            wire: self.wire.to_string(),
        }
    }

    /// The sidecar of a snapshot, histories apart.
    pub fn sidecar(&self, request: &SnapshotRequest<'_>, batch: usize, offset: i64) -> Sidecar {
        Sidecar {
            iter: request.iter,
            ticket: request.ticket.saturating_add_signed(offset),
            test_cursors: request.test_cursors.to_vec(),
            replicas: request.replicas,
            batch,
            mode: self.mode.to_string(),
            solver: self.solver.r#type().to_owned(),
            seed: self.seed,
            meaning: Some(self.meaning(request.iter, request.replicas, batch)),
            ..Default::default()
        }
    }

    /// When things happen.
    pub fn schedule(&self) -> Schedule {
        let s = &self.solver;
        let at_least_0 = |n: i32| n.max(0) as u64;
        let nets = s.test_iter.len();
        let cursors = self.resumed.sidecar.as_ref().map(|c| c.test_cursors.clone());
        Schedule {
            start_iter: self.resumed.iter,
            max_iter: at_least_0(s.max_iter()),
            iter_size: s.iter_size().max(1) as usize,
            display: at_least_0(s.display()),
            average_loss: at_least_0(s.average_loss()),
            test_interval: at_least_0(s.test_interval()),
            test_initialization: s.test_initialization(),
            test_batches: s.test_iter.iter().map(|&n| at_least_0(n)).collect(),
            test_cursors: cursors
                .filter(|c| c.len() == nets)
                .unwrap_or_else(|| test_cursors_at(s, self.resumed.iter)),
            snapshot: at_least_0(s.snapshot()),
            snapshot_after_train: s.snapshot_after_train(),
        }
    }
}

/// Weights, histories and loss scale of a snapshot; a replica's own history, where the job has as many
/// replicas as the one that wrote it.
fn restore(solver: &mut Solver, state: &Path, replica: usize, replicas: usize) -> Result<()> {
    let Some(sidecar) = snapshot::restore(solver, state)?.sidecar else { return Ok(()) };
    if let Some(scale) = sidecar.loss_scale {
        solver.restore_scale(scale);
    }
    match sidecar.histories.get(replica).filter(|_| sidecar.replicas == replicas) {
        Some(own) => solver.set_histories(own),
        None => Ok(()),
    }
}

/// The state to resume from, and what there is to say about how it was found.
fn resume_from(options: &Options, prefix: &str) -> Result<(Option<PathBuf>, Vec<String>)> {
    if !options.resume_auto {
        return Ok((options.snapshot.clone(), Vec::new()));
    }
    ensure!(options.snapshot.is_none(), "give --resume=auto or --snapshot, not both");
    ensure!(!prefix.is_empty(), "--resume=auto: the solver has no snapshot_prefix to look under");
    let search = snapshot::find::newest(prefix)?;
    let mut lines: Vec<String> =
        search.passed_over.iter().map(|why| format!("--resume=auto passes over {why}")).collect();
    let state = search.found.map(|found| found.paths.state);
    lines.push(match &state {
        Some(path) => format!("--resume=auto goes on from {}", path.display()),
        None => format!("--resume=auto found no whole snapshot under \"{prefix}\": starting anew"),
    });
    Ok((state, lines))
}

/// The solver's seed; where it names none, one that all ranks of the job know and that differs from
/// run to run.
fn seed_of(solver: &SolverParameter) -> u64 {
    if solver.random_seed() >= 0 {
        return solver.random_seed() as u64;
    }
    // Open MPI, PMIx and Slurm tell every rank the same name of the job.
    let names = ["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "SLURM_JOB_ID", "PMI_ID_JOB"];
    let mut digest = Digest::default();
    match names.iter().find_map(|n| std::env::var(n).ok()) {
        Some(job) => job.hash(&mut digest),
        None => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(0, |d| d.as_nanos()).hash(&mut digest);
        }
    }
    digest.finish() >> 1
}

fn names_of(solver: &Solver) -> OutputNames {
    OutputNames {
        train: solver.train_net().output_names(),
        tests: solver.tests().iter().map(crate::net::Net::output_names).collect(),
    }
}
