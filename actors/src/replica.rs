//! What the machine needs of one copy of the net: [`Replica`], its [`Plan`], and the words that
//! go with them.
//!
//! A replica is `!Send`: a `Send` factory builds it on its device thread and it never leaves
//! that thread. The machine sees flat `f32` ranges only. It does not know what a layer is, where
//! the memory lies or which solver runs.
//!
//! Calls come in these orders (`s` = `iter_size`):
//!
//! ```text
//! start           opening_words (the job's first replica) → hear (all others)
//! one replica     compute × s → update_local(iter)
//! sync            compute × s (ready(b) for each b) → set_gradient(b) for each b → update(iter)
//! hogwild         compute × s → solve(iter) → update_of(b), write_weights(b) for each b
//!   or            compute × (s − 1) → compute_solving (ready(b) for each b) → write_weights(b) for each b
//! compute         or, on a device that computes by itself: begin → prepare(next batch)? → finish
//! drained point   read_statistics → write_statistics → write_weights … → snapshot? → test?
//! ```

use std::ops::Range;

use crate::trace::Tracer;

/// Any error of an implementor: it is carried, with its text, into the [`Fault`](crate::Fault)
/// that ends the job.
pub type Cause = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A plan has at most so many buckets: the depth of the channels they travel in.
pub const MAX_BUCKETS: usize = 1024;

/// The flat layout of a replica's parameters; equal on all replicas of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Length, in floats, of the flat parameter vector.
    pub params: usize,
    /// Contiguous ranges of the parameter vector that travel together, in the order in which
    /// backward completes them (last layers first). They do not overlap; parameters that no
    /// solver touches lie in none of them.
    pub buckets: Vec<Range<usize>>,
    /// Number of floats that are averaged over the replicas at drained points and are in no
    /// bucket (BatchNorm's blobs). 0 when the net has none.
    pub statistics: usize,
    /// Number of floats of one replica's solver history (momentum and the like), 0 if none.
    pub history: usize,
    /// Number of floats of the train net's outputs, displayed with the loss.
    pub train_outputs: usize,
    /// Number of floats of the outputs of one batch of each test net.
    pub test_outputs: Vec<usize>,
    /// Hash of everything that must be equal on all replicas for an exchange to make sense:
    /// names, shapes, order, solver type. Compared between all replicas at start.
    pub hash: u64,
}

impl Plan {
    /// Length in floats of bucket `bucket`.
    pub fn bucket_len(&self, bucket: usize) -> usize {
        self.buckets.get(bucket).map_or(0, |range| range.len())
    }

    /// Says what is wrong with a plan, if anything is: buckets must be non-empty, inside the
    /// vector and disjoint.
    ///
    /// # Errors
    /// A sentence that names the bucket.
    pub fn check(&self) -> Result<(), String> {
        if self.buckets.len() > MAX_BUCKETS {
            return Err(format!("the plan has more than {MAX_BUCKETS} buckets"));
        }
        let mut ranges: Vec<_> = self.buckets.iter().enumerate().collect();
        ranges.sort_by_key(|(_, range)| range.start);
        let mut end = 0;
        for (bucket, range) in ranges {
            if range.is_empty() {
                return Err(format!("bucket {bucket} of the plan is empty"));
            }
            if range.start < end {
                return Err(format!("bucket {bucket} ({range:?}) overlaps another bucket"));
            }
            if range.end > self.params {
                let params = self.params;
                return Err(format!("bucket {bucket} ({range:?}) ends beyond {params} parameters"));
            }
            end = range.end;
        }
        Ok(())
    }
}

/// Where a replica lives: given to its factory.
#[derive(Clone, Debug)]
pub struct ReplicaPlace {
    /// Rank of the node (0-based) and number of nodes.
    pub rank: usize,
    /// Number of nodes in the job.
    pub nodes: usize,
    /// Index of the device actor on its node.
    pub local: usize,
    /// Number of device actors on this node.
    pub workers: usize,
    /// Index of the replica in the job, in order of (rank, local).
    pub replica: usize,
    /// R: number of replicas in the job.
    pub replicas: usize,
    /// Compute threads that this replica may use.
    pub threads: usize,
    /// The tracer of the device thread: spans shown in the trace, and named when a fault ends
    /// the job.
    pub tracer: Tracer,
}

/// One pass of one step.
///
/// A step is what makes one update on one replica: `passes` (Caffe's `iter_size`) batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Caffe's iteration: drives lr and everything scheduled. ⌊step ticket / R⌋.
    pub iter: u64,
    /// Ordinal of this batch in the job: it covers records `ticket·b … ticket·b + b − 1`.
    pub ticket: u64,
    /// Which of the step's passes this is, `0 ≤ pass < passes`. Pass 0 starts from a zero
    /// gradient; the others add to it.
    pub pass: usize,
    /// `iter_size`.
    pub passes: usize,
    /// Whether the loss (and, on the last pass, the outputs) will be looked at. When false a
    /// device may leave them where they are and return 0.
    pub report: bool,
}

impl Step {
    /// True on the pass whose backward completes the gradient.
    pub fn last(&self) -> bool {
        self.pass + 1 == self.passes
    }
}

