//! [`Mirrored`]: floats that the host holds, and a CUDA device too where one works with them.
//!
//! Each stretch knows where its present values are. Whoever asks for them gets them, copied only when
//! they are elsewhere; whoever changes them makes the other side's copy old. Nobody has to remember to
//! copy, and nothing is copied that nobody asks for.
//!
//! Where gradients and weights go to and fro in every iteration, the host's side is locked in its place
//! ([`lock_for`](Mirrored::lock_for)), and copies are made beside the computation: who looks at values
//! that are still on their way waits for them.

mod copies;

use std::cell::{Cell, OnceCell, UnsafeCell};
use std::ops::Range;
use std::rc::Rc;

use self::copies::Lock;
use crate::Result;
use crate::device::cpu::aligned::AlignedBuf;
use crate::device::cuda::backend::{Address, Backend, Event};
use crate::device::cuda::memory::Memory;

/// Where the present values of a stretch are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Newest {
    Host,
    Both,
    Device,
    /// They are zeros, which neither side has been told.
    Zero,
}

/// Where values are, as it matters to who computes on a device and does the same again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the host only.
    Here,
    /// The device has them, and the host perhaps.
    There,
    /// On the device only.
    Away,
    /// Nowhere: they are zeros.
    Zero,
}

impl Place {
    /// Whether a device that met both would do the same.
    pub(crate) fn alike(self, other: Place) -> bool {
        let known = |place| if place == Place::Away { Place::There } else { place };
        known(self) == known(other)
    }
}

/// What values are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// To be read: copies elsewhere stay good.
    Read,
    /// To be changed: copies elsewhere become old.
    Change,
}

/// A part of the array whose values are in one place.
struct Stretch {
    range: Range<usize>,
    newest: Cell<Newest>,
    /// Behind the last copy beside the computation, until somebody has waited for it.
    copying: Cell<Option<Event>>,
    /// Its own event, made when it is first needed.
    event: OnceCell<Event>,
}

/// An array of stretches on the host, and on a device from the first time that one asks for it.
pub struct Mirrored {
    /// Before the memory, so that it goes first.
    lock: OnceCell<Lock>,
    host: UnsafeCell<AlignedBuf>,
    there: OnceCell<Memory>,
    stretches: Vec<Stretch>,
}

impl Mirrored {
    /// Zeros. The stretches cover what anybody writes.
    pub fn zeroed(len: usize, stretches: impl IntoIterator<Item = Range<usize>>) -> Self {
        let stretch = |range| Stretch {
            range,
            newest: Cell::new(Newest::Host),
            copying: Cell::default(),
            event: OnceCell::new(),
        };
        Mirrored {
            lock: OnceCell::new(),
            host: UnsafeCell::new(AlignedBuf::zeroed(len)),
            there: OnceCell::new(),
            stretches: stretches.into_iter().map(stretch).collect(),
        }
    }

    /// Its length in floats.
    pub fn floats(&self) -> usize {
        // SAFETY: only the length is read, which never changes.
        unsafe { (&*self.host.get()).len() }
    }

    /// Makes every stretch zero, without touching the memory.
    pub fn clear(&mut self) {
        self.stretches.iter().for_each(|stretch| stretch.newest.set(Newest::Zero));
    }

    /// Whether only the device has the present values of some stretch in `span`.
    pub fn is_away(&self, span: &Range<usize>) -> bool {
        let away = |s: &Stretch| overlap(&s.range, span) && s.newest.get() == Newest::Device;
        self.stretches.iter().any(away)
    }

    /// The whole array on the host, of which the stretches in `span` have their present values; the
    /// others are not to be looked at.
    ///
    /// # Errors
    /// A device that failed.
    pub fn host(&mut self, span: &Range<usize>, what_for: Use) -> Result<&mut [f32]> {
        for i in 0..self.stretches.len() {
            if overlap(&self.stretches[i].range, span) {
                self.bring(i, what_for)?;
            }
        }
        Ok(self.host.get_mut())
    }

    /// [`host`](Mirrored::host) with all of it.
    ///
    /// # Errors
    /// A device that failed.
    pub fn whole(&mut self, what_for: Use) -> Result<&mut [f32]> {
        let all = 0..self.floats();
        self.host(&all, what_for)
    }

