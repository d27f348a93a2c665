//! [`Solver`]: one replica of the job, ready for whoever drives it.

use caffe_proto::SolverParameter;

use super::loss_scale::{LossScale, ScaleState, Scaler};
use super::nets::{NetPlan, NetPlans};
use super::optimizer::Optimizer;
use crate::data::Batch;
use crate::device::Step;
use crate::device::cuda::{CudaDevice, Kind};
use crate::net::{Net, NetOptions, Unwatched, Value, Watch};
use crate::{Error, Result, ensure};

/// How a replica computes.
#[derive(Clone, Debug)]
pub struct SolverOptions {
    /// CPU threads of this replica.
    pub threads: usize,
    /// Plain path only, for bit-comparisons.
    pub exact: bool,
    /// Seed of fillers, dropout and augmentation.
    pub seed: u64,
    /// The CUDA device to compute on; `None`: the CPU.
    pub cuda: Option<CudaDevice>,
    /// Layers without code for it compute on the CPU, instead of being refused.
    pub cpu_fallback: bool,
    /// What the loss is multiplied by; left out: what the device's numbers need.
    pub loss_scale: Option<LossScale>,
    /// Passes that repeat may become CUDA graphs.
    pub graphs: bool,
    /// Parameters stay zero: for who only wants to know what such a replica needs.
    pub blank: bool,
}

impl SolverOptions {
    /// On the CPU, by the fast path.
    pub fn new(threads: usize, seed: u64) -> Self {
        SolverOptions {
            threads,
            exact: false,
            seed,
            cuda: None,
            cpu_fallback: false,
            loss_scale: None,
            graphs: true,
            blank: false,
        }
    }
}

/// Train net, test nets and optimizer on one device.
pub struct Solver {
    param: SolverParameter,
    pub(super) net: Net,
    test_nets: Vec<Net>,
    /// Whether the test nets have the train net's present weights.
    pub(super) tests_current: bool,
    pub(super) optimizer: Optimizer,
    scaler: Scaler,
    /// The scale is taken out of the gradient by whoever gives it to other replicas.
    pub(super) shared: bool,
    /// The iteration whose update a device has been asked for with its gradient.
    pub(super) asked: Option<u64>,
}

impl Solver {
    /// Builds all nets of a solver.
    ///
    /// # Errors
    /// Anything wrong in solver or nets, with its place.
    pub fn new(param: &SolverParameter, nets: &NetPlans, options: &SolverOptions) -> Result<Self> {
        check(param)?;
        let net = build(&nets.train, options)?;
        let kind = options.cuda.as_ref().map_or(Kind::F32, |device| device.0.kind());
        let mut solver = Solver {
            optimizer: Optimizer::new(param, net.arena())?,
            param: param.clone(),
            net,
            test_nets: Vec::with_capacity(nets.test.len()),
            tests_current: false,
            scaler: Scaler::new(options.loss_scale.unwrap_or(LossScale::usual(kind))),
            shared: false,
            asked: None,
        };
        solver.net.set_graphs(options.graphs);
        solver.scale_changed();
        for plan in &nets.test {
            solver.test_nets.push(build(plan, options)?);
        }
        Ok(solver)
    }

    /// The solver prototxt.
    pub fn param(&self) -> &SolverParameter {
        &self.param
    }

    /// The train net.
    pub fn net(&mut self) -> &mut Net {
        self.tests_current = false;
        &mut self.net
    }

    /// The train net, for looking only.
    pub fn train_net(&self) -> &Net {
        &self.net
    }

    /// The test nets, for looking only.
    pub fn tests(&self) -> &[Net] {
        &self.test_nets
    }

    /// Floats of all histories together.
    pub fn history_len(&self) -> usize {
        self.optimizer.history_len()
    }

