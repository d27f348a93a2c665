//! What a CUDA device does for the engine: [`Backend`].
//!
//! There are two: [`nvidia`](super::nvidia) drives a GPU; [`meter`](super::meter) computes nothing and
//! counts the memory that it is asked for. Nothing here knows a layer: addresses and sizes go in.
//!
//! All work of one backend is done in the order in which it was asked for, in its queue of
//! [computation](Queue::Compute); two queues beside that copy what may travel meanwhile, and [`Event`]s
//! order what is in different queues. Only [`download`](Backend::download), [`wait`](Backend::wait) and
//! [`finish`](Backend::finish) wait.
//!
//! What is asked for between [`note`](Backend::note) and [`noted`](Backend::noted) can be made a
//! [`Graph`], which asks for all of it in one call.

use std::sync::Arc;

use super::algorithms::{Record, Settled, Table, Wanted};
use super::clique::Clique;
pub use super::correlation::{Axis, Correlation};
use super::kind::Kind;
use super::order::Order;
use super::source::Source;
use super::work::{Graph, Work};
use crate::device::cpu::gemm::Gemm;
use crate::{Result, bail};

/// Bytes of working memory that a product or a convolution may ask for.
pub const WORKSPACE: usize = 256 << 20;

/// A place in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub u64);

impl Address {
    /// The place so many floats further on.
    pub fn plus(self, floats: usize) -> Address {
        self.plus_of(Kind::F32, floats)
    }

    /// The place so many numbers of a kind further on.
    pub fn plus_of(self, kind: Kind, n: usize) -> Address {
        Address(self.0 + (n * kind.bytes()) as u64)
    }
}

/// An argument of a kernel, of the type that its declaration has there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// A pointer.
    Address(Address),
    /// `int`.
    Int(i32),
    /// `long long`.
    Long(i64),
    /// `float`.
    Float(f32),
}

impl Arg {
    /// The argument's bytes at the start of a word, as a launch wants them.
    pub(super) fn word(self) -> u64 {
        match self {
            Arg::Address(address) => address.0,
            Arg::Int(value) => u64::from(value.cast_unsigned()),
            Arg::Long(value) => value.cast_unsigned(),
            Arg::Float(value) => u64::from(value.to_bits()),
        }
    }
}

impl From<Address> for Arg {
    fn from(address: Address) -> Arg {
        Arg::Address(address)
    }
}

impl From<i32> for Arg {
    fn from(value: i32) -> Arg {
        Arg::Int(value)
    }
}

impl From<usize> for Arg {
    fn from(value: usize) -> Arg {
        Arg::Long(value as i64)
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Arg {
        Arg::Float(value)
    }
}

/// A queue of work: what is asked for in one is done in that order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// Kernels, products, and copies that have to wait for them.
    Compute,
    /// Copies to the device, beside the computation.
    CopyIn,
    /// Copies from the device, beside the computation.
    CopyOut,
}

/// A place in a queue, by which other queues and the host wait for what stands before it. Made once and
/// set again and again; before it is set the first time, everything is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event(pub(super) usize);

/// A device with its queues of work. Used by the thread that made it.
pub trait Backend {
    /// What it is, for the log.
    fn describe(&self) -> String;

    /// What it stores activations and their gradients as.
    fn kind(&self) -> Kind;

    /// How activations lie best for its convolutions.
    fn order(&self) -> Order {
        Order::Plain
    }

    /// Bytes of memory that are free; `None` where nobody counts.
    ///
    /// # Errors
    /// A device that failed.
    fn free_memory(&self) -> Result<Option<u64>>;

    /// Takes so many bytes from the device now; what is allocated then lies in them as long as there is room.
    ///
    /// # Errors
    /// When there is not enough.
    fn reserve(&self, _bytes: u64) -> Result<()> {
        Ok(())
    }

    /// Bytes that have been taken from the device since it was opened; `None` where nobody counts.
    fn taken(&self) -> Option<u64> {
        None
    }

    /// So many floats of memory, not initialised.
    ///
    /// # Errors
    /// When there is not enough.
    fn allocate(&self, floats: usize) -> Result<Address>;

    /// Gives memory back; work that uses it may still be waiting.
    fn free(&self, at: Address);

    /// Copies from the host.
    ///
    /// # Errors
    /// A device that failed.
    fn upload(&self, from: &[f32], to: Address) -> Result<()>;

    /// Copies bytes from the host, into memory for as many floats as they fill, the last one perhaps in
    /// part.
    ///
    /// # Errors
    /// A device that failed.
    fn upload_bytes(&self, from: &[u8], to: Address) -> Result<()>;

    /// Copies to the host, when everything asked for before is done.
    ///
    /// # Errors
    /// A device that failed, now or in earlier work.
    fn download(&self, from: Address, to: &mut [f32]) -> Result<()>;

    /// Copies within the device.
    ///
    /// # Errors
    /// A device that failed.
    fn copy(&self, from: Address, to: Address, floats: usize) -> Result<()>;

    /// Sets so many floats to zero.
    ///
    /// # Errors
    /// A device that failed.
    fn zero(&self, at: Address, floats: usize) -> Result<()>;

    /// Runs a kernel, compiled with `real` in this kind, on `blocks` blocks of
    /// [`BLOCK`](super::source::BLOCK) threads.
    ///
    /// # Errors
    /// A kernel that does not compile, or a device that failed.
    fn launch(
        &self,
        source: &'static Source,
        kind: Kind,
        function: &'static str,
        blocks: usize,
        args: &[Arg],
    ) -> Result<()>;

    /// Waits until all computation is done.
    ///
    /// # Errors
    /// A device that failed.
    fn finish(&self) -> Result<()> {
        Ok(())
    }

