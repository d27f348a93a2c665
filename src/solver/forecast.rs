//! [`Forecast`]: the device memory of one replica, before any of it is taken.
//!
//! The replica is built and takes one step on a device that only counts
//! ([`Meter`]), so that whatever layers and solver ask for is known: blobs, parameters,
//! layers' working memory, histories, test nets. No device is needed for that.

use std::fmt;
use std::rc::Rc;

use caffe_proto::SolverParameter;

use super::nets::NetPlans;
use super::replica::{Solver, SolverOptions};
use crate::data::Batch;
use crate::device::Step;
use crate::device::cuda::algorithms::Wanted;
use crate::device::cuda::backend::WORKSPACE;
use crate::device::cuda::meter::Meter;
use crate::device::cuda::{CudaDevice, Kind};
use crate::net::{Net, Unwatched};
use crate::{Result, bail};

/// Bytes that the libraries load and keep for themselves on a device: an allowance, as only the
/// device knows.
const LIBRARIES: u64 = 512 << 20;

/// Bytes of device memory that a replica will have taken after its first step and test.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// The train net's blobs and their gradients.
    pub blobs: u64,
    /// Its parameters, their gradients, and their copy in 16 bits where there is one.
    pub parameters: u64,
    /// All test nets' blobs and parameters.
    pub tests: u64,
    /// What layers and solver take in the first step and test: working memory, histories.
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
        let kind = options.cuda.as_ref().map_or(Kind::F32, |device| device.0.kind());
        let meter = Rc::new(Meter::default().storing(kind));
        let options =
            SolverOptions { cuda: Some(CudaDevice(meter.clone())), blank: true, ..options.clone() };
        let mut solver = Solver::new(param, nets, &options)?;
        let net = solver.train_net();
        let floats = |count: usize| (count * size_of::<f32>()) as u64;
        let blobs = floats(net.floats_on_device());
        let copy = if kind == Kind::F32 { 0 } else { kind.floats(net.arena().floats()) };
        let parameters = floats(2 * net.arena().floats() + copy);
        let built = meter.held();
        step(&mut solver, updates)?;
        Ok(Forecast {
            blobs,
            parameters,
            tests: built.saturating_sub(blobs + parameters),
            steps: meter.held().saturating_sub(built),
            block: meter.high(),
            workspace: match meter.has_workspace() {
                true => WORKSPACE as u64 + meter.largest_gradient(),
                false => 0,
            },
            trials: meter.largest_correlation(),
            correlations: meter.correlations(),
        })
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
        write!(
            f,
            "{} MB (blobs {}, parameters {}, test nets {}, layers' and solver's working memory {}, \
             libraries and their workspace {})",
            self.total() / MB,
            self.blobs / MB,
            self.parameters / MB,
            self.tests / MB,
            others / MB,
            (self.workspace + self.trials + LIBRARIES) / MB
        )
    }
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
    let batch = |&layer: &usize| {
        let tops = net.layers()[layer].top.iter().map(|&id| &net.store().blobs[id].shape);
        let shapes: Vec<Vec<usize>> = tops.map(|shape| shape.dims().to_vec()).collect();
        let tops = shapes.iter().map(|shape| vec![0.0; shape.iter().product()]).collect();
        Batch { tops, shapes, ..Batch::default() }
    };
    net.data_layers().iter().map(batch).collect()
}