    /// Replaces the histories, given one after the other.
    ///
    /// # Errors
    /// When their length is another; a device that failed.
    pub fn set_histories(&mut self, flat: &[f32]) -> Result<()> {
        ensure!(
            flat.len() == self.history_len(),
            "a history of {} values cannot be taken by a solver that keeps {}",
            flat.len(),
            self.history_len()
        );
        let mut rest = flat;
        for history in self.optimizer.histories_mut()? {
            let (own, more) = rest.split_at(history.len());
            history.copy_from_slice(own);
            rest = more;
        }
        Ok(())
    }

    /// The optimizer.
    pub fn optimizer(&mut self) -> &mut Optimizer {
        &mut self.optimizer
    }

    /// Net and optimizer together, for snapshots.
    pub(crate) fn parts(&mut self) -> (&mut Net, &mut Optimizer) {
        self.tests_current = false;
        (&mut self.net, &mut self.optimizer)
    }

    /// Bytes of its device that have been taken; `None` on the CPU, and where nobody counts.
    pub fn device_memory_taken(&mut self) -> Option<u64> {
        self.net.run().cuda().and_then(|cuda| cuda.device.taken())
    }

    /// Learning rate at an iteration.
    pub fn rate(&self, iter: u64) -> f32 {
        self.optimizer.rate(iter)
    }

    /// What the loss is multiplied by.
    pub fn scaler(&self) -> &Scaler {
        &self.scaler
    }

    /// Takes the loss scale from a snapshot.
    pub fn restore_scale(&mut self, state: ScaleState) {
        self.scaler.restore(state);
        self.scale_changed();
    }

    /// Gradients are given to other replicas, and the scale is taken out of them
    /// ([`ParamArena::multiply_diff`](crate::params::ParamArena::multiply_diff)) before that.
    ///
    /// # Errors
    /// A device without enough memory.
    pub fn share(&mut self) -> Result<()> {
        self.shared = true;
        self.scale_changed();
        let device = self.net.run().cuda().map(|cuda| cuda.device.clone());
        device.map_or(Ok(()), |device| self.net.params().lock_for(&device))
    }

    /// An update is dropped because of a gradient that is not finite: whether the loss scale is smaller
    /// now. If not, it was not its fault.
    pub fn overflowed(&mut self) -> bool {
        let changed = self.scaler.overflowed();
        self.scale_changed();
        changed
    }

    /// An update is made: whether the loss scale is larger from the next one on.
    pub(super) fn went_well(&mut self) -> bool {
        let changed = self.scaler.went_well();
        self.scale_changed();
        changed
    }

    fn scale_changed(&mut self) {
        let scale = self.scaler.scale();
        self.net.set_loss_scale(scale);
        self.optimizer.set_gradient_scale(if self.shared { 1.0 } else { scale });
    }

    /// Whether the device's gradient is beyond what a smaller loss scale could have kept: then it is
    /// smaller from now on, and this iteration must have no update.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a gradient that is not finite with the smallest scale; a device that
    /// failed.
    pub fn overflows(&mut self, iter: u64) -> Result<bool> {
        match self.check_gradient(iter) {
            Err(Error::NotFinite { .. }) if self.scaler.can_shrink() => Ok(self.overflowed()),
            other => other.map(|()| false),
        }
    }

    /// Starts a new sum of gradients.
    pub fn clear_gradient(&mut self) {
        self.net.clear_param_diffs();
    }

    /// Forward and backward of one batch (one per data layer), adding to the gradient; returns the
    /// loss.
    ///
    /// # Errors
    /// What a layer reports; [`Error::NotFinite`] for a loss that is NaN or infinite.
    pub fn forward_backward(
        &mut self,
        batches: &mut [Batch],
        step: Step,
        watch: &mut dyn Watch,
    ) -> Result<f32> {
        forward_backward(&mut self.net, batches, step, watch)
    }

    /// Forward only, of the train net: the closing "Iteration N, loss = …".
    ///
    /// # Errors
    /// What a layer reports.
    pub fn evaluate(&mut self, batches: &mut [Batch], step: Step) -> Result<f32> {
        self.net.feed(batches)?;
        self.net.set_step(step);
        self.net.forward_watched(&mut Unwatched)
    }

