//! A net: layers in order over shared blobs, one copy on one device.
//!
//! [`Net::new`] filters the prototxt's layers by state, inserts splits, builds every layer, decides
//! who needs a gradient and plans memory. After that [`Net::forward`] and [`Net::backward`] run the
//! layers; while shapes repeat they allocate nothing. The net knows no solver, no data source and
//! no other replica: batches are fed in, and a [`Watch`] sees layers start and end.

mod build;
mod feeding;
mod filter;
mod finite;
mod fusion;
mod gradient_flow;
mod loss;
mod memory;
mod memory_data;
mod on_device;
mod options;
mod passes;
mod recorded;
mod reshape;
mod select;
mod split;
mod survey;
mod weights;

pub use filter::is_included;
pub use finite::{all_finite, key_text};
pub use loss::KERNELS as LOSS;
pub use options::{NetOptions, Origin};
pub use weights::CopyReport;

use caffe_proto::{LayerParameter, Phase};

use crate::blob::{BlobId, Epoch, Layout, Store};
use crate::device::{Run, Step};
use crate::layers::{Layer, LayerDef};
use crate::params::{ParamArena, ParamId};
use crate::{Error, Result, bail};

/// Direction of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Bottoms to tops.
    Forward,
    /// Top gradients to bottom gradients.
    Backward,
}

/// Sees every layer start and end: tracing, per-layer times, "this bucket's gradient is complete".
pub trait Watch {
    /// Layer number `index` is about to run.
    fn before(&mut self, _pass: Pass, _index: usize) {}
    /// Layer number `index` has run.
    ///
    /// # Errors
    /// Ends the pass.
    fn after(&mut self, _pass: Pass, _index: usize, _params: &mut ParamArena) -> Result<()> {
        Ok(())
    }
    /// Whether [`after`](Watch::after) does anything for this layer: where many layers are one call of a
    /// device, that is cut there. Always the same for one pass. `None`: every layer has to be seen by
    /// itself, before and after.
    fn cuts(&self, _pass: Pass, _index: usize) -> Option<bool> {
        None
    }
}

/// One number of a net's outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Blob it belongs to.
    pub name: String,
    /// The number.
    pub value: f32,
    /// Weight of the blob in the loss; 0 for scores.
    pub loss_weight: f32,
}

/// Watches nothing.
pub struct Unwatched;
impl Watch for Unwatched {
    fn cuts(&self, _pass: Pass, _index: usize) -> Option<bool> {
        Some(false)
    }
}

/// A layer in its place in the net.
pub struct Node {
    /// The layer itself.
    pub(crate) layer: Box<dyn Layer>,
    /// Its type's definition.
    pub def: &'static LayerDef,
    /// Its prototxt, weights excluded.
    pub param: LayerParameter,
    /// `file:line` where known.
    pub place: Option<String>,
    /// Blobs it reads.
    pub bottom: Vec<BlobId>,
    /// Blobs it writes.
    pub top: Vec<BlobId>,
    /// Its parameters in the arena.
    pub params: Vec<ParamId>,
    /// Which bottoms want a gradient.
    pub propagate_down: Vec<bool>,
    /// Which parameters want a gradient.
    pub param_needs_diff: Vec<bool>,
    /// At which tops a gradient arrives.
    pub top_has_diff: Vec<bool>,
    /// Whether it runs in the backward pass.
    pub needs_backward: bool,
    /// Weight of each top in the loss; 0 for most.
    pub loss_weight: Vec<f32>,
    /// Which layer runs when it is this one's turn, forward and backward: itself, but where layers do each
    /// other's work.
    pub(crate) turns: [Option<usize>; 2],
}

impl Node {
    /// Name of the layer.
    pub fn name(&self) -> &str {
        self.param.name()
    }

    /// Names of the compiled kernels the layer runs, by direction, once it has run; empty where it
    /// runs loops of its own.
    pub fn kernels(&self) -> Vec<(&'static str, String)> {
        self.layer.kernels()
    }

    /// Adds the layer's name, type and place to an error.
    pub(crate) fn blame(&self, source: Error) -> Error {
        Error::Layer {
            name: self.name().to_owned(),
            type_name: self.def.type_name.to_owned(),
            place: self.place.clone(),
            source: Box::new(source),
        }
    }
}

/// A net on one device. Not `Send`: it is built on the thread that runs it.
pub struct Net {
    name: String,
    phase: Phase,
    nodes: Vec<Node>,
    store: Store,
    params: ParamArena,
    run: Run,
    now: Epoch,
    inputs: Vec<BlobId>,
    outputs: Vec<BlobId>,
    /// Layers that read records.
    data_layers: Vec<usize>,
    loss: loss::Loss,
    /// What the loss is multiplied by before it is differentiated.
    loss_scale: f32,
    /// Where batches lie on a device.
    places: feeding::Places,
    /// How many times shapes have changed.
    shapes_changed: u64,
    recorder: recorded::Recorder,
    /// Of blobs and their gradients, in device memory.
    floats_on_device: usize,
}

