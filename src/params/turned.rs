//! Weights with their channels last, as convolutions in that order take them: a copy in the device's kind,
//! made by one kernel after each change of the values. Where both orders are the same memory there is none.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::{ParamArena, ParamId, Place, Use};
use crate::Result;
use crate::blob::Shape;
use crate::device::cuda::Kind;
use crate::device::cuda::backend::{Address, Backend};
use crate::device::cuda::memory::Scratch;
use crate::device::cuda::order::{self, Form, Order};

/// The copy of one parameter.
#[derive(Default)]
pub(super) struct Turned {
    memory: RefCell<Scratch>,
    /// Version and shape of the values that it is a copy of.
    version: Cell<u64>,
    shape: RefCell<Shape>,
}

impl Turned {
    /// Whether it is a copy of this version.
    pub(super) fn place(&self, version: u64) -> Place {
        if self.version.get() == version { Place::There } else { Place::Here }
    }

    /// Takes it that it has become one, or has not, as it was `then`.
    pub(super) fn put(&self, then: Option<Place>, version: u64) {
        self.version.set(if then == Some(Place::There) { version } else { 0 });
    }
}

impl ParamArena {
    /// Takes the device memory for a copy of a parameter with its channels last.
    ///
    /// # Errors
    /// When there is not enough.
    pub fn reserve_turned_on(&self, id: ParamId, device: &Rc<dyn Backend>) -> Result<()> {
        let floats = device.kind().floats(self.params[id].range.len());
        self.turned[id].memory.borrow_mut().room(device, floats).map(|_| ())
    }

    /// Values with their channels last in the device's kind, to be read during a layer call as weights of
    /// this shape: (outputs, channels, kernel…).
    pub(crate) fn lend_turned_on(
        &self,
        id: ParamId,
        device: &Rc<dyn Backend>,
        shape: &Shape,
    ) -> Result<Address> {
        let turned = &self.turned[id];
        let kind = device.kind();
        let at =
            turned.memory.borrow_mut().room(device, kind.floats(self.params[id].range.len()))?;
        if turned.version.get() != self.version() || *turned.shape.borrow() != *shape {
            let values = self.data.on(device, id, Use::Read)?;
            let to = Form { kind, order: Order::ChannelsLast };
            order::change(&**device, shape, (Form::of_kind(Kind::F32), values), (to, at))?;
            turned.version.set(self.version());
            turned.shape.replace(shape.clone());
        }
        Ok(at)
    }

    /// Floats of device memory that copies of the values have: in 16 bits, and with channels last.
    pub fn copies(&self) -> usize {
        let turned = self.turned.iter().map(|turned| turned.memory.borrow().floats());
        self.halves.get().map_or(0, |halves| halves.floats()) + turned.sum::<usize>()
    }
}
