//! [`Solver`] as the actors' replica.

mod passes;

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use caffe_actors::trace::{Kind, NameId, Tracer};
use caffe_actors::{
    Begun, Cause, Complaint, Digest, Plan, Ready, Replica, ReplicaPlace, SnapshotRequest, Step,
    Writing,
};

use super::algorithms::Algorithms;
use super::buckets;
use super::copy_out::CopyOut;
use super::guard::Guard;
use super::job::Job;
use super::record_log::RecordLog;
use super::team::Team;
use crate::data::Batch;
use crate::net::all_finite;
use crate::snapshot::{self, Paths, SidecarWriter};
use crate::solver::{Forecast, Solver, SolverOptions};
use crate::{Result, device};

/// One replica: the solver, and how its parameters are cut for travel.
pub struct SolverReplica {
    job: Arc<Job>,
    solver: Solver,
    /// Those of its device's convolutions; `None` on the CPU.
    algorithms: Option<Algorithms>,
    out: CopyOut,
    /// Where the layers' own statistics lie in the arena.
    statistics: Vec<std::ops::Range<usize>>,
    /// Records of one batch, and what the reader adds to tickets: for the sidecar.
    batch: usize,
    offset: i64,
    /// One replica in the job: nobody else needs its gradient.
    alone: bool,
    tracer: Tracer,
    layer_names: Vec<NameId>,
    guard: Guard,
    /// Whether updates are wanted of the pass that is under way.
    solving: bool,
    /// Index in the job, and number of replicas.
    place: (usize, usize),
    records: Option<RecordLog>,
}

impl SolverReplica {
    /// Builds nets and optimizer, and loads weights or the state to resume from.
    ///
    /// # Errors
    /// What the engine reports.
    pub fn build(job: &Arc<Job>, place: &ReplicaPlace) -> Result<Self> {
        let options = SolverOptions {
            threads: place.threads,
            exact: job.exact,
            seed: job.seed,
            cuda: job.cuda.get(place.local).map(|choice| choice.open(job.exact)).transpose()?,
            cpu_fallback: job.cpu_fallback,
            loss_scale: Some(job.loss_scale),
            graphs: job.graphs,
            blank: false,
        };
        let (param, nets) = (job.solver_of(place.replicas)?, job.nets(place.replicas)?);
        // Before anything that may fail, so that no other replica waits for this one in vain.
        let attendance = job.clique.as_ref().map(|clique| clique.attend());
        let (mut team, mut algorithms) = (None, None);
        if let Some(device) = &options.cuda {
            let mut forecast = Forecast::of(&param, &nets, &options, place.replicas == 1)?;
            forecast.reserve(device)?;
            let wanted = std::mem::take(&mut forecast.correlations);
            algorithms = Some(Algorithms::new(device, wanted));
            job.device_memory.expect(forecast);
            team = attendance.map(|a| Team::join(a, device, place.local)).transpose()?;
        }
        let mut solver = Solver::new(&param, &nets, &options)?;
        solver.optimizer().set_ramp(job.ramp(place.replicas));
        job.load(&mut solver, place.replica, place.replicas)?;
        if place.replicas > 1 {
            solver.share()?;
        }
        let (train, _) = job.data(place.replicas)?;
        let batch = train.batch_size();
        let report = solver.net().run().cuda().map(|cuda| cuda.report.clone());
        let net = solver.train_net();
        let alone = place.replicas == 1;
        let statistics =
            net.arena().params().iter().filter(|p| p.maintained).map(|p| p.range.clone());
        let records =
            job.log_records.as_ref().map(|folder| RecordLog::create(folder, place.replica));
        Ok(SolverReplica {
            records: records.transpose()?,
            out: CopyOut::new(buckets::cut(net), team, report, alone),
            statistics: statistics.collect(),
            batch: batch as usize,
            offset: job.ticket_offset(place.replicas, batch),
            alone,
            algorithms,
            layer_names: net.layers().iter().map(|n| place.tracer.name(n.name())).collect(),
            tracer: place.tracer.clone(),
            guard: Guard::new(job.on_nan),
            solving: false,
            place: (place.replica, place.replicas),
            job: job.clone(),
            solver,
        })
    }

    fn hash(&self) -> u64 {
        let mut digest = Digest::default();
        for p in self.solver.train_net().arena().params() {
            (p.shape.dims(), p.range.start, p.statistic, p.layer).hash(&mut digest);
            (p.lr_mult.to_bits(), p.decay_mult.to_bits()).hash(&mut digest);
        }
        self.job.solver.r#type().hash(&mut digest);
        digest.finish()
    }

    fn outputs_len(net: &crate::net::Net) -> usize {
        net.outputs().iter().map(|&id| net.store().blobs[id].shape.count()).sum()
    }

