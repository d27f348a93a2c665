//! A device that computes nothing: it waits as long as each layer takes, and gives gradients of
//! the right size at the right moments.
//!
//! Its gradient is one number, its own; so weights are equal within a bucket at all drained points,
//! and a few of them stand for all. Waits go to absolute deadlines within a step, and what else a
//! step does (copies of gradients, pushes) happens meanwhile, as beside a GPU.

use std::sync::Arc;
use std::time::{Duration, Instant};

use caffe_actors::trace::{Kind, Tracer};
use caffe_actors::{
    BatchSource, Cause, Plan, Ready, Replica, ReplicaPlace, SnapshotRequest, Step, Writing,
};

use super::DeviceSpec;
use super::blueprint::Blueprint;
use super::meter::Meter;
use crate::rng::{Philox, stream_id};
use crate::{Result, ensure};

/// One weight is kept of so many.
const SAMPLE: usize = 4096;
/// Learning rate: a power of two, as the gradients are multiples of one.
const RATE: f32 = 1.0 / 1024.0;

/// A replica that waits.
pub(super) struct EmulatedReplica {
    blueprint: Arc<Blueprint>,
    meter: Arc<Meter>,
    tracer: Tracer,
    replica: usize,
    /// Seconds of this replica per second of the blueprint.
    factor: f64,
    jitter: f64,
    noise: Philox,
    /// As long as the longest bucket.
    gradient: Vec<f32>,
    weights: Vec<Vec<f32>>,
    means: Vec<Vec<f32>>,
}

impl EmulatedReplica {
    /// A replica in its place, slower than the blueprint by `dilation` and what `device` says.
    ///
    /// # Errors
    /// A slow replica that is not in the job.
    pub(super) fn build(
        blueprint: &Arc<Blueprint>,
        device: &DeviceSpec,
        dilation: f64,
        meter: &Arc<Meter>,
        place: &ReplicaPlace,
    ) -> Result<Self> {
        if let Some((slow, _)) = device.slow.iter().find(|(slow, _)| *slow >= place.replicas) {
            let last = place.replicas - 1;
            ensure!(false, "slow={slow}: the job has replicas 0 to {last}");
        }
        let own = device.slow.iter().filter(|(slow, _)| *slow == place.replica);
        let slower: f64 = own.map(|(_, factor)| factor).product();
        let longest = blueprint.buckets.iter().map(|bucket| bucket.len()).max().unwrap_or(0);
        let samples = || blueprint.buckets.iter().map(|b| vec![0.0; b.len().div_ceil(SAMPLE)]);
        Ok(EmulatedReplica {
            replica: place.replica,
            factor: dilation * slower,
            jitter: device.jitter,
            noise: Philox::new(device.seed, stream_id("emulated device") ^ place.replica as u64),
            gradient: vec![(place.replica + 1) as f32; longest],
            weights: samples().collect(),
            means: samples().collect(),
            blueprint: blueprint.clone(),
            meter: meter.clone(),
            tracer: place.tracer.clone(),
        })
    }

    /// What this step's times are multiplied with. Each step has its own number, whoever runs it
    /// and when.
    fn pace(&self, ticket: u64) -> f64 {
        if self.jitter == 0.0 {
            return self.factor;
        }
        // A stream for each replica, and in it a run of numbers for each ticket.
        let words = self.noise.at(ticket);
        let unit = |word: u32| (f64::from(word) + 0.5) / f64::from(u32::MAX);
        let normal =
            (-2.0 * unit(words[0]).ln()).sqrt() * (std::f64::consts::TAU * unit(words[1])).cos();
        self.factor * (1.0 + self.jitter * normal).max(0.0)
    }

    fn update_from_means(&mut self) {
        for (weights, means) in self.weights.iter_mut().zip(&self.means) {
            weights.iter_mut().zip(means).for_each(|(w, g)| *w -= RATE * g);
        }
    }
}

/// Sleeps until a moment; what the sleep takes too long is not added to the next.
fn sleep_until(moment: Instant) {
    loop {
        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left);
    }
}

fn sample(values: &[f32], samples: &mut [f32]) {
    samples.iter_mut().zip(values.chunks(SAMPLE)).for_each(|(s, chunk)| *s = chunk[0]);
}

