//! A slab in device memory: plain, as f32 and in the device's kind of 16 bits, where it has one.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::{Epoch, Lent, Slab};
use crate::Result;
use crate::blob::{Layout, Shape};
use crate::device::cpu::threads::Threads;
use crate::device::cuda::backend::{Address, Backend};
use crate::device::cuda::memory::Memory;
use crate::device::cuda::{Kind, convert};

/// One kind of numbers.
#[derive(Default)]
struct Rep {
    memory: RefCell<Option<Memory>>,
    valid: Cell<bool>,
    lent: Lent,
}

/// The representations in device memory.
#[derive(Default)]
pub(super) struct DeviceRep {
    floats: Rep,
    halves: Rep,
}

impl DeviceRep {
    fn of(&self, kind: Kind) -> &Rep {
        if kind == Kind::F32 { &self.floats } else { &self.halves }
    }

    /// What is there is old.
    pub(super) fn invalidate(&self) {
        self.floats.valid.set(false);
        self.halves.valid.set(false);
    }
}

/// Bits of [`Slab::places`].
const PLAIN: u8 = 1;
const BLOCKED: u8 = 2;
const FLOATS: u8 = 4;
const HALVES: u8 = 8;
const ON_DEVICE: u8 = FLOATS | HALVES;

impl Slab {
    /// Which representations are valid, one bit for each.
    pub(crate) fn places(&self) -> u8 {
        let bit = |valid: &Cell<bool>, bit| if valid.get() { bit } else { 0 };
        bit(&self.plain.valid, PLAIN)
            | bit(&self.blocked.valid, BLOCKED)
            | bit(&self.device.floats.valid, FLOATS)
            | bit(&self.device.halves.valid, HALVES)
    }

    /// Whether a device that met both would do the same: what it has is the same, or it has nothing.
    pub(crate) fn alike(a: u8, b: u8) -> bool {
        let known = |places| if places & ON_DEVICE == 0 { places } else { places & ON_DEVICE };
        known(a) == known(b)
    }

    /// Takes it that the device has done again what it did before this was valid `then`: what the host
    /// still had then it still has.
    pub(crate) fn put(&self, then: u8) {
        if then & ON_DEVICE != 0 {
            self.device.floats.valid.set(then & FLOATS != 0);
            self.device.halves.valid.set(then & HALVES != 0);
            if then & PLAIN == 0 {
                self.plain.valid.set(false);
                self.blocked.valid.set(false);
            }
        }
    }

    /// The blob in device memory, plain, to be read as this kind.
    ///
    /// # Errors
    /// [`Error::Borrow`](crate::Error::Borrow) when it is lent for writing in this call; a device that failed.
    pub fn read_on(
        &self,
        (device, kind): (&Rc<dyn Backend>, Kind),
        now: Epoch,
        shape: &Shape,
        threads: Threads,
    ) -> Result<Address> {
        self.bring(device, kind, now, shape, threads)?;
        self.device.of(kind).lent.read(now, "a blob")?;
        self.room_on(device, kind, shape.count())
    }

    /// The blob in device memory, to be written as this kind; what was in it is unspecified.
    ///
    /// # Errors
    /// [`Error::Borrow`](crate::Error::Borrow) when it is lent in this call; a device without memory.
    pub fn write_on(
        &self,
        (device, kind): (&Rc<dyn Backend>, Kind),
        now: Epoch,
        shape: &Shape,
    ) -> Result<Address> {
        self.device.of(kind).lent.write(now, "a blob")?;
        let at = self.room_on(device, kind, shape.count())?;
        self.plain.valid.set(false);
        self.blocked.valid.set(false);
        self.device.invalidate();
        self.device.of(kind).valid.set(true);
        Ok(at)
    }

    /// The blob in device memory with its present values, to be changed where it stands.
    ///
    /// # Errors
    /// As [`read_on`](Slab::read_on).
    pub fn update_on(
        &self,
        (device, kind): (&Rc<dyn Backend>, Kind),
        now: Epoch,
        shape: &Shape,
        threads: Threads,
    ) -> Result<Address> {
        self.bring(device, kind, now, shape, threads)?;
        self.write_on((device, kind), now, shape)
    }

