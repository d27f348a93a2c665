//! Parameters and gradients of a net: one flat, plain-order f32 arena each.
//!
//! The arena is the only form of the parameters that solver, communicator and snapshot see. The
//! learnable parameters (lr_mult ≠ 0) come first, in net order, each once even when several layers
//! share it; behind them lie the *statistics*, which no solver touches (BatchNorm's blobs, fixed
//! weights). Every parameter starts on a 64-byte boundary; the gaps stay zero. Packed or device
//! copies are a layer's private caches, valid for one [`ParamArena::version`].

use std::cell::{Cell, OnceCell, UnsafeCell};
use std::ops::Range;
use std::rc::Rc;

use caffe_proto::{FillerParameter, ParamSpec};

use crate::blob::{Epoch, Lent, Shape};
use crate::device::cpu::aligned::AlignedBuf;
use crate::device::cuda::backend::{Address, Backend};
use crate::device::cuda::memory::Memory;
use crate::{Result, ensure};

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
#[derive(Default)]
pub struct ParamArena {
    params: Vec<Param>,
    lent: Vec<(Lent, Lent)>,
    data: UnsafeCell<AlignedBuf>,
    diff: UnsafeCell<AlignedBuf>,
    learnable: usize,
    version: Cell<u64>,
    device: OnceCell<OnDevice>,
}

