//! What the user sees of a run: the start banner, Caffe's log lines, a progress bar.

use std::io::IsTerminal;
use std::sync::Arc;

use caffe_actors::{Display, Fault, Observer, Origin, RunReport, Started, Tested};
use caffe_proto::solver_parameter::SnapshotFormat;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::Options;
use super::job::Job;
use super::observe::{Speed, Stopwatch};
use crate::log::{G, Log};
use crate::snapshot::Paths;
use crate::solver::{LossScale, LrPolicy, Value};

/// Place of the lines that Caffe has no counterpart for; parsers want a file and a line.
pub(super) const PLACE: &str = "trainer.cpp:1";

/// Writes to the log what the machine reports.
pub struct Report {
    job: Arc<Job>,
    log: Log,
    bar: ProgressBar,
    policy: Option<LrPolicy>,
    /// Iteration of the last display, and time since.
    last: u64,
    watch: Stopwatch,
    options: Options,
    replicas: usize,
    /// Records of one replica's batch.
    batch: usize,
    loss: f32,
}

impl Report {
    /// A report on a job that is about to start.
    pub fn new(job: &Arc<Job>, options: &Options, log: &Log) -> Self {
        let bar = match std::io::stderr().is_terminal() {
            true => ProgressBar::new(job.schedule().max_iter),
            false => ProgressBar::hidden(),
        };
        let style = "{wide_bar} {pos}/{len} iterations, {msg}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        let (bar, log) = match bar.is_hidden() {
            true => (bar, log.clone()),
            false => {
                let bars = MultiProgress::new();
                (bars.add(bar), Log::beside(bars))
            }
        };
        Report {
            policy: None,
            job: job.clone(),
            log,
            bar,
            last: 0,
            watch: Stopwatch::start(),
            options: options.clone(),
            replicas: 1,
            batch: 0,
            loss: 0.0,
        }
    }

    fn rate(&self, iter: u64) -> f32 {
        self.policy.as_ref().map_or(0.0, |p| p.rate(iter))
    }

    fn values(&self, place: &str, phase: &str, names: &[Value], values: &[f32]) {
        for (i, (name, value)) in names.iter().zip(values).enumerate() {
            let weighted = match name.loss_weight {
                0.0 => String::new(),
                w => format!(" (* {} = {} loss)", G(w), G(w * value)),
            };
            let text =
                format!("    {phase} net output #{i}: {} = {}{weighted}", name.name, G(*value));
            self.log.info(place, text);
        }
    }

    /// What replicas compute on.
    fn devices(&self) -> String {
        if self.job.cuda.is_empty() {
            return "each replica computes on the CPU".into();
        }
        let devices: Vec<String> = self.job.cuda.iter().map(ToString::to_string).collect();
        let scale = match self.job.loss_scale {
            LossScale::Fixed(1.0) => String::new(),
            scale => format!(", loss scale {scale}"),
        };
        let sums = match self.job.clique {
            Some(_) => "; they add their gradients up by NCCL",
            None => "",
        };
        format!(
            "this node's replicas compute on {}{sums}, beside them the CPU{scale}",
            devices.join(", ")
        )
    }

    /// What ran together, in one place at the head of every log.
    fn banner(&self, started: &Started) {
        let say = |text: String| self.log.info(PLACE, text);
        let ranks = started.hosts.len();
        let mut hosts = started.hosts.clone();
        hosts.dedup();
        let threads =
            super::divide(self.options.threads.div_ceil(self.options.nodes), self.options.workers);
        say(format!(
            "{} replica{} on {ranks} rank{} ({}), over {}",
            self.replicas,
            if self.replicas == 1 { "" } else { "s" },
            if ranks == 1 { "" } else { "s" },
            hosts.join(", "),
            started.transport.trim()
        ));
        say(format!(
            "mode {}{}; {} with {} thread(s){}",
            self.job.mode,
            if self.replicas == 1 { " (one replica: the plain solver loop)" } else { "" },
            self.devices(),
            threads.first().copied().unwrap_or(1),
            if self.job.exact { ", exactly (no Winograd, no private layouts)" } else { "" }
        ));
        if let Some(text) = self.job.device_memory.expected() {
            say(text);
        }
        if let Some(told) = self.job.algorithms.get().filter(|told| !told.line.is_empty()) {
            say(told.line.clone());
            for event in &told.events {
                self.log.warning(PLACE, event);
            }
        }
        if let (false, Ok((train, _))) = (self.job.cuda.is_empty(), self.job.data(self.replicas)) {
            train.forms(self.job.seed).into_iter().for_each(say);
        }
        let meaning = self.job.meaning(started.iter, self.replicas, self.batch);
        say(format!(
            "batch {} per replica (--batch={}), {} records per iteration; lr {} at iteration {} \
             (--lr-scaling={}: x {}; --warmup-iters={})",
            self.batch,
            meaning.batch_of,
            meaning.records_per_iter,
            G(meaning.lr),
            started.iter,
            meaning.lr_scaling,
            G(meaning.lr_factor),
            meaning.warmup_iters,
        ));
        if ranks > 1 {
            say(format!("ranks send each other {} (--wire)", meaning.wire));
        }
        if self.replicas > 1 {
            for (layer, why) in self.job.batch_mixing() {
                say(format!(
                    "layer `{layer}` {why}: {} replicas are not the same as one with their batches \
                     together",
                    self.replicas
                ));
            }
        }
    }
}