    /// Takes the device memory that the slab will need as this kind.
    ///
    /// # Errors
    /// When there is not enough.
    pub fn reserve_on(&self, device: &Rc<dyn Backend>, kind: Kind) -> Result<()> {
        if self.capacity > 0 {
            self.room_on(device, kind, self.capacity)?;
        }
        Ok(())
    }

    /// Makes a kind valid: from the other one, or from the host.
    fn bring(
        &self,
        device: &Rc<dyn Backend>,
        kind: Kind,
        now: Epoch,
        shape: &Shape,
        threads: Threads,
    ) -> Result<()> {
        if self.device.of(kind).valid.get() {
            return Ok(());
        }
        if kind == Kind::F32 && !self.device.halves.valid.get() {
            return self.upload(device, now, shape, threads);
        }
        let other = if kind == Kind::F32 { device.kind() } else { Kind::F32 };
        self.bring(device, other, now, shape, threads)?;
        self.change(device, other, kind, shape)
    }

    /// One kind → the other, on the device.
    fn change(&self, device: &Rc<dyn Backend>, from: Kind, to: Kind, shape: &Shape) -> Result<()> {
        let n = shape.count();
        let (source, target) = (self.room_on(device, from, n)?, self.room_on(device, to, n)?);
        convert(&**device, (from, source), target, n)?;
        self.device.of(to).valid.set(true);
        self.reorders.set(self.reorders.get() + 1);
        Ok(())
    }

    /// host → f32 on the device.
    fn upload(
        &self,
        device: &Rc<dyn Backend>,
        now: Epoch,
        shape: &Shape,
        threads: Threads,
    ) -> Result<()> {
        self.make_valid(now, Layout::Plain, shape, threads)?;
        self.room_on(device, Kind::F32, shape.count())?;
        // SAFETY: whoever writes the plain memory makes the device's copy stale, so no writer of this
        // call can come after; one that came before has been told to write first.
        let values = unsafe { self.plain.slice(shape.count()) };
        if let Some(memory) = &*self.device.floats.memory.borrow() {
            memory.upload(values)?;
        }
        self.device.floats.valid.set(true);
        self.reorders.set(self.reorders.get() + 1);
        Ok(())
    }

    /// device → host, if only the device has it.
    pub(super) fn fetch(&self, now: Epoch, shape: &Shape) -> Result<()> {
        let there = &self.device;
        let host = self.plain.valid.get() || self.blocked.valid.get();
        if host || !(there.floats.valid.get() || there.halves.valid.get()) {
            return Ok(());
        }
        if !there.floats.valid.get() {
            let device = there.halves.memory.borrow().as_ref().map(|m| m.device().clone());
            if let Some(device) = device {
                self.change(&device, device.kind(), Kind::F32, shape)?;
            }
        }
        let memory = there.floats.memory.borrow();
        let Some(memory) = &*memory else { return Ok(()) };
        self.plain.lent.write(now, "a blob")?;
        self.plain.reserve(shape.count(), self.capacity);
        // SAFETY: the write borrow was just granted.
        memory.download(unsafe { self.plain.slice_mut(shape.count()) })?;
        self.plain.lent.0.set((0, false));
        self.plain.valid.set(true);
        self.reorders.set(self.reorders.get() + 1);
        Ok(())
    }

    fn room_on(&self, device: &Rc<dyn Backend>, kind: Kind, n: usize) -> Result<Address> {
        let mut memory = self.device.of(kind).memory.borrow_mut();
        match &*memory {
            Some(memory) if memory.floats() >= kind.floats(n) => Ok(memory.at()),
            _ => {
                let fresh = Memory::new(device, kind.floats(n.max(self.capacity)))?;
                Ok(memory.insert(fresh).at())
            }
        }
    }
}