/// The arena's copy on a CUDA device. The host's is the one that counts: values go to the device when
/// they have changed, gradients and statistics come back after the layer that made them.
struct OnDevice {
    data: Memory,
    diff: Memory,
    /// The version of the values there.
    version: Cell<u64>,
    /// The gradients there are to be zero.
    cleared: Cell<bool>,
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
            at = p.range.end.next_multiple_of(16);
        };
        params.iter_mut().filter(|p| !p.statistic).for_each(&mut place);
        let learnable = params
            .iter()
            .filter(|p| !p.statistic)
            .map(|p| p.range.end.next_multiple_of(16))
            .max()
            .unwrap_or(0);
        params.iter_mut().filter(|p| p.statistic).for_each(place);
        let len = params.iter().map(|p| p.range.end.next_multiple_of(16)).max().unwrap_or(0);
        ParamArena {
            lent: params.iter().map(|_| Default::default()).collect(),
            params,
            data: UnsafeCell::new(AlignedBuf::zeroed(len)),
            diff: UnsafeCell::new(AlignedBuf::zeroed(len)),
            learnable,
            version: Cell::new(1),
            device: OnceCell::new(),
        }
    }

    /// The parameters, by [`ParamId`]: owners in net order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Floats in the learnable part (gaps included), the flat vector of solver and communicator.
    pub fn learnable_len(&self) -> usize {
        self.learnable
    }

    /// All values, learnable part first.
    pub fn data(&mut self) -> &mut [f32] {
        self.version.set(self.version.get() + 1);
        self.data.get_mut()
    }

    /// All gradients, learnable part first.
    pub fn diff(&mut self) -> &mut [f32] {
        self.diff.get_mut()
    }

    /// Values and gradients together, for an update.
    pub fn data_and_diff(&mut self) -> (&mut [f32], &mut [f32]) {
        self.version.set(self.version.get() + 1);
        (self.data.get_mut(), self.diff.get_mut())
    }

    /// Values and gradients together, for an update that leaves the values alone.
    pub fn values_and_diff(&mut self) -> (&mut [f32], &mut [f32]) {
        (self.data.get_mut(), self.diff.get_mut())
    }

    /// Values of one parameter, for reading outside layer calls.
    pub fn values(&mut self, id: ParamId) -> &[f32] {
        let range = self.params[id].range.clone();
        &self.data.get_mut()[range]
    }

    /// Gradient of one parameter, for reading outside layer calls.
    pub fn gradient(&mut self, id: ParamId) -> &[f32] {
        let range = self.params[id].range.clone();
        &self.diff.get_mut()[range]
    }

    /// Replaces the values of one parameter.
    ///
    /// # Errors
    /// When the number of values differs.
    pub fn set_values(&mut self, id: ParamId, values: &[f32]) -> Result<()> {
        let param = &self.params[id];
        ensure!(
            values.len() == param.range.len(),
            "parameter of shape {} cannot take {} values",
            param.shape,
            values.len()
        );
        let range = param.range.clone();
        self.data()[range].copy_from_slice(values);
        Ok(())
    }

    /// Changes whenever values change from outside a layer; keys the layers' packed copies.
    pub fn version(&self) -> u64 {
        self.version.get()
    }

    /// Values during a layer call.
    pub(crate) fn lend(&self, id: ParamId, now: Epoch) -> Result<&[f32]> {
        self.lent[id].0.read(now, "a parameter")?;
        // SAFETY: the read borrow of this call was granted; ranges of parameters are disjoint, and
        // whole-arena access takes `&mut self`.
        Ok(unsafe { &(&*self.data.get())[self.params[id].range.clone()] })
    }

    /// Values that the layer changes during its call (statistics).
    #[allow(clippy::mut_from_ref)]
    pub(crate) fn lend_mut(&self, id: ParamId, now: Epoch) -> Result<&mut [f32]> {
        self.lent[id].0.write(now, "a parameter")?;
        // Only the layer itself reads its statistics: packed copies of weights stay valid.
        // SAFETY: the write borrow of this call was granted; otherwise as in `lend`.
        Ok(unsafe { self.range_mut(&self.data, id) })
    }

    /// Gradient to add to during a layer call.
    #[allow(clippy::mut_from_ref)]
    pub(crate) fn lend_diff(&self, id: ParamId, now: Epoch) -> Result<&mut [f32]> {
        self.lent[id].1.write(now, "a parameter gradient")?;
        // SAFETY: as in `lend_mut`.
        Ok(unsafe { self.range_mut(&self.diff, id) })
    }

    /// Sets all gradients to zero, wherever they are.
    pub fn clear_diff(&mut self) {
        self.diff().fill(0.0);
        if let Some(device) = self.device.get() {
            device.cleared.set(true);
        }
    }

    fn on(&self, device: &Rc<dyn Backend>) -> Result<&OnDevice> {
        if let Some(there) = self.device.get() {
            return Ok(there);
        }
        // SAFETY: only the length is read.
        let floats = unsafe { (&*self.data.get()).len() };
        let (data, diff) = (Memory::new(device, floats)?, Memory::new(device, floats)?);
        let (version, cleared) = (Cell::new(0), Cell::new(true));
        Ok(self.device.get_or_init(|| OnDevice { data, diff, version, cleared }))
    }

    /// Values on a device, during a layer call.
    pub(crate) fn lend_on(&self, id: ParamId, device: &Rc<dyn Backend>) -> Result<Address> {
        let there = self.on(device)?;
        if there.version.get() != self.version() {
            // SAFETY: no layer writes values on the host while another uses them on the device: the
            // net runs one at a time, and `fetch` below is over before the next.
            there.data.upload(unsafe { &*self.data.get() })?;
            there.version.set(self.version());
        }
        Ok(there.data.at().plus(self.params[id].range.start))
    }

    /// Gradient on a device, to be added to during a layer call.
    pub(crate) fn lend_diff_on(&self, id: ParamId, device: &Rc<dyn Backend>) -> Result<Address> {
        let there = self.on(device)?;
        if there.cleared.replace(false) {
            there.diff.zero()?;
        }
        Ok(there.diff.at().plus(self.params[id].range.start))
    }

    /// Brings the gradient that a layer has added to on the device.
    ///
    /// # Errors
    /// A device that failed.
    pub(crate) fn fetch_diff(&mut self, id: ParamId) -> Result<()> {
        let range = self.params[id].range.clone();
        match self.device.get() {
            Some(there) if !there.cleared.get() => {
                let from = there.diff.at().plus(range.start);
                there.diff.device().download(from, &mut self.diff.get_mut()[range])
            }
            _ => Ok(()),
        }
    }

    /// Brings values that a layer maintains (statistics) and has changed on the device.
    ///
    /// # Errors
    /// A device that failed.
    pub(crate) fn fetch_values(&mut self, id: ParamId) -> Result<()> {
        let range = self.params[id].range.clone();
        match self.device.get() {
            Some(there) if there.version.get() == self.version.get() => {
                let from = there.data.at().plus(range.start);
                there.data.device().download(from, &mut self.data.get_mut()[range])
            }
            _ => Ok(()),
        }
    }

    /// # Safety
    /// The caller holds the write borrow of this parameter in this call.
    #[allow(clippy::mut_from_ref)]
    unsafe fn range_mut(&self, of: &UnsafeCell<AlignedBuf>, id: ParamId) -> &mut [f32] {
        let range = self.params[id].range.clone();
        // SAFETY: a raw slice of this range only; other parameters' slices stay untouched.
        unsafe {
            let base = (&mut *of.get()).base().add(range.start);
            std::slice::from_raw_parts_mut(base, range.len())
        }
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
}
