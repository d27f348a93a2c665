//! A slab in device memory: in up to four forms, f32 and the device's kind of 16 bits, each in plain order and
//! with its channels last.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::{Epoch, Lent, Slab};
use crate::Result;
use crate::blob::{Layout, Shape};
use crate::device::cpu::threads::Threads;
use crate::device::cuda::Kind;
use crate::device::cuda::backend::{Address, Backend};
use crate::device::cuda::memory::Memory;
use crate::device::cuda::order::{self, Form, Order};

/// One form.
#[derive(Default)]
struct Rep {
    memory: RefCell<Option<Memory>>,
    valid: Cell<bool>,
    lent: Lent,
}

/// What the host exchanges with the device.
const HOSTS: Form = Form::of_kind(Kind::F32);

/// The representations in device memory.
#[derive(Default)]
pub(super) struct DeviceRep {
    /// f32 and 16 bits in plain order, then both with channels last.
    forms: [Rep; 4],
    /// The shape that what has its channels last was written with: as another one of the alias group it is
    /// read through plain order.
    last_shape: RefCell<Shape>,
}

impl DeviceRep {
    fn of(&self, form: Form) -> &Rep {
        let [halves, last] = [form.kind != Kind::F32, form.order == Order::ChannelsLast];
        &self.forms[usize::from(halves) + 2 * usize::from(last)]
    }

    /// What is there is old.
    pub(super) fn invalidate(&self) {
        self.forms.iter().for_each(|rep| rep.valid.set(false));
    }

    /// Whether any form is not old.
    fn is_valid(&self) -> bool {
        self.forms.iter().any(|rep| rep.valid.get())
    }

    /// The form to make this one of, for a device of this kind: best one of the same numbers, then one of the
    /// same order.
    fn source(&self, form: Form, kind: Kind) -> Option<Form> {
        let kinds = [form.kind, if form.kind == Kind::F32 { kind } else { Kind::F32 }];
        let orders = match form.order {
            Order::Plain => [Order::Plain, Order::ChannelsLast],
            Order::ChannelsLast => [Order::ChannelsLast, Order::Plain],
        };
        let forms = kinds.into_iter().flat_map(|kind| orders.map(|order| Form { kind, order }));
        forms.into_iter().find(|form| self.of(*form).valid.get())
    }

    /// Marks a form as good, for a blob of this shape.
    fn becomes(&self, form: Form, shape: &Shape) {
        if form.order == Order::ChannelsLast && *self.last_shape.borrow() != *shape {
            let last = self.forms[2..].iter();
            last.for_each(|rep| rep.valid.set(false));
            self.last_shape.replace(shape.clone());
        }
        self.of(form).valid.set(true);
    }
}

/// Which representations of a slab are valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    /// A bit for each: on the host plain and blocked, then the forms on the device.
    valid: u8,
    /// The shape of what has its channels last there.
    last: Shape,
}

const PLAIN: u8 = 1;
/// The first of the device's.
const FIRST: u8 = 1 << 2;
const LAST: u8 = 0b11 << 4;
const ON_DEVICE: u8 = 0b1111 << 2;

impl Places {
    /// Whether a device that met both would do the same: what it has is the same, or it has nothing.
    pub(crate) fn alike(&self, other: &Places) -> bool {
        let known = |valid| if valid & ON_DEVICE == 0 { valid } else { valid & ON_DEVICE };
        known(self.valid) == known(other.valid) && self.last == other.last
    }
}

impl Slab {
    /// Which representations are valid.
    pub(crate) fn places(&self) -> Places {
        let device = self.device.forms.iter().map(|rep| &rep.valid);
        let valid = [&self.plain.valid, &self.blocked.valid].into_iter().chain(device);
        let valid = valid.enumerate().map(|(i, valid)| u8::from(valid.get()) << i).sum();
        let last = if valid & LAST == 0 {
            Shape::default()
        } else {
            self.device.last_shape.borrow().clone()
        };
        Places { valid, last }
    }

    /// Takes it that the device has done again what it did before this was valid `then`: what the host
    /// still had then it still has.
    pub(crate) fn put(&self, then: &Places) {
        if then.valid & ON_DEVICE == 0 {
            return;
        }
        for (i, rep) in self.device.forms.iter().enumerate() {
            rep.valid.set(then.valid & FIRST << i != 0);
        }
        if then.valid & LAST != 0 {
            self.device.last_shape.replace(then.last.clone());
        }
        if then.valid & PLAIN == 0 {
            self.plain.valid.set(false);
            self.blocked.valid.set(false);
        }
    }

    /// The blob in device memory, to be read in this form.
    ///
    /// # Errors
    /// [`Error::Borrow`](crate::Error::Borrow) when it is lent for writing in this call; a device that failed.
    pub fn read_on(
        &self,
        (device, form): (&Rc<dyn Backend>, Form),
        now: Epoch,
        shape: &Shape,
        threads: Threads,
    ) -> Result<Address> {
        let form = form.of(shape);
        self.bring(device, form, now, shape, threads)?;
        self.device.of(form).lent.read(now, "a blob")?;
        self.room_on(device, form, shape.count())
    }

