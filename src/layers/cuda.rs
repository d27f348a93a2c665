//! Layers on a CUDA device: [`CudaLayer`], and [`DeviceIo`], a layer's window on its blobs there.
//!
//! The counterpart of `Layer::forward` and `backward` with [`Io`]: the same names, but addresses in
//! device memory instead of slices. What only the host has is copied to the device when it is asked for,
//! and the other way round.
//!
//! On a device of 16 bits a layer gets its blobs as f32 unless it says by [`CudaLayer::reals`] that its
//! kernels take them as `real`. Those blobs come in the order of [`CudaLayer::orders`], the others plain.
//! Blobs between layers that differ in either are converted.

use super::Io;
use crate::Result;
use crate::blob::{BlobId, Shape};
use crate::data::Batch;
use crate::device::cuda::backend::Address;
use crate::device::cuda::{CudaRun, Form, Kind, Order};
use crate::params::{ParamId, Use};

/// Which blobs of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// None.
    None,
    /// The first.
    First,
    /// All.
    All,
}

impl Which {
    fn holds(self, i: usize) -> bool {
        match self {
            Which::None => false,
            Which::First => i == 0,
            Which::All => true,
        }
    }
}

/// Which blobs a layer's kernels take as `real`, with their gradients; the others are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reals {
    bottoms: Which,
    tops: Which,
}

impl Reals {
    /// None.
    pub const NONE: Reals = Reals::new(Which::None, Which::None);
    /// The first bottom.
    pub const BOTTOM: Reals = Reals::new(Which::First, Which::None);
    /// The first bottom and the first top.
    pub const FIRST: Reals = Reals::new(Which::First, Which::First);
    /// All.
    pub const ALL: Reals = Reals::new(Which::All, Which::All);

    const fn new(bottoms: Which, tops: Which) -> Reals {
        Reals { bottoms, tops }
    }

    /// What `real` is in the layer's kernels on a device of this kind.
    pub(crate) fn real(self, kind: Kind) -> Kind {
        if self == Reals::NONE { Kind::F32 } else { kind }
    }

    /// What bottom `i` is where those that are taken as `real` have this form.
    pub(crate) fn bottom(self, i: usize, form: Form) -> Form {
        if self.bottoms.holds(i) { form } else { Form::default() }
    }

    /// What top `i` is where those that are taken as `real` have this form.
    pub(crate) fn top(self, i: usize, form: Form) -> Form {
        if self.tops.holds(i) { form } else { Form::default() }
    }
}

/// In which order a layer's kernels take the blobs that [`Reals`] names, with their gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orders {
    /// In this one.
    Only(Order),
    /// In whatever order bottom 0 has.
    Bottoms,
}

/// A Scale, and perhaps a ReLU behind it, that work in place on what a layer makes.
#[derive(Clone, Copy, Debug)]
pub struct Behind {
    /// The values that channels are multiplied by.
    pub scale: ParamId,
    /// What is added to them.
    pub bias: Option<ParamId>,
    /// Whether these want gradients.
    pub learns: [bool; 2],
    /// Whether negative values become zero.
    pub relu: bool,
}

/// The passes of a layer on a CUDA device; what [`Layer`](super::Layer) says of them holds here.
pub trait CudaLayer {
    /// Computes the tops from the bottoms.
    ///
    /// # Errors
    /// A device that failed, or a kernel that does not compile.
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()>;

    /// Overwrites bottom gradients, adds to parameter gradients.
    ///
    /// # Errors
    /// As [`forward`](CudaLayer::forward).
    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()>;

    /// Offers the forward pass of the in-place ReLU right behind; whether it is taken over.
    fn take_relu(&mut self) -> bool {
        false
    }

    /// Whether it has taken over the ReLU's backward pass, too.
    fn takes_relu_back(&self) -> bool {
        false
    }

    /// Offers all work of the layers right behind; whether it is taken over. Their backward passes come
    /// with its own.
    fn take_scale(&mut self, _behind: Behind) -> bool {
        false
    }

    /// A layer that reads records: copies the batch that it was fed to the device, beside the computation,
    /// into one of two places. What is computed from now on waits for it.
    ///
    /// # Errors
    /// A device that failed.
    fn send(&mut self, _cuda: &CudaRun, _place: usize) -> Result<()> {
        Ok(())
    }

    /// The same with a batch that it will be fed next, while it computes on the one before.
    ///
    /// # Errors
    /// A device that failed.
    fn send_ahead(&mut self, _cuda: &CudaRun, _batch: &Batch, _place: usize) -> Result<()> {
        Ok(())
    }

    /// Which blobs its kernels take as `real`.
    fn reals(&self) -> Reals {
        Reals::NONE
    }

    /// In which order it takes them; the answer does not change once there are shapes.
    fn orders(&self) -> Orders {
        Orders::Only(Order::Plain)
    }

    /// Tells a layer without bottoms that all who read its first top read it in this form.
    fn first_top_is_read_as(&mut self, _form: Form) {}

    /// Whether its first parameter is wanted with the channels last, as a copy.
    fn turns_weights(&self) -> bool {
        false
    }
}

/// The blobs and parameters of one layer, in device memory, for the length of one pass.
pub struct DeviceIo<'a> {
    io: Io<'a>,
    cuda: &'a CudaRun,
    reals: Reals,
    order: Order,
}

impl<'a> DeviceIo<'a> {
    /// The same window on another device.
    pub(crate) fn new(io: Io<'a>, cuda: &'a CudaRun, reals: Reals, order: Order) -> Self {
        DeviceIo { io, cuda, reals, order }
    }
}

/// What does not depend on where the blobs are.
impl<'a> std::ops::Deref for DeviceIo<'a> {
    type Target = Io<'a>;