/// How far a batch is after [`Replica::begin`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Begun {
    /// It is done, and this is its loss.
    Done(f32),
    /// A device computes it; [`Replica::finish`] waits for that.
    Underway,
}

/// Called by [`Replica::compute`] with `(bucket, gradient)` when a bucket's gradient is final and
/// readable in host memory.
///
/// In `sync` and `local-sgd` an empty gradient says that another replica of the same node has this one's
/// in its own: devices that can add theirs up among themselves give the sum once.
pub type Ready<'a> = dyn FnMut(usize, &[f32]) + 'a;

/// What a snapshot holds besides the weights, which the writer has itself.
pub struct SnapshotRequest<'a> {
    /// Iterations done.
    pub iter: u64,
    /// First batch ticket not yet trained on.
    pub ticket: u64,
    /// Next batch index of each test net.
    pub test_cursors: &'a [u64],
    /// Mean of the replicas' histories ([`Plan::history`] floats): what Caffe's own
    /// `.solverstate` holds.
    pub mean_history: Vec<f32>,
    /// Number of replicas in the job.
    pub replicas: usize,
    /// Every replica's own history, one after the other.
    pub histories: &'a mut dyn Histories,
}

/// Something the log should have, from a replica whose loss or gradient was no finite number and
/// which has dropped the update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// What happened; empty when another replica has said it.
    pub text: String,
    /// All replicas are to [`reload`](Replica::reload) at the next drained point, which comes soon.
    pub reload: bool,
}

/// What is left of a snapshot once it has been copied out of the replica; any thread may do it.
pub type Writing = Box<dyn FnOnce() -> Result<(), Cause> + Send>;

/// Every replica's history, streamed so that no node holds all of them at once.
///
/// In `sync`, and with one replica, all histories equal the mean and the stream is empty.
pub trait Histories {
    /// The next replica's index and history, or `None` after the last. Need not be read to the
    /// end.
    ///
    /// # Errors
    /// The job is ending; hand the error on.
    fn next(&mut self) -> Result<Option<(usize, &[f32])>, Cause>;
}