    /// The blob in device memory, to be written in this form; what was in it is unspecified.
    ///
    /// # Errors
    /// [`Error::Borrow`](crate::Error::Borrow) when it is lent in this call; a device without memory.
    pub fn write_on(
        &self,
        (device, form): (&Rc<dyn Backend>, Form),
        now: Epoch,
        shape: &Shape,
    ) -> Result<Address> {
        let form = form.of(shape);
        self.device.of(form).lent.write(now, "a blob")?;
        let at = self.room_on(device, form, shape.count())?;
        self.plain.valid.set(false);
        self.blocked.valid.set(false);
        self.device.invalidate();
        self.device.becomes(form, shape);
        Ok(at)
    }

    /// The blob in device memory with its present values, to be changed where it stands.
    ///
    /// # Errors
    /// As [`read_on`](Slab::read_on).
    pub fn update_on(
        &self,
        (device, form): (&Rc<dyn Backend>, Form),
        now: Epoch,
        shape: &Shape,
        threads: Threads,
    ) -> Result<Address> {
        self.bring(device, form.of(shape), now, shape, threads)?;
        self.write_on((device, form), now, shape)
    }

    /// Takes the device memory that the slab will need in this form.
    ///
    /// # Errors
    /// When there is not enough.
    pub fn reserve_on(&self, device: &Rc<dyn Backend>, form: Form) -> Result<()> {
        if self.capacity > 0 {
            self.room_on(device, form, self.capacity)?;
        }
        Ok(())
    }

    /// Makes a form valid: from another one, or from the host.
    fn bring(
        &self,
        device: &Rc<dyn Backend>,
        form: Form,
        now: Epoch,
        shape: &Shape,
        threads: Threads,
    ) -> Result<()> {
        if !self.device.is_valid() {
            self.upload(device, now, shape, threads)?;
        }
        let Some(source) = self.device.source(form, device.kind()) else { return Ok(()) };
        let last = form.order == Order::ChannelsLast && source.order == Order::ChannelsLast;
        if last && *self.device.last_shape.borrow() != *shape {
            let between = Form { order: Order::Plain, ..source };
            self.change(device, source, between, shape)?;
            return self.change(device, between, form, shape);
        }
        if source == form { Ok(()) } else { self.change(device, source, form, shape) }
    }

    /// One form → another, on the device.
    fn change(&self, device: &Rc<dyn Backend>, from: Form, to: Form, shape: &Shape) -> Result<()> {
        let n = shape.count();
        let (source, target) = (self.room_on(device, from, n)?, self.room_on(device, to, n)?);
        match from.order {
            Order::Plain => order::change(&**device, shape, (from, source), (to, target))?,
            Order::ChannelsLast => {
                let written = self.device.last_shape.borrow();
                order::change(&**device, &written, (from, source), (to, target))?;
            }
        }
        self.device.becomes(to, shape);
        self.reorders.set(self.reorders.get() + 1);
        Ok(())
    }

    /// host → plain f32 on the device.
    fn upload(
        &self,
        device: &Rc<dyn Backend>,
        now: Epoch,
        shape: &Shape,
        threads: Threads,
    ) -> Result<()> {
        self.make_valid(now, Layout::Plain, shape, threads)?;
        self.room_on(device, HOSTS, shape.count())?;
        // SAFETY: whoever writes the plain memory makes the device's copy stale, so no writer of this
        // call can come after; one that came before has been told to write first.
        let values = unsafe { self.plain.slice(shape.count()) };
        if let Some(memory) = &*self.device.of(HOSTS).memory.borrow() {
            memory.upload(values)?;
        }
        self.device.becomes(HOSTS, shape);
        self.reorders.set(self.reorders.get() + 1);
        Ok(())
    }

    /// device → host, if only the device has it.
    pub(super) fn fetch(&self, now: Epoch, shape: &Shape) -> Result<()> {
        let there = &self.device;
        let host = self.plain.valid.get() || self.blocked.valid.get();
        if host || !there.is_valid() {
            return Ok(());
        }
        if !there.of(HOSTS).valid.get() {
            let memory = there.forms.iter().filter(|rep| rep.valid.get());
            let device = memory
                .flat_map(|rep| rep.memory.borrow().as_ref().map(|m| m.device().clone()))
                .next();
            if let Some(device) = device
                && let Some(source) = there.source(HOSTS, device.kind())
            {
                self.change(&device, source, HOSTS, shape)?;
            }
        }
        let memory = there.of(HOSTS).memory.borrow();
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

    fn room_on(&self, device: &Rc<dyn Backend>, form: Form, n: usize) -> Result<Address> {
        let mut memory = self.device.of(form).memory.borrow_mut();
        match &*memory {
            Some(memory) if memory.floats() >= form.kind.floats(n) => Ok(memory.at()),
            _ => {
                let fresh = Memory::new(device, form.kind.floats(n.max(self.capacity)))?;
                Ok(memory.insert(fresh).at())
            }
        }
    }
}