    fn deref(&self) -> &Io<'a> {
        &self.io
    }
}

impl DeviceIo<'_> {
    /// Order of the blobs that the layer takes as `real`.
    pub fn order(&self) -> Order {
        self.order
    }

    /// Values of bottom `i`.
    pub fn bottom(&self, i: usize) -> Result<Address> {
        self.read(self.io.bottom[i], false, self.bottom_form(i))
    }

    /// Values of bottom `i` on the host, for what has to be looked at there: such a pass is no graph.
    pub fn bottom_on_host(&self, i: usize) -> Result<&[f32]> {
        self.cuda.device.spoil("a layer looks at its bottom on the host");
        self.io.bottom(i)
    }

    /// Values of top `i`.
    pub fn top(&self, i: usize) -> Result<Address> {
        self.read(self.io.top[i], false, self.top_form(i))
    }

    /// Top `i` to be written.
    pub fn top_mut(&self, i: usize) -> Result<Address> {
        self.write(self.io.top[i], false, self.top_form(i))
    }

    /// Top `i` with its present values, to be changed (in-place layers: the bottom).
    pub fn top_update(&self, i: usize) -> Result<Address> {
        self.update(self.io.top[i], false, self.top_form(i))
    }

    /// Gradient of top `i`.
    pub fn top_diff(&self, i: usize) -> Result<Address> {
        self.read(self.io.top[i], true, self.top_form(i))
    }

    /// Gradient of top `i`, to be changed where it stands.
    pub fn top_diff_update(&self, i: usize) -> Result<Address> {
        self.update(self.io.top[i], true, self.top_form(i))
    }

    /// Gradient of bottom `i` to be written.
    pub fn bottom_diff_mut(&self, i: usize) -> Result<Address> {
        self.write(self.io.bottom[i], true, self.bottom_form(i))
    }

    /// Gradient of bottom `i` with its present values (in-place layers: the top's gradient).
    pub fn bottom_diff_update(&self, i: usize) -> Result<Address> {
        self.update(self.io.bottom[i], true, self.bottom_form(i))
    }

    /// Bottom 0 and top 0 of a forward pass, which are the same when the layer works in place.
    pub fn through(&self) -> Result<(Address, Address)> {
        match self.io.in_place() {
            true => self.top_update(0).map(|at| (at, at)),
            false => Ok((self.bottom(0)?, self.top_mut(0)?)),
        }
    }

    /// Gradients of top 0 and bottom 0 of a backward pass, the same when the layer works in place.
    pub fn back_through(&self) -> Result<(Address, Address)> {
        match self.io.in_place() {
            true => self.bottom_diff_update(0).map(|at| (at, at)),
            false => Ok((self.top_diff(0)?, self.bottom_diff_mut(0)?)),
        }
    }

    /// Values of parameter `i`.
    pub fn param(&self, i: usize) -> Result<Address> {
        self.io.params.lend_on(self.io.param[i], &self.cuda.device, Use::Read)
    }

    /// Values of parameter `i` as `real`: factors of products. On a device of 16 bits that is a copy,
    /// made once after each change.
    pub fn weights(&self, i: usize) -> Result<Address> {
        match self.cuda.real {
            Kind::F32 => self.param(i),
            _ => self.io.params.lend_halves_on(self.io.param[i], &self.cuda.device),
        }
    }

    /// The same with the channels last: weights of this shape, whose two orders differ.
    pub fn turned_weights(&self, i: usize, shape: &Shape) -> Result<Address> {
        self.io.params.lend_turned_on(self.io.param[i], &self.cuda.device, shape)
    }

    /// Values of parameter `i`, which the layer itself maintains, to be changed.
    pub fn param_mut(&self, i: usize) -> Result<Address> {
        self.io.params.lend_on(self.io.param[i], &self.cuda.device, Use::Change)
    }

    /// Values of a parameter of another layer, whose work this one has taken over.
    pub fn param_of(&self, id: ParamId) -> Result<Address> {
        self.io.params.lend_on(id, &self.cuda.device, Use::Read)
    }

    /// Gradient of such a parameter, to be added to.
    pub fn param_diff_of(&self, id: ParamId) -> Result<Address> {
        self.io.params.lend_diff_on(id, &self.cuda.device)
    }

    /// Gradient of parameter `i`, to be added to.
    pub fn param_diff_mut(&self, i: usize) -> Result<Address> {
        self.io.params.lend_diff_on(self.io.param[i], &self.cuda.device)
    }

    fn slab(&self, id: BlobId, diff: bool) -> (&crate::blob::Slab, &Shape) {
        let blob = &self.io.store.blobs[id];
        (&self.io.store.slabs[if diff { blob.diff } else { blob.data }], &blob.shape)
    }

    fn bottom_form(&self, i: usize) -> Form {
        self.reals.bottom(i, Form { kind: self.cuda.device.kind(), order: self.order })
    }

    fn top_form(&self, i: usize) -> Form {
        self.reals.top(i, Form { kind: self.cuda.device.kind(), order: self.order })
    }

    fn read(&self, id: BlobId, diff: bool, form: Form) -> Result<Address> {
        let (slab, shape) = self.slab(id, diff);
        slab.read_on((&self.cuda.device, form), self.io.now, shape, self.io.threads)
    }

    fn write(&self, id: BlobId, diff: bool, form: Form) -> Result<Address> {
        let (slab, shape) = self.slab(id, diff);
        slab.write_on((&self.cuda.device, form), self.io.now, shape)
    }

    fn update(&self, id: BlobId, diff: bool, form: Form) -> Result<Address> {
        let (slab, shape) = self.slab(id, diff);
        slab.update_on((&self.cuda.device, form), self.io.now, shape, self.io.threads)
    }
}