    /// A new event.
    ///
    /// # Errors
    /// A device that failed.
    fn event(&self) -> Result<Event> {
        Ok(Event(0))
    }

    /// Puts an event behind what a queue has been asked for.
    ///
    /// # Errors
    /// A device that failed.
    fn set(&self, _event: Event, _queue: Queue) -> Result<()> {
        Ok(())
    }

    /// Lets what a queue is asked for from now on wait for an event.
    ///
    /// # Errors
    /// A device that failed.
    fn follow(&self, _queue: Queue, _event: Event) -> Result<()> {
        Ok(())
    }

    /// Whether an event is done.
    ///
    /// # Errors
    /// A device that failed, now or in earlier work.
    fn passed(&self, _event: Event) -> Result<bool> {
        Ok(true)
    }

    /// Waits for an event.
    ///
    /// # Errors
    /// As [`passed`](Backend::passed).
    fn wait(&self, _event: Event) -> Result<()> {
        Ok(())
    }

    /// Locks so many bytes of the host's memory, from a page's begin on, in their place, so that copies
    /// need not wait for the host; whether that could be done.
    ///
    /// # Safety
    /// The memory has its pages to itself, and is unlocked before it is given back.
    unsafe fn lock(&self, _at: *mut u8, _bytes: usize) -> bool {
        false
    }

    /// Unlocks what begins there.
    fn unlock(&self, _at: *mut u8) {}

    /// Copies bytes from locked memory in a queue.
    ///
    /// # Errors
    /// A device that failed.
    ///
    /// # Safety
    /// They stay as they are until an event that is set behind the copy is done.
    unsafe fn upload_in(
        &self,
        _queue: Queue,
        from: *const u8,
        bytes: usize,
        to: Address,
    ) -> Result<()> {
        // SAFETY: the caller's word.
        self.upload_bytes(unsafe { std::slice::from_raw_parts(from, bytes) }, to)
    }

    /// Copies floats to locked memory in a queue.
    ///
    /// # Errors
    /// A device that failed.
    ///
    /// # Safety
    /// Nobody looks at the memory until an event that is set behind the copy is done.
    unsafe fn download_in(
        &self,
        _queue: Queue,
        from: Address,
        to: *mut f32,
        floats: usize,
    ) -> Result<()> {
        // SAFETY: the caller's word.
        self.download(from, unsafe { std::slice::from_raw_parts_mut(to, floats) })
    }

    /// Starts to note what computation is asked for, while it is done.
    fn note(&self) {}

    /// Ends that; what was noted, or why it cannot be asked for again as it was.
    ///
    /// # Errors
    /// The reason, in words.
    fn noted(&self) -> std::result::Result<Vec<Work>, &'static str> {
        Err("the device has no graphs")
    }

    /// What is noted will not be the same again, for this reason.
    fn spoil(&self, _why: &'static str) {}

    /// Makes a graph of work that has been done once. It is of no use when
    /// [`frees`](Backend::frees) has changed.
    ///
    /// # Errors
    /// A device that failed, or has no graphs.
    fn graph(&self, _works: &[Work]) -> Result<Box<dyn Graph>> {
        bail!("{} has no graphs", self.describe())
    }

    /// How many times memory has been given back: an address from before may be somebody else's.
    fn frees(&self) -> u64 {
        0
    }

    /// Joins other devices of this process, as member number `member`; returns when all have joined.
    ///
    /// # Errors
    /// A device that cannot, or a member that has gone.
    fn join(&self, _clique: &Arc<Clique>, _member: usize) -> Result<()> {
        bail!("{} adds nothing up with others", self.describe())
    }

    /// Adds an array of every member up, into the first member's; the others' stay as they are. Every
    /// member asks for the same arrays in the same order.
    ///
    /// # Errors
    /// A device that has not joined or failed, or a member that has gone.
    fn sum_into_first(&self, _at: Address, _floats: usize) -> Result<()> {
        bail!("internal: {} has not joined others", self.describe())
    }

    /// C ← alpha · op(A) · op(B) + beta · C, where A and B are of the first kind and C is of the second:
    /// the same, or f32. Sums are in f32.
    ///
    /// # Errors
    /// A device that failed.
    fn product(&self, g: Gemm, kinds: [Kind; 2], a: Address, b: Address, c: Address) -> Result<()>;

    /// Settles, before the first pass, which algorithms correlations are computed with: recorded ones,
    /// which were measured in the same [`Setup`](super::algorithms::Setup), where they serve, others are
    /// measured now.
    ///
    /// # Errors
    /// A device that failed, or a shape it has no code for.
    fn settle(&self, _wanted: &[Wanted], _recorded: &[Record]) -> Result<Settled> {
        Ok(Settled::default())
    }

    /// The algorithms that were settled; `None` where no time decides.
    fn algorithms(&self) -> Option<Table> {
        None
    }

    /// y ← w ∗ x, all of this kind.
    ///
    /// # Errors
    /// A device that failed, or a shape it has no code for.
    fn correlate(
        &self,
        shape: &Correlation,
        kind: Kind,
        x: Address,
        w: Address,
        y: Address,
    ) -> Result<()>;

    /// dx ← the gradient of x, all of this kind.
    ///
    /// # Errors
    /// As [`correlate`](Backend::correlate).
    fn correlate_back(
        &self,
        shape: &Correlation,
        kind: Kind,
        w: Address,
        dy: Address,
        dx: Address,
    ) -> Result<()>;

    /// dw ← dw + the gradient of w, of x and dy of this kind; dw is f32 and plain.
    ///
    /// # Errors
    /// As [`correlate`](Backend::correlate).
    fn correlate_weights(
        &self,
        shape: &Correlation,
        kind: Kind,
        x: Address,
        dy: Address,
        dw: Address,
    ) -> Result<()>;
}
