//! [`Forecast`]: the device memory of one replica, or of one net, before any of it is taken.
//!
//! The replica is built and takes one step on a device that only counts
//! ([`Meter`]), so that whatever layers and solver ask for is known: blobs, parameters,
//! layers' working memory, histories, test nets. A net alone makes its passes. No device is needed for
//! that.

use std::fmt;
use std::rc::Rc;

use caffe_proto::SolverParameter;

use super::feeds::DataLayers;
use super::nets::{NetPlan, NetPlans};
use super::replica::{Solver, SolverOptions};
use crate::data::Batch;
use crate::device::Step;
use crate::device::cuda::algorithms::Wanted;
use crate::device::cuda::backend::WORKSPACE;
use crate::device::cuda::meter::Meter;
use crate::device::cuda::{CudaDevice, Kind, Order};
use crate::net::{Net, NetOptions, Pass, Unwatched};
use crate::{Result, bail};

/// Bytes that the libraries load and keep for themselves on a device: an allowance, as only the
/// device knows.
const LIBRARIES: u64 = 512 << 20;

/// Bytes of device memory that will have been taken after a replica's first step and test, or a net's first
/// passes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// The train net's blobs and their gradients.
    pub blobs: u64,
    /// Its parameters, their gradients, and their copies in 16 bits and with channels last where there are some.
    pub parameters: u64,
    /// All test nets' blobs and parameters.
    pub tests: u64,
    /// What layers and solver take in the first step and test, or in passes: working memory, histories.
    pub steps: u64,
    /// Bytes of the block in which all of these have room.
    pub block: u64,
    /// What products and convolutions may work in.
    pub workspace: u64,
    /// What trying a convolution's algorithms takes for a moment.
    pub trials: u64,
    /// What will be asked for of convolutions, in order; those whose size only a pass tells are missing.
    pub correlations: Vec<Wanted>,
}

impl Forecast {
    /// Of such a replica; `updates`: whether it updates its weights on the device, as a lone one does.
    ///
    /// # Errors
    /// Whatever is wrong with the nets.
    pub fn of(
        param: &SolverParameter,
        nets: &NetPlans,
        options: &SolverOptions,
        updates: bool,
    ) -> Result<Forecast> {
        let (meter, cuda) = meter(options.cuda.as_ref());
        let options = SolverOptions { cuda, graphs: false, blank: true, ..options.clone() };
        let mut solver = Solver::new(param, nets, &options)?;
        let [blobs, parameters] = held_by(solver.train_net());
        let built = meter.held();
        step(&mut solver, updates)?;
        let tests = match nets.test.len() {
            0 => 0,
            _ => built.saturating_sub(blobs + parameters),
        };
        Ok(Forecast { blobs, parameters, tests, ..Forecast::of_passes(&meter, built) })
    }

    /// Of one net that makes passes up to `last`, as `caffe test` and `caffe time` have it.
    ///
    /// # Errors
    /// Whatever is wrong with the net; one that only a program can feed.
    pub fn of_net(plan: &NetPlan, options: &NetOptions, last: Pass) -> Result<Forecast> {
        let (meter, cuda) = meter(options.cuda.as_ref());
        let options = NetOptions { cuda, blank: true, ..options.clone() };
        let mut net = Net::new(&plan.param, &plan.origin, &options)?;
        DataLayers::of(plan)?;
        let [blobs, parameters] = held_by(&net);
        let built = meter.held();
        let mut batches = zeros(&net);
        net.feed(&mut batches)?;
        net.forward()?;
        net.output_values()?;
        if last == Pass::Backward {
            net.backward()?;
        }
        Ok(Forecast { blobs, parameters, ..Forecast::of_passes(&meter, built) })
    }

    /// What passes took beside the `built` bytes before them, and all that has to be there for both.
    fn of_passes(meter: &Meter, built: u64) -> Forecast {
        Forecast {
            steps: meter.held().saturating_sub(built),
            block: meter.high(),
            workspace: match meter.has_workspace() {
                true => WORKSPACE as u64 + meter.largest_gradient(),
                false => 0,
            },
            trials: meter.largest_correlation(),
            correlations: meter.correlations(),
            ..Forecast::default()
        }
    }

    /// Bytes of everything.
    pub fn total(&self) -> u64 {
        self.block + self.workspace + self.trials + LIBRARIES
    }

    /// Refuses what does not fit, and takes what does from the device in one piece.
    ///
    /// # Errors
    /// A device with less free memory, with the numbers; one that failed.
    pub fn reserve(&self, device: &CudaDevice) -> Result<()> {
        if let Some(free) = device.0.free_memory()?
            && free < self.total()
        {
            bail!(
                "{device:?} has {} MB free, but the job needs {self}; {}",
                free / MB,
                self.advice(free)
            );
        }
        device.0.reserve(self.block)
    }

    /// What could be done with so many bytes: all but parameters grows with the batch.
    fn advice(&self, free: u64) -> String {
        let fixed = self.parameters + self.workspace + LIBRARIES;
        let batch = self.total().saturating_sub(fixed).max(1);
        match free.saturating_sub(fixed) * 100 / batch {
            0 => "no batch would fit: take a device with more memory".into(),
            percent => format!("batches of about {percent} % of the present size would fit"),
        }
    }
}

const MB: u64 = 1_000_000;

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let others = self.block.saturating_sub(self.blobs + self.parameters + self.tests);
        let tests = match self.tests {
            0 => String::new(),
            tests => format!("test nets {}, ", tests / MB),
        };
        write!(
            f,
            "{} MB (blobs {}, parameters {}, {tests}working memory {}, libraries and their workspace {})",
            self.total() / MB,
            self.blobs / MB,
            self.parameters / MB,
            others / MB,
            (self.workspace + self.trials + LIBRARIES) / MB
        )
    }
}

/// What counts for a device, in its kind.
fn meter(device: Option<&CudaDevice>) -> (Rc<Meter>, Option<CudaDevice>) {
    let kind = device.map_or(Kind::F32, |device| device.0.kind());
    let order = device.map_or(Order::Plain, |device| device.0.order());
    let meter = Rc::new(Meter::default().storing(kind).ordered(order));
    (meter.clone(), Some(CudaDevice(meter)))
}

/// Bytes of a net's blobs and their gradients, and of its parameters, gradients (where it learns) and copies
/// in 16 bits or with channels last.
fn held_by(net: &Net) -> [u64; 2] {
    let own = net.arena().floats();
    let learns = net.layers().iter().any(|node| node.needs_backward);
    let parameters = if learns { 2 * own } else { own } + net.arena().copies();
    [net.floats_on_device(), parameters].map(|floats| (floats * size_of::<f32>()) as u64)
}

/// A step on zeros, and a batch of every test net.
fn step(solver: &mut Solver, updates: bool) -> Result<()> {
    let mut batches = zeros(solver.train_net());
    solver.clear_gradient();
    solver.forward_backward(&mut batches, Step::default(), &mut Unwatched)?;
    if updates {
        solver.check_gradient(0)?;
        solver.update(0)?;
    }
    for test in 0..solver.tests().len() {
        let mut batches = zeros(&solver.tests()[test]);
        solver.test(test, &mut batches)?;
    }
    Ok(())
}

/// A batch of zeros for each data layer.
fn zeros(net: &Net) -> Vec<Batch> {
    let blank = |&layer: &usize| net.layers()[layer].layer.blank().unwrap_or_default();
    net.data_layers().iter().map(blank).collect()
}
