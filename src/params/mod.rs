//! Parameters and gradients of a net: one flat, plain-order f32 arena each.
//!
//! The arena is the only form of the parameters that solver, communicator and snapshot see. The
//! learnable parameters (lr_mult ≠ 0) come first, in net order, each once even when several layers
//! share it; behind them lie the *statistics*, which no solver touches (BatchNorm's blobs, fixed
//! weights). Every parameter starts on a [`GRAIN`]; the gaps stay zero. Packed copies are a layer's
//! private caches, valid for one [`ParamArena::version`].
//!
//! A net on a CUDA device has its arena on both sides, parameter by parameter wherever it was changed
//! last ([`Mirrored`]): whoever asks on the host gets the present values, and an error when the device
//! has failed; while nobody asks, weights and gradients stay on the device. A device of 16 bits has a
//! copy of the values in them, made once after each change.

mod mirrored;
mod on_device;

pub(crate) use mirrored::Place;
pub use mirrored::{Mirrored, Use};

use std::cell::{Cell, OnceCell};
use std::ops::Range;
use std::rc::Rc;

use caffe_proto::{FillerParameter, ParamSpec};

use crate::blob::{Epoch, Lent, Shape};
use crate::device::cuda::backend::Backend;
use crate::device::cuda::memory::Memory;
use crate::{Result, ensure};

/// Floats at whose multiples parameters start: 64 bytes.
pub const GRAIN: usize = 16;

/// Number of a parameter in its net (owners only; sharers have their owner's number).
pub type ParamId = usize;

/// What a layer declares about one of its parameter blobs.
#[derive(Clone, Debug)]
pub struct ParamDef {
    /// Extents of the blob.
    pub shape: Shape,
    /// How it starts.
    pub filler: FillerParameter,
    /// Values the layer itself maintains in its forward pass: never given to a solver.
    pub statistic: bool,
}

impl ParamDef {
    /// A parameter that the solver learns.
    pub fn learned(shape: Shape, filler: FillerParameter) -> Self {
        ParamDef { shape, filler, statistic: false }
    }

    /// Values that the layer's forward pass maintains, zero at first.
    pub fn statistic(shape: Shape) -> Self {
        ParamDef { shape, filler: FillerParameter::default(), statistic: true }
    }
}

/// One parameter of the net.
#[derive(Clone, Debug)]
pub struct Param {
    /// `param { name }`, empty when not shared by name.
    pub name: String,
    /// Number of the layer that owns it.
    pub layer: usize,
    /// Its place among the owner's blobs.
    pub index: usize,
    /// Extents.
    pub shape: Shape,
    /// Where its values lie in the arena.
    pub range: Range<usize>,
    /// Factor on the learning rate.
    pub lr_mult: f32,
    /// Factor on the weight decay.
    pub decay_mult: f32,
    /// Maintained by its layer or fixed (lr_mult 0): outside the solver's reach.
    pub statistic: bool,
    /// Maintained by its layer's forward pass (BatchNorm): averaged over replicas.
    pub maintained: bool,
}

/// Parameter values and gradients of one replica.
pub struct ParamArena {
    params: Vec<Param>,
    lent: Vec<(Lent, Lent)>,
    data: Mirrored,
    diff: Mirrored,
    learnable: usize,
    version: Cell<u64>,
    /// The values in a device's kind of 16 bits, and the version they are a copy of.
    halves: OnceCell<Memory>,
    halved: Cell<u64>,
}

/// A parameter before the arena is laid out.
pub struct Declared {
    /// `param { … }` of the layer, where given.
    pub spec: ParamSpec,
    /// Number of the owning layer.
    pub layer: usize,
    /// Its place among the owner's blobs.
    pub index: usize,
    /// The layer's declaration.
    pub def: ParamDef,
}