    fn gradient(&mut self, bucket: usize) -> Result<&mut [f32]> {
        let range = self.out.buckets[bucket].range.clone();
        self.solver.net().params().diff_in_mut(range)
    }
}

impl SolverReplica {
    /// The loss scale has grown: in `sync` everywhere, so one says it.
    fn grown(&mut self, iter: u64) {
        if self.place.0 == 0 {
            self.guard.grown(iter, self.solver.scaler().scale());
        }
    }
}

fn engine_step(step: &Step, batch: &[Batch]) -> device::Step {
    let first_record = batch.first().map_or(0, |b| b.positions.start);
    device::Step { iter: step.iter, first_record }
}

impl Replica for SolverReplica {
    type Batch = Vec<Batch>;

    fn plan(&self) -> Plan {
        let net = self.solver.train_net();
        let history = self.solver.history_len();
        Plan {
            params: net.arena().learnable_len(),
            buckets: self.out.buckets.iter().map(|b| b.range.clone()).collect(),
            statistics: self.statistics.iter().map(std::ops::Range::len).sum(),
            history,
            train_outputs: Self::outputs_len(net),
            test_outputs: self.solver.tests().iter().map(Self::outputs_len).collect(),
            hash: self.hash(),
        }
    }

    fn opening_words(&mut self) -> Result<Vec<u8>, Cause> {
        let Some(algorithms) = &self.algorithms else { return Ok(Vec::new()) };
        let recorded = self.job.resumed.sidecar.as_ref().and_then(|s| s.algorithms.as_ref());
        let told = algorithms.settle(recorded)?;
        self.job.algorithms.get_or_init(|| told);
        Ok(algorithms.words())
    }

    fn hear(&mut self, words: &[u8]) -> Result<Option<String>, Cause> {
        let heard =
            self.algorithms.as_ref().map(|own| own.hear(words, self.place.0)).transpose()?;
        Ok(heard.flatten())
    }

    fn compute(
        &mut self,
        batch: &mut Vec<Batch>,
        step: &Step,
        ready: &mut Ready<'_>,
    ) -> Result<f32, Cause> {
        match self.begin(batch, step, false, ready)? {
            Begun::Done(loss) => Ok(loss),
            Begun::Underway => self.finish(step, ready),
        }
    }

    fn begin(
        &mut self,
        batch: &mut Vec<Batch>,
        step: &Step,
        solving: bool,
        ready: &mut Ready<'_>,
    ) -> Result<Begun, Cause> {
        if let Some(records) = &mut self.records {
            records.batch(step.ticket, batch)?;
        }
        if step.pass == 0 {
            self.solver.clear_gradient();
            self.guard.begin();
        }
        self.solving = solving;
        if self.guard.own() {
            // An earlier pass of this step was worth nothing.
            self.out.begin(0, step.iter, 1.0);
            self.give_rest(step, ready)?;
            return Ok(Begun::Done(f32::NAN));
        }
        match self.pass(batch, step, solving, ready) {
            Ok(Some(loss)) => Ok(Begun::Done(loss)),
            Ok(None) => Ok(Begun::Underway),
            Err(error) => self.not_finite(step, error, ready).map(Begun::Done),
        }
    }

    fn prepare(&mut self, next: &Vec<Batch>) -> Result<(), Cause> {
        Ok(self.solver.prepare(next)?)
    }

    fn finish(&mut self, step: &Step, ready: &mut Ready<'_>) -> Result<f32, Cause> {
        let _span = self.tracer.span(Kind::WaitDevice);
        match self.arrive(step, self.solving, ready) {
            Ok(loss) => Ok(loss),
            Err(error) => self.not_finite(step, error, ready),
        }
    }

    fn solves_early(&self) -> bool {
        // What is to be dropped whole must not be pushed in part.
        self.solver.solves_parts() && self.guard.stops() && !self.solver.scaler().is_dynamic()
    }

    fn compute_solving(
        &mut self,
        batch: &mut Vec<Batch>,
        step: &Step,
        ready: &mut Ready<'_>,
    ) -> Result<f32, Cause> {
        match self.begin(batch, step, true, ready)? {
            Begun::Done(loss) => Ok(loss),
            Begun::Underway => self.finish(step, ready),
        }
    }

    fn outputs(&mut self, out: &mut [f32]) -> Result<(), Cause> {
        let values = self.solver.train_values()?;
        self.job.device_memory.seen(self.solver.device_memory_taken());
        if let Some(about) = self.solver.train_net().about_graphs() {
            self.job.about_graphs.get_or_init(|| about.to_owned());
        }
        out.iter_mut().zip(values).for_each(|(o, v)| *o = v.value);
        Ok(())
    }