impl Replica for EmulatedReplica {
    type Batch = ();

    fn plan(&self) -> Plan {
        self.blueprint.plan()
    }

    fn compute(&mut self, _: &mut (), step: &Step, ready: &mut Ready<'_>) -> Result<f32, Cause> {
        let begun = Instant::now();
        if step.pass == 0 {
            self.meter.begin(self.replica, step.iter, begun);
        }
        let pace = self.pace(step.ticket);
        let at = |seconds: f64| begun + Duration::from_secs_f64(seconds * pace);
        let span = self.tracer.span(Kind::Forward);
        sleep_until(at(self.blueprint.forward));
        drop(span);
        let span = self.tracer.span(Kind::Backward);
        if step.last() {
            let buckets = self.blueprint.buckets.iter().zip(&self.blueprint.ready);
            for (bucket, (range, moment)) in buckets.enumerate() {
                sleep_until(at(*moment));
                ready(bucket, &self.gradient[..range.len()]);
            }
        }
        sleep_until(at(self.blueprint.total));
        drop(span);
        self.meter.computed(self.replica, self.blueprint.total * pace);
        Ok(0.0)
    }

    fn solves_early(&self) -> bool {
        true
    }

    fn compute_solving(
        &mut self,
        batch: &mut (),
        step: &Step,
        ready: &mut Ready<'_>,
    ) -> Result<f32, Cause> {
        // The gradient is the update.
        self.compute(batch, step, ready)
    }

    fn outputs(&mut self, _: &mut [f32]) -> Result<(), Cause> {
        Ok(())
    }

    fn evaluate(&mut self, _: &mut (), _: &Step) -> Result<f32, Cause> {
        Ok(0.0)
    }

    fn update_local(&mut self, _: u64) -> Result<(), Cause> {
        for weights in &mut self.weights {
            weights.iter_mut().for_each(|w| *w -= RATE * (self.replica + 1) as f32);
        }
        Ok(())
    }

    fn set_gradient(&mut self, bucket: usize, gradient: &[f32]) -> Result<(), Cause> {
        sample(gradient, &mut self.means[bucket]);
        Ok(())
    }

    fn update(&mut self, _: u64) -> Result<(), Cause> {
        self.update_from_means();
        Ok(())
    }

    fn solve(&mut self, _: u64) -> Result<(), Cause> {
        Ok(())
    }

    fn update_of(&mut self, bucket: usize) -> Result<&[f32], Cause> {
        Ok(&self.gradient[..self.blueprint.buckets[bucket].len()])
    }

    fn read_weights(&mut self, bucket: usize, out: &mut [f32]) -> Result<(), Cause> {
        let chunks = out.chunks_mut(SAMPLE).zip(&self.weights[bucket]);
        chunks.for_each(|(chunk, weight)| chunk.fill(*weight));
        Ok(())
    }

    fn write_weights(&mut self, bucket: usize, weights: &[f32]) -> Result<(), Cause> {
        sample(weights, &mut self.weights[bucket]);
        Ok(())
    }

    fn read_statistics(&mut self, _: &mut [f32]) -> Result<(), Cause> {
        Ok(())
    }

    fn write_statistics(&mut self, _: &[f32]) -> Result<(), Cause> {
        Ok(())
    }

    fn read_history(&mut self, _: &mut [f32]) -> Result<(), Cause> {
        Ok(())
    }

    fn test(&mut self, _: usize, _: &mut (), _: &mut [f32]) -> Result<(), Cause> {
        Ok(())
    }

    fn snapshot(&mut self, _: SnapshotRequest<'_>) -> Result<Writing, Cause> {
        Err("an emulated device has no weights to write".into())
    }
}

/// Batches of nothing.
pub(super) struct NoRecords;

impl BatchSource for NoRecords {
    type Batch = ();

    fn batch_bytes(&self) -> usize {
        0
    }

    fn fill(&mut self, _: u64, _: &mut ()) -> Result<(), Cause> {
        Ok(())
    }

    fn fill_test(&mut self, _: usize, _: u64, _: &mut ()) -> Result<(), Cause> {
        Ok(())
    }
}