impl ParamArena {
    /// Lays out the declared parameters: learnable ones first, then statistics.
    pub fn new(declared: &[Declared]) -> Self {
        let mut params: Vec<Param> = declared
            .iter()
            .map(|d| Param {
                name: d.spec.name().to_owned(),
                layer: d.layer,
                index: d.index,
                range: 0..d.def.shape.count(),
                shape: d.def.shape.clone(),
                lr_mult: d.spec.lr_mult(),
                decay_mult: d.spec.decay_mult(),
                statistic: d.def.statistic || d.spec.lr_mult() == 0.0,
                maintained: d.def.statistic,
            })
            .collect();
        let mut at = 0;
        let mut place = |p: &mut Param| {
            p.range = at..at + p.shape.count();
            at = p.range.end.next_multiple_of(GRAIN);
        };
        params.iter_mut().filter(|p| !p.statistic).for_each(&mut place);
        let learnable = params
            .iter()
            .filter(|p| !p.statistic)
            .map(|p| p.range.end.next_multiple_of(GRAIN))
            .max()
            .unwrap_or(0);
        params.iter_mut().filter(|p| p.statistic).for_each(place);
        let len = params.iter().map(|p| p.range.end.next_multiple_of(GRAIN)).max().unwrap_or(0);
        // With the gap behind each: whoever writes a whole bucket writes there, too.
        let whole = |p: &Param| p.range.start..p.range.end.next_multiple_of(GRAIN);
        let array = || Mirrored::zeroed(len, params.iter().map(whole));
        ParamArena {
            lent: params.iter().map(|_| Default::default()).collect(),
            data: array(),
            diff: array(),
            params,
            learnable,
            version: Cell::new(1),
            halves: OnceCell::new(),
            halved: Cell::new(0),
        }
    }

    /// Floats of all values together, gaps between parameters included.
    pub fn floats(&self) -> usize {
        self.data.floats()
    }

    /// The parameters, by [`ParamId`]: owners in net order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Floats in the learnable part (gaps included), the flat vector of solver and communicator.
    pub fn learnable_len(&self) -> usize {
        self.learnable
    }

    /// All values, learnable part first, to be changed.
    ///
    /// # Errors
    /// A device that has them and failed.
    pub fn data(&mut self) -> Result<&mut [f32]> {
        self.changed();
        self.data.whole(Use::Change)
    }

    /// All gradients, learnable part first, to be changed.
    ///
    /// # Errors
    /// A device that has them and failed.
    pub fn diff(&mut self) -> Result<&mut [f32]> {
        self.diff.whole(Use::Change)
    }

    /// The values in a part of the arena, to be read.
    ///
    /// # Errors
    /// A device that has them and failed.
    pub fn data_in(&mut self, part: Range<usize>) -> Result<&[f32]> {
        Ok(&self.data.host(&part, Use::Read)?[part])
    }

    /// The values in a part of the arena, to be changed.
    ///
    /// # Errors
    /// A device that has them and failed.
    pub fn data_in_mut(&mut self, part: Range<usize>) -> Result<&mut [f32]> {
        self.changed();
        Ok(&mut self.data.host(&part, Use::Change)?[part])
    }

    /// The gradients in a part of the arena, to be read.
    ///
    /// # Errors
    /// A device that has them and failed.
    pub fn diff_in(&mut self, part: Range<usize>) -> Result<&[f32]> {
        Ok(&self.diff.host(&part, Use::Read)?[part])
    }

    /// The gradients in a part of the arena, to be changed.
    ///
    /// # Errors
    /// A device that has them and failed.
    pub fn diff_in_mut(&mut self, part: Range<usize>) -> Result<&mut [f32]> {
        Ok(&mut self.diff.host(&part, Use::Change)?[part])
    }

    /// Values and gradients together, for an update.
    ///
    /// # Errors
    /// A device that has them and failed.
    pub fn data_and_diff(&mut self) -> Result<(&mut [f32], &mut [f32])> {
        self.changed();
        Ok((self.data.whole(Use::Change)?, self.diff.whole(Use::Change)?))
    }

    /// Values and gradients together, for an update of `part` that leaves the values alone. What lies
    /// outside of `part` may be old.
    ///
    /// # Errors
    /// A device that has them and failed.
    pub fn values_and_diff(&mut self, part: &Range<usize>) -> Result<(&mut [f32], &mut [f32])> {
        Ok((self.data.host(part, Use::Read)?, self.diff.host(part, Use::Change)?))
    }

    /// Values of one parameter, for reading outside layer calls.
    ///
    /// # Errors
    /// A device that has them and failed.
    pub fn values(&mut self, id: ParamId) -> Result<&[f32]> {
        self.data_in(self.params[id].range.clone())
    }

    /// Gradient of one parameter, for reading outside layer calls.
    ///
    /// # Errors
    /// A device that has it and failed.
    pub fn gradient(&mut self, id: ParamId) -> Result<&[f32]> {
        self.diff_in(self.params[id].range.clone())
    }

    /// Replaces the values of one parameter.
    ///
    /// # Errors
    /// When the number of values differs; a device that failed.
    pub fn set_values(&mut self, id: ParamId, values: &[f32]) -> Result<()> {
        self.check_len(id, values.len())?;
        self.changed();
        let range = self.params[id].range.clone();
        self.data.host(&range, Use::Change)?[range].copy_from_slice(values);
        Ok(())
    }