    /// Turns the gradient into new weights, where it is: on the device as long as nobody has asked for
    /// it on the host, as in a job with one replica. Whether the loss scale is larger from the next one
    /// on.
    ///
    /// # Errors
    /// As [`Optimizer::solve`]; a device that failed.
    pub fn update(&mut self, iter: u64) -> Result<bool> {
        self.tests_current = false;
        if self.asked.take() == Some(iter) {
            return Ok(self.went_well());
        }
        if self.ask_update(iter)? {
            self.net.ask_report()?;
            self.see_norm(iter)?;
        } else {
            let (params, run) = self.net.params_and_run();
            self.optimizer.update(params, iter, run.threads())?;
        }
        Ok(self.went_well())
    }

    /// Turns the gradient into the update, in place, without applying it. Whether the loss scale is larger
    /// from the next one on.
    ///
    /// # Errors
    /// As [`Optimizer::solve`].
    pub fn solve(&mut self, iter: u64) -> Result<bool> {
        let threads = self.net.run().threads();
        self.optimizer.solve(self.net.params(), iter, threads)?;
        Ok(self.went_well())
    }

    /// Whether a part of the gradient can be turned into its update before all of it is known.
    pub fn solves_parts(&self) -> bool {
        self.optimizer.solves_parts()
    }

    /// Outputs of the train net's last pass.
    ///
    /// # Errors
    /// A conversion that fails.
    pub fn train_values(&mut self) -> Result<Vec<Value>> {
        self.net.output_values()
    }

    /// Outputs of one test batch with the present weights, and its loss.
    ///
    /// # Errors
    /// What a layer reports.
    pub fn test(&mut self, net: usize, batches: &mut [Batch]) -> Result<(Vec<Value>, f32)> {
        if !self.tests_current {
            for test_net in &mut self.test_nets {
                test_net.share_weights_of(&self.net)?;
            }
            self.tests_current = true;
        }
        let test_net = &mut self.test_nets[net];
        test_net.feed(batches)?;
        let loss = test_net.forward()?;
        Ok((test_net.output_values()?, loss))
    }
}

/// [`Solver::forward_backward`] for a watch that holds the optimizer.
pub(crate) fn forward_backward(
    net: &mut Net,
    batches: &mut [Batch],
    step: Step,
    watch: &mut dyn Watch,
) -> Result<f32> {
    net.feed(batches)?;
    net.set_step(step);
    if net.run().cuda().is_some() {
        // One wait for both.
        net.pass_watched(watch)?;
        net.ask_report()?;
        return finite(net.see_loss()?, step.iter);
    }
    let loss = finite(net.forward_watched(watch)?, step.iter)?;
    net.backward_watched(watch)?;
    Ok(loss)
}

/// A loss that is a number.
pub(super) fn finite(loss: f32, iter: u64) -> Result<f32> {
    match loss.is_finite() {
        true => Ok(loss),
        false => Err(Error::NotFinite { iter, what: "the loss".into(), value: loss }),
    }
}

/// Checks what no part of the solver looks at by itself.
fn check(param: &SolverParameter) -> Result<()> {
    ensure!(param.max_iter() >= 0, "max_iter must not be negative, got {}", param.max_iter());
    ensure!(param.average_loss() >= 1, "average_loss must be at least 1");
    ensure!(
        param.snapshot() <= 0 || param.snapshot_prefix.is_some(),
        "the solver asks for snapshots but has no snapshot_prefix"
    );
    Ok(())
}

fn build(plan: &NetPlan, options: &SolverOptions) -> Result<Net> {
    let options = NetOptions {
        state: plan.state.clone(),
        seed: options.seed,
        threads: options.threads,
        exact: options.exact,
        cuda: options.cuda.clone(),
        cpu_fallback: options.cpu_fallback,
        blank: options.blank,
        ..NetOptions::new(plan.state.phase())
    };
    Net::new(&plan.param, &plan.origin, &options)
}
