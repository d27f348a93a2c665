//! Slabs: the memory of one alias group, in up to two layouts and on a device.
//!
//! Several blobs may live in one slab: in-place layers, `Split`, `Flatten` and `Reshape` alias on
//! purpose, and the memory planner gives blobs whose lifetimes never meet the same slab. A slab
//! keeps a plain and a blocked *representation*; reading one that is stale converts it from the
//! other, once; writing one makes the other stale. Conversions are counted, since a reorder in the
//! hot path is a defect. A net on a CUDA device has two more, plain, in device memory: f32, and 16 bits
//! where the device computes with them; what is converted between those, and what crosses between host
//! and device, is counted with them.
//!
//! Inside one layer call a slab hands out slices under runtime borrow rules: any number of readers
//! or one writer per representation. A layer that breaks the rule gets [`Error::Borrow`].

mod device;

use std::cell::{Cell, UnsafeCell};

pub(crate) use self::device::Places;

use self::device::DeviceRep;
use super::{Layout, Shape};
use crate::device::cpu::aligned::AlignedBuf;
use crate::device::cpu::reorder::{self, reorder};
use crate::device::cpu::threads::Threads;
use crate::{Error, Result};

/// Number of a layer call; borrows of earlier calls have ended.
pub type Epoch = u64;

/// Who holds a slice in which call.
#[derive(Default)]
pub struct Lent(Cell<(Epoch, bool)>);

impl Lent {
    /// Takes a shared borrow for this call.
    ///
    /// # Errors
    /// [`Error::Borrow`] when the buffer is lent for writing in the same call.
    pub fn read(&self, now: Epoch, what: &'static str) -> Result<()> {
        match self.0.get() {
            (epoch, true) if epoch == now => Err(Error::Borrow { what }),
            _ => {
                self.0.set((now, false));
                Ok(())
            }
        }
    }

    /// Takes the unique borrow for this call.
    ///
    /// # Errors
    /// [`Error::Borrow`] when the buffer is lent in any way in the same call.
    pub fn write(&self, now: Epoch, what: &'static str) -> Result<()> {
        if self.0.get().0 == now {
            return Err(Error::Borrow { what });
        }
        self.0.set((now, true));
        Ok(())
    }
}

/// One representation of a slab.
#[derive(Default)]
struct Rep {
    memory: UnsafeCell<AlignedBuf>,
    valid: Cell<bool>,
    lent: Lent,
}

impl Rep {
    /// Grows the memory to `len` floats. Content is kept only if it was large enough.
    fn reserve(&self, len: usize, capacity: usize) {
        // SAFETY: called only before any slice of this representation is lent in this call
        // (`read`/`write` below check first), so nothing points into the memory.
        let memory = unsafe { &mut *self.memory.get() };
        if memory.len() < len {
            *memory = AlignedBuf::zeroed(len.max(capacity));
        }
    }

    /// # Safety
    /// The caller holds a read borrow of this call and writes nothing through other views.
    unsafe fn slice(&self, len: usize) -> &[f32] {
        // SAFETY: see above; the buffer is not moved while lent.
        unsafe { &(&*self.memory.get())[..len] }
    }

    /// # Safety
    /// The caller holds the write borrow of this call.
    #[allow(clippy::mut_from_ref)]
    unsafe fn slice_mut(&self, len: usize) -> &mut [f32] {
        // SAFETY: see above; the write borrow is unique.
        unsafe { &mut (&mut *self.memory.get())[..len] }
    }
}

/// Memory of one alias group.
#[derive(Default)]
pub struct Slab {
    plain: Rep,
    blocked: Rep,
    device: DeviceRep,
    /// Layout and shape of the blocked representation when it was last written.
    blocked_as: Cell<Layout>,
    blocked_shape: UnsafeCell<Shape>,
    reorders: Cell<u64>,
    /// Floats to allocate at least, so that blobs of several sizes never make it grow again.
    capacity: usize,
}

impl Slab {
    /// A slab whose representations get at least `capacity` floats when first used.
    pub fn with_capacity(capacity: usize) -> Self {
        Slab { capacity, ..Default::default() }
    }

    /// Floats that a representation gets at least when it is first used.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The layout that can be read now without a conversion, for a blob of `shape`.
    pub fn layout(&self, shape: &Shape) -> Layout {
        // Single pixels count as plain, see `Shape::memory_layout`.
        if self.blocked.valid.get() && self.blocked_shape() == shape {
            self.blocked_as.get()
        } else {
            Layout::Plain
        }
    }

