//! [`Solver`]: one replica of the job, ready for whoever drives it.

use caffe_proto::SolverParameter;

use super::nets::{NetPlan, NetPlans};
use super::optimizer::Optimizer;
use crate::data::Batch;
use crate::device::Step;
use crate::device::cuda::CudaDevice;
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
    /// Parameters stay zero: for who only wants to know what such a replica needs.
    pub blank: bool,
}

impl SolverOptions {
    /// On the CPU, by the fast path.
    pub fn new(threads: usize, seed: u64) -> Self {
        SolverOptions { threads, exact: false, seed, cuda: None, cpu_fallback: false, blank: false }
    }
}

/// Train net, test nets and optimizer on one device.
pub struct Solver {
    param: SolverParameter,
    net: Net,
    test_nets: Vec<Net>,
    /// Whether the test nets have the train net's present weights.
    tests_current: bool,
    optimizer: Optimizer,
}

impl Solver {
    /// Builds all nets of a solver.
    ///
    /// # Errors
    /// Anything wrong in solver or nets, with its place.
    pub fn new(param: &SolverParameter, nets: &NetPlans, options: &SolverOptions) -> Result<Self> {
        check(param)?;
        let net = build(&nets.train, options)?;
        let mut solver = Solver {
            optimizer: Optimizer::new(param, net.arena())?,
            param: param.clone(),
            net,
            test_nets: Vec::with_capacity(nets.test.len()),
            tests_current: false,
        };
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
    /// it on the host, as in a job with one replica.
    ///
    /// # Errors
    /// As [`Optimizer::solve`]; a device that failed.
    pub fn update(&mut self, iter: u64) -> Result<()> {
        self.tests_current = false;
        let (params, run) = self.net.params_and_run();
        match run.cuda() {
            Some(cuda) if params.gradient_is_away() => self.optimizer.update_on(params, iter, cuda),
            _ => self.optimizer.update(params, iter, run.threads()),
        }
    }

    /// Looks at a gradient that only the device has.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when its norm is not; a device that failed.
    pub fn check_gradient(&mut self, iter: u64) -> Result<()> {
        let (params, run) = self.net.params_and_run();
        match run.cuda() {
            Some(cuda) if params.gradient_is_away() => self.optimizer.check_on(params, iter, cuda),
            _ => Ok(()),
        }
    }

    /// Turns the gradient into the update, in place, without applying it.
    ///
    /// # Errors
    /// As [`Optimizer::solve`].
    pub fn solve(&mut self, iter: u64) -> Result<()> {
        let threads = self.net.run().threads();
        self.optimizer.solve(self.net.params(), iter, threads)
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
    let loss = net.forward_watched(watch)?;
    if !loss.is_finite() {
        return Err(Error::NotFinite { iter: step.iter, what: "the loss".into(), value: loss });
    }
    net.backward_watched(watch)?;
    Ok(loss)
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