impl Observer for Report {
    fn started(&mut self, started: &Started) {
        self.replicas = started.workers.iter().sum();
        if started.rank != 0 {
            return;
        }
        if let Ok(solver) = self.job.solver_of(self.replicas) {
            let policy = LrPolicy::new(&solver).ok();
            self.policy = policy.map(|policy| policy.ramped(self.job.ramp(self.replicas)));
        }
        if let Ok((train, _)) = self.job.data(self.replicas) {
            self.batch = train.batch_size() as usize;
        }
        for line in &self.job.search {
            match line.contains("passes over") {
                true => self.log.warning(PLACE, line),
                false => self.log.info(PLACE, line),
            }
        }
        for change in &self.job.changes {
            self.log.info("upgrade_proto.cpp:69", change);
        }
        self.banner(started);
        let iter = started.iter;
        if iter > 0 {
            self.log.info("caffe.cpp:234", format!("Resuming at iteration {iter}"));
            for change in self.job.changed_since(self.replicas, self.batch) {
                self.log.info(PLACE, change);
            }
        }
        self.log.info("solver.cpp:289", format!("Solving {}", self.job.net_name()));
        let policy = self.job.solver.lr_policy();
        self.log.info("solver.cpp:290", format!("Learning Rate Policy: {policy}"));
        (self.last, self.watch) = (iter, Stopwatch::start());
        self.bar.set_position(iter);
        self.bar.reset_eta();
    }

    fn progress(&mut self, iter: u64) {
        if self.bar.is_hidden() {
            return;
        }
        let records = (self.batch * self.replicas) as f64;
        let speed = self.bar.per_sec() * records;
        self.bar.set_message(format!("loss {}, {speed:.0} img/s", G(self.loss)));
        self.bar.set_position(iter);
    }

    fn display(&mut self, display: &Display) {
        let iter = display.iter;
        self.loss = display.loss;
        if display.closing {
            let text = format!("Iteration {iter}, loss = {}", G(display.loss));
            return self.log.info("solver.cpp:327", text);
        }
        let seconds = self.watch.lap().as_secs_f32();
        let done = iter.saturating_sub(self.last);
        let speed = if done == 0 { 0.0 } else { done as f32 / seconds };
        self.last = iter;
        self.log.info(
            "solver.cpp:239",
            format!(
                "Iteration {iter} ({} iter/s, {}s/{} iters), loss = {}",
                G(speed),
                G(seconds),
                self.job.solver.display(),
                G(display.loss)
            ),
        );
        self.values("solver.cpp:258", "Train", &self.job.names().train, &display.outputs);
        self.log
            .info("sgd_solver.cpp:112", format!("Iteration {iter}, lr = {}", G(self.rate(iter))));
        if let Some(speed) = Speed::of(&display.paces, self.batch, seconds.into()) {
            self.log.info(PLACE, speed);
        }
    }

    fn testing(&mut self, iter: u64, net: usize) {
        self.watch.pause();
        self.log.info("solver.cpp:347", format!("Iteration {iter}, Testing net (#{net})"));
    }

    fn tested(&mut self, tested: &Tested) {
        if let Some(names) = self.job.names().tests.get(tested.net) {
            if self.job.solver.test_compute_loss() {
                let weighted = names.iter().zip(&tested.scores).map(|(n, v)| n.loss_weight * v);
                let text = format!("Test loss: {}", G(weighted.sum::<f32>()));
                self.log.info("solver.cpp:397", text);
            }
            self.values("solver.cpp:414", "Test", names, &tested.scores);
            let chosen =
                names.iter().position(|n| Some(n.name.as_str()) == self.job.keeper.output());
            if let Some(place) = chosen
                && let Err(e) = self.job.keeper.scored(tested.iter, tested.scores[place])
            {
                self.log.warning(PLACE, format!("--keep-best: {e}"));
            }
        }
        // Time spent testing is not time per iteration.
        self.watch.resume();
    }