    /// Conversions between layouts since the slab was made.
    pub fn reorders(&self) -> u64 {
        self.reorders.get()
    }

    /// Floats of memory held now, both representations.
    pub fn held(&self) -> usize {
        // SAFETY: only the lengths are read; no slice is made.
        unsafe { (&*self.plain.memory.get()).len() + (&*self.blocked.memory.get()).len() }
    }

    /// Reads the blob in `layout`, converting first if only the other representation is valid.
    ///
    /// # Errors
    /// [`Error::Borrow`] when it is lent for writing in this call.
    pub fn read(
        &self,
        now: Epoch,
        layout: Layout,
        shape: &Shape,
        threads: Threads,
    ) -> Result<&[f32]> {
        let layout = shape.memory_layout(layout);
        self.make_valid(now, layout, shape, threads)?;
        let rep = self.rep(layout);
        rep.lent.read(now, "a blob")?;
        // SAFETY: the read borrow was just granted.
        Ok(unsafe { rep.slice(layout.padded_len(shape.dims())) })
    }

    /// Writes the blob in `layout`; what was in it is unspecified.
    ///
    /// # Errors
    /// [`Error::Borrow`] when that representation is lent in this call.
    #[allow(clippy::mut_from_ref)]
    pub fn write(&self, now: Epoch, layout: Layout, shape: &Shape) -> Result<&mut [f32]> {
        let layout = shape.memory_layout(layout);
        let rep = self.rep(layout);
        rep.lent.write(now, "a blob")?;
        rep.reserve(layout.padded_len(shape.dims()), self.capacity);
        self.becomes(layout, shape);
        // SAFETY: the write borrow was just granted.
        Ok(unsafe { rep.slice_mut(layout.padded_len(shape.dims())) })
    }

    /// Changes the blob in `layout` where it stands: the slice holds the present values.
    ///
    /// # Errors
    /// [`Error::Borrow`] when that representation is lent in this call.
    #[allow(clippy::mut_from_ref)]
    pub fn update(
        &self,
        now: Epoch,
        layout: Layout,
        shape: &Shape,
        threads: Threads,
    ) -> Result<&mut [f32]> {
        self.make_valid(now, shape.memory_layout(layout), shape, threads)?;
        self.write(now, layout, shape)
    }

    fn rep(&self, layout: Layout) -> &Rep {
        if layout == Layout::Plain { &self.plain } else { &self.blocked }
    }

    fn blocked_shape(&self) -> &Shape {
        // SAFETY: the shape is replaced only in `becomes`, whose callers hold no reference to it.
        unsafe { &*self.blocked_shape.get() }
    }

    /// Marks `layout` as the only valid representation.
    fn becomes(&self, layout: Layout, shape: &Shape) {
        self.plain.valid.set(layout == Layout::Plain);
        self.blocked.valid.set(layout != Layout::Plain);
        self.device.invalidate();
        if layout != Layout::Plain {
            self.describe(layout, shape);
        }
    }

    fn describe(&self, layout: Layout, shape: &Shape) {
        self.blocked_as.set(layout);
        if self.blocked_shape() != shape {
            // SAFETY: no reference to the old shape is alive: `blocked_shape` borrows end inside
            // the expressions that make them.
            unsafe { *self.blocked_shape.get() = shape.clone() };
        }
    }

    fn make_valid(
        &self,
        now: Epoch,
        layout: Layout,
        shape: &Shape,
        threads: Threads,
    ) -> Result<()> {
        self.fetch(now, shape)?;
        let same_blocks = self.blocked_as.get() == layout && self.blocked_shape() == shape;
        let valid = match layout {
            Layout::Plain => self.plain.valid.get() || !self.blocked.valid.get(),
            _ => self.blocked.valid.get() && same_blocks,
        };
        if valid {
            self.rep(layout).reserve_if_unlent(now, layout.padded_len(shape.dims()), self.capacity);
            return Ok(());
        }
        if layout == Layout::Plain {
            return self.unblock(now, threads);
        }
        if self.blocked.valid.get() && !self.plain.valid.get() {
            self.unblock(now, threads)?;
        }
        self.block(now, layout, shape, threads)
    }

