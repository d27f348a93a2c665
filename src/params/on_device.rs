//! The arena on a CUDA device.

use std::ops::Range;
use std::rc::Rc;

use super::{ParamArena, ParamId, Place, Use};
use crate::Result;
use crate::device::cuda::backend::{Address, Backend};
use crate::device::cuda::step_record::Report;
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

    /// Multiplies a part of the gradients, where it is; on a device it becomes NaN where the loss that is
    /// reported there is not finite.
    ///
    /// # Errors
    /// A device that failed.
    pub fn multiply_diff(
        &mut self,
        part: Range<usize>,
        factor: f32,
        report: Option<&Report>,
    ) -> Result<()> {
        match report.filter(|_| self.diff.is_away(&part)) {
            Some(report) => {
                let all = self.diff.span_on(report.device(), &part, Use::Change)?;
                multiply(report, all.plus(part.start), factor, part.len())
            }
            None => {
                self.diff_in_mut(part)?.iter_mut().for_each(|g| *g *= factor);
                Ok(())
            }
        }
    }

    /// Locks the host's side: gradients and weights will go to and fro.
    ///
    /// # Errors
    /// A device without enough memory.
    pub fn lock_for(&mut self, device: &Rc<dyn Backend>) -> Result<()> {
        self.data.lock_for(device)?;
        self.diff.lock_for(device)
    }

    /// Copies what only the device has of a part of the gradients to the host, beside the computation; the
    /// host waits for it when it asks for it before [`diff_has_come`](ParamArena::diff_has_come).
    ///
    /// # Errors
    /// A device that failed.
    pub fn send_diff(&mut self, part: &Range<usize>) -> Result<()> {
        self.diff.send_down(part)
    }

    /// Whether a part of the gradients that was sent is there.
    ///
    /// # Errors
    /// A device that failed.
    pub fn diff_has_come(&self, part: &Range<usize>) -> Result<bool> {
        self.diff.has_come(part)
    }

    /// Gives the device all values that only the host has.
    ///
    /// # Errors
    /// A device that failed.
    pub fn settle_on(&self, device: &Rc<dyn Backend>) -> Result<()> {
        self.data.span_on(device, &(0..self.data.floats()), Use::Read).map(|_| ())
    }

    /// Where everything is, one number for each thing.
    pub(crate) fn places(&self, into: &mut Vec<Place>) {
        into.push(if self.halved.get() == self.version() { Place::There } else { Place::Here });
        self.data.places(into);
        self.diff.places(into);
    }

    /// Takes it that everything is where it was `then`, after the same has been done to it.
    pub(crate) fn put(&self, then: &mut impl Iterator<Item = Place>) {
        let halved = if then.next() == Some(Place::There) { self.version() } else { 0 };
        self.halved.set(halved);
        self.data.put(then);
        self.diff.put(then);
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