    fn snapshotted(&mut self, iter: u64) {
        let format = self.job.solver.snapshot_format();
        let paths = Paths::new(self.job.solver.snapshot_prefix(), iter, format);
        let (kind, [model_place, state_place]) = match format {
            SnapshotFormat::Hdf5 => ("HDF5", ["solver.cpp:473", "sgd_solver.cpp:295"]),
            SnapshotFormat::Binaryproto => {
                ("binary proto", ["solver.cpp:464", "sgd_solver.cpp:284"])
            }
        };
        let (model, state) = (paths.model.display(), paths.state.display());
        self.log.info(model_place, format!("Snapshotting to {kind} file {model}"));
        self.log.info(state_place, format!("Snapshotting solver state to {kind} file {state}"));
    }

    fn stopped_early(&mut self, _iter: u64) {
        self.log.info("solver.cpp:311", "Optimization stopped early.");
    }

    fn finished(&mut self, report: &RunReport) {
        self.bar.finish_and_clear();
        if report.rank != 0 {
            return;
        }
        let seconds = report.wall.as_secs_f64();
        let records = report.ticket.saturating_sub(self.first_ticket()) as f64 * self.batch as f64;
        self.log.info(
            PLACE,
            format!(
                "{} iterations in {seconds:.1} s, {:.0} img/s; all {} replica(s) hold weights {:016x}",
                report.iter - self.job.resumed.iter,
                records / seconds.max(1e-9),
                self.replicas,
                report.checksum
            ),
        );
        // In sync a round is an iteration.
        if report.rounds > 0 && report.round_iters > 0.0 {
            let text = format!(
                "{} rounds between nodes, of {:.2} iterations on average",
                report.rounds, report.round_iters
            );
            self.log.info(PLACE, text);
        }
        if report.staleness.len() > 1 {
            self.log.info(PLACE, staleness_line(report));
        }
        if let Some(text) = self.job.device_memory.outcome() {
            self.log.info(PLACE, text);
        }
        if let Some(text) = self.job.about_graphs.get() {
            self.log.info(PLACE, text.clone());
        }
        self.log.info("solver.cpp:332", "Optimization Done.");
        self.log.info("caffe.cpp:259", "Optimization Done.");
    }

    fn warning(&mut self, text: &str) {
        self.log.warning(PLACE, text);
    }

    fn fault(&mut self, fault: &Fault) {
        self.bar.finish_and_clear();
        // Alone, the program says it when `run` has returned. Among several ranks it does not
        // return (`MPI_Abort` ends them all): the culprit says it, and rank 0 for all.
        let Some((rank, ranks)) = caffe_actors::launched() else { return };
        if ranks > 1 && (rank == 0 || fault.origin == Origin::Own) {
            self.log.error(PLACE, fault);
        }
    }
}

/// How old this node's updates were when they met the weights, in words.
fn staleness_line(report: &RunReport) -> String {
    let all: u64 = report.staleness.iter().sum();
    let percent = |count: u64| 100.0 * count as f64 / all.max(1) as f64;
    let parts: Vec<String> = report
        .staleness
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0)
        .map(|(others, count)| format!("{others}: {:.1} %", percent(*count)))
        .collect();
    let weighted = report.staleness.iter().enumerate().map(|(i, count)| i as f64 * *count as f64);
    let mean = weighted.sum::<f64>() / all.max(1) as f64;
    let [next, later] = report.visible_after;
    let rounds = match next + later {
        0 => String::new(),
        _ => format!(
            "; visible everywhere after 1 round: {:.1} %, after 2: {:.1} %",
            100.0 * next as f64 / (next + later) as f64,
            100.0 * later as f64 / (next + later) as f64
        ),
    };
    format!(
        "staleness of rank {}'s updates (others' updates merged between pull and push), mean \
         {mean:.2}: {}{rounds}",
        report.rank,
        parts.join(", ")
    )
}

impl Report {
    fn first_ticket(&self) -> u64 {
        let schedule = self.job.schedule();
        schedule.start_iter * self.replicas as u64 * schedule.iter_size as u64
    }
}
