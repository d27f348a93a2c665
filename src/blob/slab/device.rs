//! A slab in device memory: the third representation, plain.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::{Epoch, Lent, Slab};
use crate::Result;
use crate::blob::{Layout, Shape};
use crate::device::cpu::threads::Threads;
use crate::device::cuda::backend::{Address, Backend};
use crate::device::cuda::memory::Memory;

/// The representation in device memory.
#[derive(Default)]
pub(super) struct DeviceRep {
    memory: RefCell<Option<Memory>>,
    pub(super) valid: Cell<bool>,
    lent: Lent,
}

impl Slab {
    /// The blob in device memory, plain, to be read.
    ///
    /// # Errors
    /// [`Error::Borrow`](crate::Error::Borrow) when it is lent for writing in this call; a device that failed.
    pub fn read_on(
        &self,
        device: &Rc<dyn Backend>,
        now: Epoch,
        shape: &Shape,
        threads: Threads,
    ) -> Result<Address> {
        self.bring(device, now, shape, threads)?;
        self.device.lent.read(now, "a blob")?;
        self.room_on(device, shape.count())
    }

    /// The blob in device memory, to be written; what was in it is unspecified.
    ///
    /// # Errors
    /// [`Error::Borrow`](crate::Error::Borrow) when it is lent in this call; a device without memory.
    pub fn write_on(&self, device: &Rc<dyn Backend>, now: Epoch, shape: &Shape) -> Result<Address> {
        self.device.lent.write(now, "a blob")?;
        let at = self.room_on(device, shape.count())?;
        self.plain.valid.set(false);
        self.blocked.valid.set(false);
        self.device.valid.set(true);
        Ok(at)
    }

    /// The blob in device memory with its present values, to be changed where it stands.
    ///
    /// # Errors
    /// As [`read_on`](Slab::read_on).
    pub fn update_on(
        &self,
        device: &Rc<dyn Backend>,
        now: Epoch,
        shape: &Shape,
        threads: Threads,
    ) -> Result<Address> {
        self.bring(device, now, shape, threads)?;
        self.write_on(device, now, shape)
    }

    /// Takes the device memory that the slab will need.
    ///
    /// # Errors
    /// When there is not enough.
    pub fn reserve_on(&self, device: &Rc<dyn Backend>) -> Result<()> {
        if self.capacity > 0 {
            self.room_on(device, self.capacity)?;
        }
        Ok(())
    }

    /// host → device, if only the host has it.
    fn bring(
        &self,
        device: &Rc<dyn Backend>,
        now: Epoch,
        shape: &Shape,
        threads: Threads,
    ) -> Result<()> {
        if self.device.valid.get() {
            return Ok(());
        }
        self.make_valid(now, Layout::Plain, shape, threads)?;
        self.room_on(device, shape.count())?;
        // SAFETY: whoever writes the plain memory makes the device's copy stale, so no writer of this
        // call can come after; one that came before has been told to write first.
        let values = unsafe { self.plain.slice(shape.count()) };
        if let Some(memory) = &*self.device.memory.borrow() {
            memory.upload(values)?;
        }
        self.device.valid.set(true);
        self.reorders.set(self.reorders.get() + 1);
        Ok(())
    }

    /// device → host, if only the device has it.
    pub(super) fn fetch(&self, now: Epoch, shape: &Shape) -> Result<()> {
        let host = self.plain.valid.get() || self.blocked.valid.get();
        let memory = self.device.memory.borrow();
        let (false, true, Some(memory)) = (host, self.device.valid.get(), &*memory) else {
            return Ok(());
        };
        self.plain.lent.write(now, "a blob")?;
        self.plain.reserve(shape.count(), self.capacity);
        // SAFETY: the write borrow was just granted.
        memory.download(unsafe { self.plain.slice_mut(shape.count()) })?;
        self.plain.lent.0.set((0, false));
        self.plain.valid.set(true);
        self.reorders.set(self.reorders.get() + 1);
        Ok(())
    }

    fn room_on(&self, device: &Rc<dyn Backend>, floats: usize) -> Result<Address> {
        let mut memory = self.device.memory.borrow_mut();
        match &*memory {
            Some(memory) if memory.floats() >= floats => Ok(memory.at()),
            _ => {
                let fresh = Memory::new(device, floats.max(self.capacity))?;
                Ok(memory.insert(fresh).at())
            }
        }
    }
}
