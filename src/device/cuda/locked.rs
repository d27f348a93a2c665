//! [`Locked`]: memory of the host that a device copies to and from while the host does something else.

use std::rc::Rc;

use super::backend::{Address, Backend, Event, Queue};
use crate::Result;
use crate::device::cpu::aligned::{AlignedBuf, LARGE};

/// Page-locked memory with at most one copy under way. Where it cannot be locked, copies take longer.
pub struct Locked {
    device: Rc<dyn Backend>,
    memory: AlignedBuf,
    locked: bool,
    /// Behind the last copy.
    copied: Event,
}

impl Locked {
    /// Zeros, at least so many floats.
    ///
    /// # Errors
    /// A device that failed.
    pub fn new(device: &Rc<dyn Backend>, floats: usize) -> Result<Locked> {
        // Smaller memory would share its pages.
        let mut memory = AlignedBuf::zeroed(floats.max(LARGE / size_of::<f32>()));
        let copied = device.event()?;
        // SAFETY: large, so it has its pages to itself; unlocked in `drop`, before it goes.
        let locked = unsafe { device.lock(memory.base().cast(), memory.len() * size_of::<f32>()) };
        Ok(Locked { device: device.clone(), memory, locked, copied })
    }

    /// Its length in floats.
    pub fn floats(&self) -> usize {
        self.memory.len()
    }

    /// The memory, when the last copy is done.
    ///
    /// # Errors
    /// A device that failed.
    pub fn values(&mut self) -> Result<&mut [f32]> {
        self.device.wait(self.copied)?;
        Ok(&mut self.memory)
    }

    /// The same as bytes.
    ///
    /// # Errors
    /// A device that failed.
    pub fn bytes(&mut self) -> Result<&mut [u8]> {
        self.device.wait(self.copied)?;
        Ok(self.memory.bytes_mut())
    }

    /// The event behind the last copy, for other queues to follow.
    pub fn copied(&self) -> Event {
        self.copied
    }

    /// Copies its first floats to the device, in a queue.
    ///
    /// # Errors
    /// A device that failed.
    pub fn upload(&mut self, queue: Queue, floats: usize, to: Address) -> Result<()> {
        let bytes = floats.min(self.memory.len()) * size_of::<f32>();
        // SAFETY: whoever wants to change the memory waits for the event first.
        unsafe { self.device.upload_in(queue, self.memory.as_ptr().cast(), bytes, to) }?;
        self.device.set(self.copied, queue)
    }

    /// Copies floats from the device to its beginning, in a queue.
    ///
    /// # Errors
    /// A device that failed.
    pub fn download(&mut self, queue: Queue, from: Address, floats: usize) -> Result<()> {
        let floats = floats.min(self.memory.len());
        // SAFETY: whoever wants to see the memory waits for the event first.
        unsafe { self.device.download_in(queue, from, self.memory.base(), floats) }?;
        self.device.set(self.copied, queue)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // A device that failed copies nothing any more.
        let _ = self.device.wait(self.copied);
        if self.locked {
            self.device.unlock(self.memory.base().cast());
        }
    }
}
