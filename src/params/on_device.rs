//! The arena on a CUDA device.

use std::ops::Range;
use std::rc::Rc;

use super::{ParamArena, ParamId, Use};
use crate::Result;
use crate::device::cuda::backend::{Address, Backend};
use crate::device::cuda::{Kind, convert, multiply};

impl ParamArena {
    /// Takes the device memory that values, and gradients where there are some, will need.
    ///
    /// # Errors
    /// When there is not enough.
    pub fn reserve_on(&self, device: &Rc<dyn Backend>, gradients: bool) -> Result<()> {
        self.data.reserve_on(device)?;
        if device.kind() != Kind::F32 {
            self.halves_on(device)?;
        }
        if gradients { self.diff.reserve_on(device) } else { Ok(()) }
    }

    /// Whether a device has gradients of learnable parameters that the host has not: nobody on the
    /// host has asked for them since they were made.
    pub fn gradient_is_away(&self) -> bool {
        self.diff.is_away(&(0..self.learnable))
    }

    /// The learnable parts of values and gradients on a device, for an update of the values there.
    ///
    /// # Errors
    /// A device that failed.
    pub fn data_and_diff_on(&mut self, device: &Rc<dyn Backend>) -> Result<(Address, Address)> {
        self.changed();
        let learnable = 0..self.learnable;
        let data = self.data.span_on(device, &learnable, Use::Change)?;
        Ok((data, self.diff.span_on(device, &learnable, Use::Read)?))
    }

    /// A part of the gradients on a device, to be changed.
    ///
    /// # Errors
    /// A device that failed.
    pub fn diff_part_on(
        &mut self,
        device: &Rc<dyn Backend>,
        part: &Range<usize>,
    ) -> Result<Address> {
        Ok(self.diff.span_on(device, part, Use::Change)?.plus(part.start))
    }

    /// The learnable part of the gradients on a device, to be read.
    ///
    /// # Errors
    /// A device that failed.
    pub fn diff_on(&mut self, device: &Rc<dyn Backend>) -> Result<Address> {
        self.diff.span_on(device, &(0..self.learnable), Use::Read)
    }

    /// Multiplies a part of the gradients, where it is.
    ///
    /// # Errors
    /// A device that failed.
    pub fn multiply_diff(&mut self, part: Range<usize>, factor: f32) -> Result<()> {
        match self.diff.device().filter(|_| self.diff.is_away(&part)) {
            Some(device) => {
                let all = self.diff.span_on(&device, &part, Use::Change)?;
                multiply(&*device, all.plus(part.start), factor, part.len())
            }
            None => {
                self.diff_in_mut(part)?.iter_mut().for_each(|g| *g *= factor);
                Ok(())
            }
        }
    }

    /// Values on a device during a layer call, to be read or, by the layer that maintains them, to be
    /// changed.
    pub(crate) fn lend_on(
        &self,
        id: ParamId,
        device: &Rc<dyn Backend>,
        what_for: Use,
    ) -> Result<Address> {
        self.data.on(device, id, what_for)
    }

    /// Values in the device's kind of 16 bits, to be read during a layer call.
    pub(crate) fn lend_halves_on(&self, id: ParamId, device: &Rc<dyn Backend>) -> Result<Address> {
        let at = self.halves_on(device)?.at();
        if self.halved.get() != self.version() {
            let all = 0..self.data.floats();
            let floats = self.data.span_on(device, &all, Use::Read)?;
            convert(&**device, (Kind::F32, floats), at, all.len())?;
            self.halved.set(self.version());
        }
        Ok(at.plus_of(device.kind(), self.params[id].range.start))
    }

    /// Gradient on a device, to be added to during a layer call.
    pub(crate) fn lend_diff_on(&self, id: ParamId, device: &Rc<dyn Backend>) -> Result<Address> {
        self.diff.on(device, id, Use::Change)
    }
}