impl Net {
    /// Name in the prototxt.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Phase it was built for.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The layers, in order, splits included.
    pub fn layers(&self) -> &[Node] {
        &self.nodes
    }

    /// The blobs and their memory.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Parameters and gradients.
    pub fn params(&mut self) -> &mut ParamArena {
        &mut self.params
    }

    /// Parameters, for looking only.
    pub fn arena(&self) -> &ParamArena {
        &self.params
    }

    /// Parameters, and the device to update them on.
    pub fn params_and_run(&mut self) -> (&mut ParamArena, &Run) {
        (&mut self.params, &self.run)
    }

    /// The device context.
    pub fn run(&mut self) -> &mut Run {
        &mut self.run
    }

    /// Blobs of `Input` layers.
    pub fn inputs(&self) -> &[BlobId] {
        &self.inputs
    }

    /// Blobs that no layer reads, in order of creation: the net's results.
    pub fn outputs(&self) -> &[BlobId] {
        &self.outputs
    }

    /// Number of the blob called `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn blob(&self, name: &str) -> Result<BlobId> {
        match self.store.blobs.iter().position(|b| b.name == name) {
            Some(id) => Ok(id),
            None => bail!("net `{}` has no blob called `{name}`", self.name),
        }
    }

    /// Number of the layer called `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn layer(&self, name: &str) -> Result<usize> {
        match self.nodes.iter().position(|n| n.name() == name) {
            Some(i) => Ok(i),
            None => bail!("net `{}` has no layer called `{name}`", self.name),
        }
    }

    /// Numbers of the layers that read records and have to be fed.
    pub fn data_layers(&self) -> &[usize] {
        &self.data_layers
    }

    /// Sets iteration and record position for the passes to come.
    pub fn set_step(&mut self, step: Step) {
        self.run.set_step(step);
    }

    /// Floats of device memory that blobs and their gradients take; 0 on the host.
    pub fn floats_on_device(&self) -> usize {
        self.floats_on_device
    }

    /// Multiplies all gradients of the backward passes to come.
    pub fn set_loss_scale(&mut self, scale: f32) {
        self.loss_scale = scale;
    }

    /// Values of a blob, in plain order.
    ///
    /// # Errors
    /// A conversion that fails.
    pub fn data(&mut self, id: BlobId) -> Result<&[f32]> {
        self.view(id, false)
    }

    /// Gradient of a blob, in plain order.
    ///
    /// # Errors
    /// A conversion that fails.
    pub fn diff(&mut self, id: BlobId) -> Result<&[f32]> {
        self.view(id, true)
    }

    /// Values of a blob, to be written in plain order.
    ///
    /// # Errors
    /// A conversion that fails.
    pub fn data_mut(&mut self, id: BlobId) -> Result<&mut [f32]> {
        self.view_mut(id, false)
    }

    /// Gradient of a blob, to be written in plain order (seeds of a backward pass).
    ///
    /// # Errors
    /// A conversion that fails.
    pub fn diff_mut(&mut self, id: BlobId) -> Result<&mut [f32]> {
        self.view_mut(id, true)
    }

    fn view(&mut self, id: BlobId, diff: bool) -> Result<&[f32]> {
        self.now += 1;
        let blob = &self.store.blobs[id];
        let slab = &self.store.slabs[if diff { blob.diff } else { blob.data }];
        slab.read(self.now, Layout::Plain, &blob.shape, self.run.threads())
    }

    fn view_mut(&mut self, id: BlobId, diff: bool) -> Result<&mut [f32]> {
        self.now += 1;
        let blob = &self.store.blobs[id];
        let slab = &self.store.slabs[if diff { blob.diff } else { blob.data }];
        slab.update(self.now, Layout::Plain, &blob.shape, self.run.threads())
    }

    /// Sets all parameter gradients to zero.
    pub fn clear_param_diffs(&mut self) {
        self.params.clear_diff();
    }

    /// The outputs value by value, as Caffe counts and displays them.
    ///
    /// # Errors
    /// A conversion that fails.
    pub fn output_values(&mut self) -> Result<Vec<Value>> {
        let mut values = self.output_names();
        let mut at = 0;
        for i in 0..self.outputs.len() {
            for &value in self.data(self.outputs[i])? {
                values[at].value = value;
                at += 1;
            }
        }
        Ok(values)
    }

    /// Names and loss weights of the outputs, value by value; the values are 0.
    pub fn output_names(&self) -> Vec<Value> {
        let of = |&id: &BlobId| {
            let blob = &self.store.blobs[id];
            let loss_weight = self.loss_weight_of(id);
            let value = Value { name: blob.name.clone(), value: 0.0, loss_weight };
            std::iter::repeat_n(value, blob.shape.count())
        };
        self.outputs.iter().flat_map(of).collect()
    }

    fn loss_weight_of(&self, id: BlobId) -> f32 {
        let weights = self.nodes.iter().flat_map(|n| n.top.iter().zip(&n.loss_weight));
        weights.filter(|(top, _)| **top == id).map(|(_, &w)| w).sum()
    }
}