    /// Takes over a parameter's values from another arena, without the host where both are on one
    /// device.
    ///
    /// # Errors
    /// When the number of values differs; a device that failed.
    pub fn copy_values(&mut self, id: ParamId, from: &ParamArena, other: ParamId) -> Result<()> {
        self.check_len(id, from.params[other].range.len())?;
        self.changed();
        self.data.copy_from(id, &from.data, other)
    }

    fn check_len(&self, id: ParamId, values: usize) -> Result<()> {
        let param = &self.params[id];
        ensure!(
            values == param.range.len(),
            "parameter of shape {} cannot take {values} values",
            param.shape
        );
        Ok(())
    }

    /// Changes whenever values change from outside a layer; keys the layers' packed copies.
    pub fn version(&self) -> u64 {
        self.version.get()
    }

    fn changed(&self) {
        self.version.set(self.version.get() + 1);
    }

    /// Sets all gradients to zero, wherever they are.
    pub fn clear_diff(&mut self) {
        self.diff.clear();
    }

    /// Values during a layer call.
    pub(crate) fn lend(&self, id: ParamId, now: Epoch) -> Result<&[f32]> {
        self.lent[id].0.read(now, "a parameter")?;
        // SAFETY: the read borrow of this call was granted; ranges of parameters are disjoint, and
        // whole-arena access takes `&mut self`.
        let values = unsafe { self.data.lend(id, Use::Read) }?;
        Ok(&values[..self.params[id].range.len()])
    }

    /// Values that the layer changes during its call (statistics).
    #[allow(clippy::mut_from_ref)]
    pub(crate) fn lend_mut(&self, id: ParamId, now: Epoch) -> Result<&mut [f32]> {
        self.lent[id].0.write(now, "a parameter")?;
        // Only the layer itself reads its statistics: packed copies of weights stay valid.
        // SAFETY: the write borrow of this call was granted; otherwise as in `lend`.
        let values = unsafe { self.data.lend(id, Use::Change) }?;
        Ok(&mut values[..self.params[id].range.len()])
    }

    /// Gradient to add to during a layer call.
    #[allow(clippy::mut_from_ref)]
    pub(crate) fn lend_diff(&self, id: ParamId, now: Epoch) -> Result<&mut [f32]> {
        self.lent[id].1.write(now, "a parameter gradient")?;
        // SAFETY: as in `lend_mut`.
        let gradient = unsafe { self.diff.lend(id, Use::Change) }?;
        Ok(&mut gradient[..self.params[id].range.len()])
    }

    fn halves_on(&self, device: &Rc<dyn Backend>) -> Result<&Memory> {
        if let Some(there) = self.halves.get() {
            return Ok(there);
        }
        let memory = Memory::new(device, device.kind().floats(self.data.floats()))?;
        Ok(self.halves.get_or_init(|| memory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(count: usize, lr: f32) -> Declared {
        Declared {
            spec: ParamSpec { lr_mult: Some(lr), ..Default::default() },
            layer: 0,
            index: 0,
            def: ParamDef::learned(Shape::from([count]), FillerParameter::default()),
        }
    }

    #[test]
    fn learnable_parameters_come_first_and_are_aligned() {
        let arena = ParamArena::new(&[declared(5, 1.0), declared(3, 0.0), declared(17, 2.0)]);
        let r: Vec<_> = arena.params().iter().map(|p| p.range.clone()).collect();
        assert_eq!(r, [0..5, 48..51, 16..33]);
        assert_eq!(arena.learnable_len(), 48);
    }

    #[test]
    fn one_gradient_is_lent_once_a_call() {
        let arena = ParamArena::new(&[declared(5, 1.0), declared(5, 1.0)]);
        let a = arena.lend_diff(0, 1).unwrap();
        let b = arena.lend_diff(1, 1).unwrap();
        a[0] = 1.0;
        b[0] = 2.0;
        assert!(arena.lend_diff(0, 1).is_err());
        assert_eq!(arena.lend_diff(0, 2).unwrap()[0], 1.0);
    }

    #[test]
    fn clearing_reaches_the_gaps_between_parameters() {
        let mut arena = ParamArena::new(&[declared(5, 1.0), declared(17, 1.0)]);
        arena.diff_in_mut(0..48).unwrap().fill(f32::NAN);
        arena.clear_diff();
        assert!(arena.diff().unwrap().iter().all(|g| *g == 0.0));
    }
}