    /// A stretch on the host.
    ///
    /// # Errors
    /// A device that failed.
    ///
    /// # Safety
    /// Nobody else uses a part of this stretch as long as the slice lives, unless both only read.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn lend(&self, stretch: usize, what_for: Use) -> Result<&mut [f32]> {
        self.bring(stretch, what_for)?;
        // SAFETY: the caller's word.
        Ok(unsafe { self.slice(stretch) })
    }

    /// A stretch on the device.
    ///
    /// # Errors
    /// No memory there, or a device that failed.
    pub fn on(&self, device: &Rc<dyn Backend>, stretch: usize, what_for: Use) -> Result<Address> {
        let there = self.memory(device)?;
        let Stretch { range, newest, .. } = &self.stretches[stretch];
        let at = there.at().plus(range.start);
        if what_for == Use::Change || newest.get() == Newest::Zero {
            // A copy to the host may still read what is there.
            self.arrived(stretch)?;
        }
        match newest.get() {
            Newest::Both | Newest::Device => {}
            // Mostly the state of all: then one call instead of one for each.
            Newest::Host if self.all(Newest::Host) => {
                self.send_up(stretch, 0..self.floats())?;
                let copying = self.stretches[stretch].copying.get();
                for other in &self.stretches {
                    other.newest.set(Newest::Both);
                    other.copying.set(copying);
                }
            }
            Newest::Host => {
                self.send_up(stretch, range.clone())?;
                newest.set(Newest::Both);
            }
            Newest::Zero if self.all(Newest::Zero) => {
                (0..self.stretches.len()).try_for_each(|i| self.arrived(i))?;
                there.zero()?;
                self.stretches.iter().for_each(|other| other.newest.set(Newest::Device));
            }
            Newest::Zero => {
                device.zero(at, range.len())?;
                newest.set(Newest::Device);
            }
        }
        if what_for == Use::Change {
            newest.set(Newest::Device);
        }
        Ok(at)
    }

    /// Where each stretch is.
    pub(crate) fn places(&self, into: &mut Vec<Place>) {
        into.extend(self.stretches.iter().map(|stretch| match stretch.newest.get() {
            Newest::Host => Place::Here,
            Newest::Both => Place::There,
            Newest::Device => Place::Away,
            Newest::Zero => Place::Zero,
        }));
    }

    /// Takes it that the device has done again what it did before each stretch was `then` where it was:
    /// what the host still had then it still has.
    pub(crate) fn put(&self, then: &mut impl Iterator<Item = Place>) {
        for (stretch, then) in self.stretches.iter().zip(then) {
            match then {
                Place::Away => stretch.newest.set(Newest::Device),
                Place::Zero => stretch.newest.set(Newest::Zero),
                Place::Here | Place::There => {}
            }
        }
    }

    /// Takes the device memory that the array will need.
    ///
    /// # Errors
    /// When there is not enough.
    pub fn reserve_on(&self, device: &Rc<dyn Backend>) -> Result<()> {
        self.memory(device).map(|_| ())
    }

    /// The whole array on the device, of which the stretches in `span` have their present values.
    ///
    /// # Errors
    /// As [`on`](Mirrored::on).
    pub fn span_on(
        &self,
        device: &Rc<dyn Backend>,
        span: &Range<usize>,
        what_for: Use,
    ) -> Result<Address> {
        for i in 0..self.stretches.len() {
            if overlap(&self.stretches[i].range, span) {
                self.on(device, i, what_for)?;
            }
        }
        Ok(self.memory(device)?.at())
    }

    /// Takes over a stretch of another array of the same length, within the device when it is there
    /// and this array is there, too.
    ///
    /// # Errors
    /// A device that failed.
    pub fn copy_from(&mut self, stretch: usize, from: &Mirrored, other: usize) -> Result<()> {
        let Stretch { range: source, newest, .. } = &from.stretches[other];
        let Stretch { range, newest: own, .. } = &self.stretches[stretch];
        if let (Newest::Both | Newest::Device, Some(theirs)) = (newest.get(), from.there.get())
            && let Some(mine) = self.there.get()
            && Rc::ptr_eq(mine.device(), theirs.device())
        {
            self.arrived(stretch)?;
            let (from, to) = (theirs.at().plus(source.start), mine.at().plus(range.start));
            mine.device().copy(from, to, range.len())?;
            own.set(Newest::Device);
            return Ok(());
        }
        from.bring(other, Use::Read)?;
        self.arrived(stretch)?;
        // SAFETY: `self` is borrowed alone, and it is another array than `from`, of which this is the
        // only slice.
        unsafe { self.slice(stretch).copy_from_slice(from.slice(other)) };
        own.set(Newest::Host);
        Ok(())
    }

    fn all(&self, state: Newest) -> bool {
        self.stretches.iter().all(|stretch| stretch.newest.get() == state)
    }

    /// Gives the host a stretch's present values.
    fn bring(&self, stretch: usize, what_for: Use) -> Result<()> {
        self.arrived(stretch)?;
        let Stretch { range, newest, .. } = &self.stretches[stretch];
        match (newest.get(), self.there.get()) {
            (Newest::Device, Some(there)) => {
                // SAFETY: as long as the device has changed a stretch, no slice of it is alive: the net
                // runs one layer at a time, on one side, and whole arrays are lent to `&mut self`.
                let host = unsafe { self.slice(stretch) };
                there.device().download(there.at().plus(range.start), host)?;
                newest.set(Newest::Both);
            }
            (Newest::Zero, _) => {
                // SAFETY: as above.
                unsafe { self.slice(stretch) }.fill(0.0);
                newest.set(Newest::Host);
            }
            _ => {}
        }
        if what_for == Use::Change {
            newest.set(Newest::Host);
        }
        Ok(())
    }

    fn memory(&self, device: &Rc<dyn Backend>) -> Result<&Memory> {
        if let Some(there) = self.there.get() {
            return Ok(there);
        }
        let memory = Memory::zeroed(device, self.floats())?;
        Ok(self.there.get_or_init(|| memory))
    }

    /// # Safety
    /// As [`lend`](Mirrored::lend).
    #[allow(clippy::mut_from_ref)]
    unsafe fn slice(&self, stretch: usize) -> &mut [f32] {
        let range = &self.stretches[stretch].range;
        // SAFETY: a raw slice of this range only; other stretches' slices stay untouched.
        unsafe {
            let base = (&mut *self.host.get()).base().add(range.start);
            std::slice::from_raw_parts_mut(base, range.len())
        }
    }
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}