    /// blocked → plain.
    fn unblock(&self, now: Epoch, threads: Threads) -> Result<()> {
        let (from, shape) = (self.blocked_as.get(), self.blocked_shape().clone());
        self.plain.lent.write(now, "a blob")?;
        self.plain.reserve(shape.count(), self.capacity);
        // SAFETY: the plain borrow is unique; the blocked one is only read here, and a layer that
        // wrote it in this call has made it the valid one, which `read` by itself never overlaps.
        let (src, dst) = unsafe {
            (self.blocked.slice(from.padded_len(shape.dims())), self.plain.slice_mut(shape.count()))
        };
        reorder(threads, sizes(&shape), (src, from), (dst, Layout::Plain));
        self.plain.lent.0.set((0, false));
        self.plain.valid.set(true);
        self.reorders.set(self.reorders.get() + 1);
        Ok(())
    }

    /// plain → blocked.
    fn block(&self, now: Epoch, layout: Layout, shape: &Shape, threads: Threads) -> Result<()> {
        self.blocked.lent.write(now, "a blob")?;
        self.plain.reserve_if_unlent(now, shape.count(), self.capacity);
        self.blocked.reserve(layout.padded_len(shape.dims()), self.capacity);
        // SAFETY: as in `unblock`, with the roles exchanged.
        let (src, dst) = unsafe {
            (
                self.plain.slice(shape.count()),
                self.blocked.slice_mut(layout.padded_len(shape.dims())),
            )
        };
        reorder(threads, sizes(shape), (src, Layout::Plain), (dst, layout));
        self.blocked.lent.0.set((0, false));
        self.blocked.valid.set(true);
        self.describe(layout, shape);
        self.reorders.set(self.reorders.get() + 1);
        Ok(())
    }
}

impl Rep {
    /// Grows memory that nobody holds in this call; memory that is lent is large enough already.
    fn reserve_if_unlent(&self, now: Epoch, len: usize, capacity: usize) {
        if self.lent.0.get().0 != now {
            self.reserve(len, capacity);
        }
    }
}

/// Sizes of an activation, for the conversion between its layouts.
fn sizes(shape: &Shape) -> reorder::Shape {
    reorder::Shape { n: shape[0], channels: shape[1], pixels: shape.count_from(2) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converts_once_and_counts() {
        let slab = Slab::default();
        let shape = Shape::from([1, 3, 1, 2]);
        slab.write(1, Layout::Plain, &shape).unwrap().copy_from_slice(&[1., 2., 3., 4., 5., 6.]);
        let b = slab.read(2, Layout::Blocked8, &shape, Threads::one()).unwrap();
        assert_eq!(&b[..4], &[1., 3., 5., 0.]);
        assert_eq!(&b[8..12], &[2., 4., 6., 0.]);
        slab.read(3, Layout::Blocked8, &shape, Threads::one()).unwrap();
        assert_eq!(slab.reorders(), 1);
        slab.update(4, Layout::Blocked8, &shape, Threads::one()).unwrap()[0] = 9.0;
        assert_eq!(slab.read(5, Layout::Plain, &shape, Threads::one()).unwrap()[0], 9.0);
        assert_eq!(slab.reorders(), 2);
    }

    #[test]
    fn another_shape_of_the_group_reads_through_plain() {
        let slab = Slab::default();
        let image = Shape::from([2, 3, 2, 2]);
        let flat = Shape::from([2, 12]);
        for (i, v) in slab.write(1, Layout::Plain, &image).unwrap().iter_mut().enumerate() {
            *v = i as f32;
        }
        slab.update(2, Layout::Blocked16, &image, Threads::one()).unwrap();
        let f = slab.read(3, Layout::Plain, &flat, Threads::one()).unwrap();
        assert!(f.iter().enumerate().all(|(i, &v)| v == i as f32));
    }

    #[test]
    fn single_pixels_without_padding_are_never_converted() {
        let slab = Slab::default();
        let shape = Shape::from([2, 32, 1, 1]);
        slab.write(1, Layout::Blocked16, &shape).unwrap().fill(3.0);
        assert_eq!(slab.layout(&shape), Layout::Plain);
        assert_eq!(slab.read(2, Layout::Plain, &shape, Threads::one()).unwrap(), [3.0; 64]);
        slab.read(3, Layout::Blocked8, &shape, Threads::one()).unwrap();
        assert_eq!(slab.reorders(), 0);
    }

    #[test]
    fn two_writers_in_one_call_are_refused() {
        let slab = Slab::default();
        let shape = Shape::from([4]);
        let _w = slab.write(7, Layout::Plain, &shape).unwrap();
        assert!(matches!(
            slab.read(7, Layout::Plain, &shape, Threads::one()),
            Err(Error::Borrow { .. })
        ));
        assert!(slab.write(7, Layout::Plain, &shape).is_err());
        assert!(slab.read(8, Layout::Plain, &shape, Threads::one()).is_ok());
    }
}