    fn evaluate(&mut self, batch: &mut Vec<Batch>, step: &Step) -> Result<f32, Cause> {
        let at = engine_step(step, batch);
        Ok(self.solver.evaluate(batch, at)?)
    }

    fn update_local(&mut self, iter: u64) -> Result<(), Cause> {
        self.update(iter)
    }

    fn set_gradient(&mut self, bucket: usize, gradient: &[f32]) -> Result<(), Cause> {
        if !all_finite(gradient) {
            self.guard.of_job();
        }
        self.gradient(bucket)?.copy_from_slice(gradient);
        Ok(())
    }

    fn update(&mut self, iter: u64) -> Result<(), Cause> {
        if !self.guard.drops(iter, &mut self.solver)? && self.solver.update(iter)? {
            self.grown(iter);
        }
        Ok(())
    }

    fn solve(&mut self, iter: u64) -> Result<(), Cause> {
        if self.guard.drops(iter, &mut self.solver)? {
            // An update that changes nothing; the history stays, too.
            self.solver.clear_gradient();
        } else if self.solver.solve(iter)? {
            self.grown(iter);
        }
        Ok(())
    }

    fn complaint(&mut self) -> Option<Complaint> {
        self.guard.complaint()
    }

    fn reload(&mut self) -> Result<String, Cause> {
        self.guard.reload()?;
        let (replica, replicas) = self.place;
        Ok(self.job.reload(&mut self.solver, replica, replicas)?)
    }

    fn update_of(&mut self, bucket: usize) -> Result<&[f32], Cause> {
        Ok(self.gradient(bucket)?)
    }

    fn read_weights(&mut self, bucket: usize, out: &mut [f32]) -> Result<(), Cause> {
        let range = self.out.buckets[bucket].range.clone();
        out.copy_from_slice(self.solver.net().params().data_in(range)?);
        Ok(())
    }

    fn write_weights(&mut self, bucket: usize, weights: &[f32]) -> Result<(), Cause> {
        let range = self.out.buckets[bucket].range.clone();
        self.solver.net().params().data_in_mut(range)?.copy_from_slice(weights);
        Ok(())
    }

    fn read_statistics(&mut self, out: &mut [f32]) -> Result<(), Cause> {
        let params = self.solver.net().params();
        let mut at = 0;
        for range in &self.statistics {
            out[at..at + range.len()].copy_from_slice(params.data_in(range.clone())?);
            at += range.len();
        }
        Ok(())
    }

    fn write_statistics(&mut self, statistics: &[f32]) -> Result<(), Cause> {
        let params = self.solver.net().params();
        let mut at = 0;
        for range in &self.statistics {
            let values = &statistics[at..at + range.len()];
            params.data_in_mut(range.clone())?.copy_from_slice(values);
            at += range.len();
        }
        Ok(())
    }

    fn read_history(&mut self, out: &mut [f32]) -> Result<(), Cause> {
        let mut at = 0;
        for history in self.solver.optimizer().histories()? {
            out[at..at + history.len()].copy_from_slice(history);
            at += history.len();
        }
        Ok(())
    }

    fn test(&mut self, net: usize, batch: &mut Vec<Batch>, out: &mut [f32]) -> Result<(), Cause> {
        let (values, _) = self.solver.test(net, batch)?;
        out.iter_mut().zip(values).for_each(|(o, v)| *o = v.value);
        Ok(())
    }

    fn snapshot(&mut self, request: SnapshotRequest<'_>) -> Result<Writing, Cause> {
        let format = self.job.solver.snapshot_format();
        let paths = Paths::new(self.job.solver.snapshot_prefix(), request.iter, format);
        // Own histories differ only where replicas push their own updates.
        let own = request.replicas > 1 && self.job.keeps_own_histories();
        let mut sidecar = self.job.sidecar(&request, self.batch, self.offset);
        sidecar.loss_scale = self.solver.scaler().state();
        sidecar.algorithms = self.algorithms.as_ref().and_then(Algorithms::json);
        sidecar.history_len = request.mean_history.len();
        sidecar.history_count = if own { request.replicas } else { 0 };
        let mut writer = SidecarWriter::create(&paths.sidecar, &sidecar)?;
        if own {
            while let Some((_, history)) = request.histories.next()? {
                writer.history(history)?;
            }
        }
        let prefix = self.job.solver.snapshot_prefix();
        let mean = Some(request.mean_history);
        let taken = snapshot::take(&mut self.solver, prefix, request.iter, mean)?;
        let (job, iter) = (self.job.clone(), request.iter);
        Ok(Box::new(move || {
            let _busy = job.writing.begin();
            taken.write(Some(writer))?;
            Ok(job.keeper.written(iter)?)
        }))
    }
}
