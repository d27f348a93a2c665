//! Memory of a device: [`Memory`], given back when dropped.

use std::rc::Rc;

use super::backend::{Address, Backend};
use crate::{Result, bail};

/// Floats in device memory.
pub struct Memory {
    device: Rc<dyn Backend>,
    at: Address,
    floats: usize,
}

impl Memory {
    /// So many floats, not initialised.
    ///
    /// # Errors
    /// When there is not enough.
    pub fn new(device: &Rc<dyn Backend>, floats: usize) -> Result<Memory> {
        let at = device.allocate(floats.max(1))?;
        Ok(Memory { device: device.clone(), at, floats })
    }

    /// So many zeros.
    ///
    /// # Errors
    /// When there is not enough, or the device failed.
    pub fn zeroed(device: &Rc<dyn Backend>, floats: usize) -> Result<Memory> {
        let memory = Memory::new(device, floats)?;
        device.zero(memory.at, floats)?;
        Ok(memory)
    }

    /// Where it starts.
    pub fn at(&self) -> Address {
        self.at
    }

    /// Its length in floats.
    pub fn floats(&self) -> usize {
        self.floats
    }

    /// Writes its beginning.
    ///
    /// # Errors
    /// A device that failed.
    pub fn upload(&self, from: &[f32]) -> Result<()> {
        self.device.upload(from, self.at)
    }

    /// Reads its beginning, when all work before is done.
    ///
    /// # Errors
    /// A device that failed.
    pub fn download(&self, to: &mut [f32]) -> Result<()> {
        self.device.download(self.at, to)
    }

    /// Sets all of it to zero.
    ///
    /// # Errors
    /// A device that failed.
    pub fn zero(&self) -> Result<()> {
        self.device.zero(self.at, self.floats)
    }

    /// The device it is on.
    pub fn device(&self) -> &Rc<dyn Backend> {
        &self.device
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.device.free(self.at);
    }
}

/// Memory that a layer keeps between passes and that grows as needed.
#[derive(Default)]
pub struct Scratch(Option<Memory>);

impl Scratch {
    /// At least so many floats; what was in it is lost when it grows.
    ///
    /// # Errors
    /// When there is not enough.
    pub fn room(&mut self, device: &Rc<dyn Backend>, floats: usize) -> Result<Address> {
        match &self.0 {
            Some(memory) if memory.floats() >= floats => Ok(memory.at()),
            _ => {
                // The old memory first: both together may not fit.
                self.0 = None;
                Ok(self.0.insert(Memory::new(device, floats)?).at())
            }
        }
    }

    /// Its length in floats.
    pub fn floats(&self) -> usize {
        self.0.as_ref().map_or(0, Memory::floats)
    }

    /// The numbers as `int`s, in place of what was there.
    ///
    /// # Errors
    /// When there is not enough memory, or a number is too large.
    pub fn integers(&mut self, device: &Rc<dyn Backend>, numbers: &[usize]) -> Result<Address> {
        let bits = numbers.iter().map(|&number| match i32::try_from(number) {
            Ok(number) => Ok(f32::from_bits(number.cast_unsigned())),
            Err(_) => bail!("{number} is too large for an index of a CUDA kernel"),
        });
        let bits = bits.collect::<Result<Vec<f32>>>()?;
        let at = self.room(device, bits.len())?;
        device.upload(&bits, at)?;
        Ok(at)
    }
}
