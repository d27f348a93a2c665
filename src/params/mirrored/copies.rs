//! Copies between the two sides of a [`Mirrored`], beside the computation.

use std::ops::Range;
use std::rc::Rc;

use super::{Mirrored, Newest, Stretch, overlap};
use crate::Result;
use crate::device::cpu::aligned::LARGE;
use crate::device::cuda::backend::{Backend, Queue};

/// The host's side locked for a device.
pub(super) struct Lock {
    device: Rc<dyn Backend>,
    at: *mut u8,
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.device.unlock(self.at);
    }
}

impl Drop for Mirrored {
    fn drop(&mut self) {
        for i in 0..self.stretches.len() {
            // A device that failed copies nothing any more.
            let _ = self.arrived(i);
        }
    }
}

impl Mirrored {
    /// Copies floats of the host's to the device, which a stretch remembers.
    pub(super) fn send_up(&self, stretch: usize, floats: Range<usize>) -> Result<()> {
        let Some(there) = self.there.get() else { return Ok(()) };
        let (device, to) = (there.device(), there.at().plus(floats.start));
        // SAFETY: no host borrow that writes is alive while a device is asked for: the net runs one layer
        // at a time, on one side.
        let from = unsafe { &(&*self.host.get())[floats] };
        if self.lock.get().is_none() {
            return device.upload(from, to);
        }
        // SAFETY: whoever changes the host's side waits for the event first.
        unsafe {
            device.upload_in(Queue::Compute, from.as_ptr().cast(), size_of_val(from), to)?;
        }
        self.copying(stretch, device, Queue::Compute)
    }

    /// Notes that a stretch is being copied in a queue.
    fn copying(&self, stretch: usize, device: &Rc<dyn Backend>, queue: Queue) -> Result<()> {
        let Stretch { copying, event, .. } = &self.stretches[stretch];
        let event = match event.get() {
            Some(event) => *event,
            None => {
                let made = device.event()?;
                *event.get_or_init(|| made)
            }
        };
        device.set(event, queue)?;
        copying.set(Some(event));
        Ok(())
    }

    /// Waits for the last copy of a stretch.
    pub(super) fn arrived(&self, stretch: usize) -> Result<()> {
        match (self.stretches[stretch].copying.get(), self.there.get()) {
            (Some(event), Some(there)) => {
                there.device().wait(event)?;
                self.stretches[stretch].copying.set(None);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Locks the host's side for copies to and from the device, which is asked for it often.
    ///
    /// # Errors
    /// When there is not enough memory on the device.
    pub fn lock_for(&mut self, device: &Rc<dyn Backend>) -> Result<()> {
        self.memory(device)?;
        let host = self.host.get_mut();
        let bytes = host.len() * size_of::<f32>();
        if bytes < LARGE || self.lock.get().is_some() {
            return Ok(());
        }
        let at = host.base().cast();
        // SAFETY: a large buffer has its pages to itself, and the lock goes before it does.
        if unsafe { device.lock(at, bytes) } {
            self.lock.get_or_init(|| Lock { device: device.clone(), at });
        }
        Ok(())
    }

    /// Copies what only the device has of `span` to the host, beside the computation: the host has it when
    /// [`has_come`](Mirrored::has_come) says so, or when it asks.
    ///
    /// # Errors
    /// A device that failed.
    pub fn send_down(&mut self, span: &Range<usize>) -> Result<()> {
        let Some(there) = self.there.get() else { return Ok(()) };
        let device = there.device();
        let away = |s: &Stretch| overlap(&s.range, span) && s.newest.get() == Newest::Device;
        let asked: Vec<usize> =
            (0..self.stretches.len()).filter(|&i| away(&self.stretches[i])).collect();
        let Some(&first) = asked.first() else { return Ok(()) };
        asked.iter().try_for_each(|&i| self.arrived(i))?;
        // The copies follow what has been computed so far.
        self.copying(first, device, Queue::Compute)?;
        if let Some(event) = self.stretches[first].copying.get() {
            device.follow(Queue::CopyOut, event)?;
        }
        for &i in &asked {
            let range = &self.stretches[i].range;
            // SAFETY: within the buffer; nobody looks at it before the event below.
            unsafe {
                let to = (&mut *self.host.get()).base().add(range.start);
                device.download_in(
                    Queue::CopyOut,
                    there.at().plus(range.start),
                    to,
                    range.len(),
                )?;
            }
        }
        self.copying(first, device, Queue::CopyOut)?;
        let copying = self.stretches[first].copying.get();
        for i in asked {
            self.stretches[i].copying.set(copying);
            self.stretches[i].newest.set(Newest::Both);
        }
        Ok(())
    }

    /// Whether all that is on its way to or from `span` has arrived.
    ///
    /// # Errors
    /// A device that failed.
    pub fn has_come(&self, span: &Range<usize>) -> Result<bool> {
        let Some(there) = self.there.get() else { return Ok(true) };
        for stretch in self.stretches.iter().filter(|s| overlap(&s.range, span)) {
            if let Some(event) = stretch.copying.get()
                && !there.device().passed(event)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