/// One copy of the net and its solver on one device.
///
/// Any error ends the job, with its text in the message.
///
/// In `sync` the machine relies on [`update`](Replica::update) being a function of gradient,
/// weights, history and `iter` alone, bit for bit: norms must not depend on the number of
/// threads. A checksum of the weights of all replicas at the end of the run proves it.
pub trait Replica: 'static {
    /// A filled batch, train or test; made with `Default`, filled by the reader, used again and
    /// again.
    type Batch: Send + Default + 'static;

    /// The flat layout. Constant.
    fn plan(&self) -> Plan;

    /// What the first replica of the job has to say to all others before anything is computed; bytes that
    /// the machine carries and does not read. Asked once, when all replicas are built and none of them
    /// computes.
    ///
    /// # Errors
    /// As [`compute`](Replica::compute).
    fn opening_words(&mut self) -> Result<Vec<u8>, Cause> {
        Ok(Vec::new())
    }

    /// The first replica's [`opening_words`](Replica::opening_words), on all others, before anything is
    /// computed. Returns a line for the log, if there is something to say about them.
    ///
    /// # Errors
    /// As [`compute`](Replica::compute).
    fn hear(&mut self, _words: &[u8]) -> Result<Option<String>, Cause> {
        Ok(None)
    }

    /// Forward and backward of one batch; adds to the gradient (pass 0 clears it first).
    /// Returns the batch's loss.
    ///
    /// On the last pass calls `ready` once per bucket, in the plan's order, each as early as
    /// backward allows. With one replica in the job `ready` does nothing: a device need not copy
    /// for it then ([`ReplicaPlace::replicas`] says so).
    ///
    /// # Errors
    /// Anything that makes the step worthless.
    fn compute(
        &mut self,
        batch: &mut Self::Batch,
        step: &Step,
        ready: &mut Ready<'_>,
    ) -> Result<f32, Cause>;

    /// Whether updates can be had bucket by bucket during backward
    /// ([`compute_solving`](Replica::compute_solving)). Not when the norm of the whole gradient
    /// has to be known first.
    fn solves_early(&self) -> bool {
        false
    }

    /// In hogwild, on the last pass: as [`compute`](Replica::compute), and turns each bucket's
    /// gradient into its update as soon as backward has completed it. `ready` is given the update,
    /// so that it travels while backward goes on; the weights stay as they are.
    ///
    /// # Errors
    /// As [`compute`](Replica::compute).
    fn compute_solving(
        &mut self,
        _batch: &mut Self::Batch,
        _step: &Step,
        _ready: &mut Ready<'_>,
    ) -> Result<f32, Cause> {
        Err("this replica does not solve early".into())
    }

    /// [`compute`](Replica::compute), or [`compute_solving`](Replica::compute_solving), which need not be done
    /// when this returns. Then [`finish`](Replica::finish) follows, after
    /// [`prepare`](Replica::prepare) where the next batch is there.
    ///
    /// # Errors
    /// As [`compute`](Replica::compute).
    fn begin(
        &mut self,
        batch: &mut Self::Batch,
        step: &Step,
        solving: bool,
        ready: &mut Ready<'_>,
    ) -> Result<Begun, Cause> {
        let loss = match solving {
            true => self.compute_solving(batch, step, ready)?,
            false => self.compute(batch, step, ready)?,
        };
        Ok(Begun::Done(loss))
    }

    /// The batch that the next [`begin`](Replica::begin) or [`evaluate`](Replica::evaluate) will be given, while
    /// another one is under way: it may begin to travel to the device.
    ///
    /// # Errors
    /// As [`compute`](Replica::compute).
    fn prepare(&mut self, _next: &Self::Batch) -> Result<(), Cause> {
        Ok(())
    }

    /// Waits for what has begun; gives the buckets that have not been given, and the loss.
    ///
    /// # Errors
    /// As [`compute`](Replica::compute).
    fn finish(&mut self, _step: &Step, _ready: &mut Ready<'_>) -> Result<f32, Cause> {
        Err("has nothing under way".into())
    }

    /// The train net's outputs after the last pass, [`Plan::train_outputs`] floats.
    ///
    /// # Errors
    /// As [`compute`](Replica::compute).
    fn outputs(&mut self, out: &mut [f32]) -> Result<(), Cause>;

    /// Forward only, of the train net: Caffe's closing "Iteration N, loss = …".
    ///
    /// # Errors
    /// As [`compute`](Replica::compute).
    fn evaluate(&mut self, batch: &mut Self::Batch, step: &Step) -> Result<f32, Cause>;

    /// The bare solver loop's update of iteration `iter`, from the gradient that lies there.
    ///
    /// # Errors
    /// As [`compute`](Replica::compute).
    fn update_local(&mut self, iter: u64) -> Result<(), Cause>;

    /// Replaces the gradient of a bucket by the job's: the sum over `iter_size` of the mean over
    /// replicas, unclipped.
    ///
    /// # Errors
    /// As [`compute`](Replica::compute).
    fn set_gradient(&mut self, bucket: usize, gradient: &[f32]) -> Result<(), Cause>;

    /// After the last [`set_gradient`](Replica::set_gradient): clip, ÷ `iter_size`, regularise,
    /// solver rule, `w −= u`.
    ///
    /// # Errors
    /// As [`compute`](Replica::compute).
    fn update(&mut self, iter: u64) -> Result<(), Cause>;

    /// Turns the replica's own gradient into its update `u` (clip … solver rule; `w − u` would
    /// be the new weights) without applying it.
    ///
    /// # Errors
    /// As [`compute`](Replica::compute).
    fn solve(&mut self, iter: u64) -> Result<(), Cause>;

    /// `u` of one bucket after [`solve`](Replica::solve), in host memory.
    ///
    /// # Errors
    /// As [`compute`](Replica::compute).
    fn update_of(&mut self, bucket: usize) -> Result<&[f32], Cause>;

    /// What there is to complain about since the last call; asked after every update.
    fn complaint(&mut self) -> Option<Complaint> {
        None
    }

    /// Takes weights and history back to an earlier state, the same on all replicas; says which.
    /// Called at drained points, after a [`Complaint`] that asks for it.
    ///
    /// # Errors
    /// As [`compute`](Replica::compute); always, where there is no way back.
    fn reload(&mut self) -> Result<String, Cause> {
        Err("has no earlier state to go back to".into())
    }

    /// Copies a bucket's weights out.
    ///
    /// # Errors
    /// As [`compute`](Replica::compute).
    fn read_weights(&mut self, bucket: usize, out: &mut [f32]) -> Result<(), Cause>;

    /// Replaces a bucket's weights.
    ///
    /// # Errors
    /// As [`compute`](Replica::compute).
    fn write_weights(&mut self, bucket: usize, weights: &[f32]) -> Result<(), Cause>;

    /// Copies the statistics out, [`Plan::statistics`] floats.
    ///
    /// # Errors
    /// As [`compute`](Replica::compute).
    fn read_statistics(&mut self, out: &mut [f32]) -> Result<(), Cause>;

    /// Replaces the statistics.
    ///
    /// # Errors
    /// As [`compute`](Replica::compute).
    fn write_statistics(&mut self, statistics: &[f32]) -> Result<(), Cause>;

    /// Copies the solver history out, [`Plan::history`] floats.
    ///
    /// # Errors
    /// As [`compute`](Replica::compute).
    fn read_history(&mut self, out: &mut [f32]) -> Result<(), Cause>;

    /// Forward of one batch of test net `net`; writes its outputs, `test_outputs[net]` floats.
    ///
    /// # Errors
    /// As [`compute`](Replica::compute).
    fn test(&mut self, net: usize, batch: &mut Self::Batch, out: &mut [f32]) -> Result<(), Cause>;

    /// Copies out what a snapshot holds and returns the work of writing it, which the writer's
    /// thread does while training goes on. Called at drained points on one replica of the job, and
    /// not before the last snapshot has been written.
    ///
    /// # Errors
    /// As [`compute`](Replica::compute).
    fn snapshot(&mut self, request: SnapshotRequest<'_>) -> Result<Writing, Cause>;
}
