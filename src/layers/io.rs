//! [`Io`]: a layer's window on its blobs and parameters during one pass.
//!
//! Every accessor names a blob by its place in the prototxt and says how it is used: read, written
//! (old content is of no interest) or updated in place. The accessors without `_in` give Caffe's
//! plain order, converting when the blob is held in a private layout; the `_in` forms take any
//! layout. Slices may be held side by side for the whole pass; asking twice in conflict is an error.

use crate::Result;
use crate::blob::{BlobId, Epoch, Layout, Shape, Store};
use crate::device::cpu::threads::Threads;
use crate::params::{ParamArena, ParamId};

/// The blobs and parameters of one layer for the length of one pass.
pub struct Io<'a> {
    pub(crate) store: &'a Store,
    pub(crate) params: &'a ParamArena,
    pub(crate) now: Epoch,
    pub(crate) threads: Threads,
    pub(crate) bottom: &'a [BlobId],
    pub(crate) top: &'a [BlobId],
    pub(crate) param: &'a [ParamId],
    pub(crate) propagate_down: &'a [bool],
    pub(crate) param_needs_diff: &'a [bool],
    pub(crate) top_has_diff: &'a [bool],
}

/// Values or gradient of a blob.
#[derive(Clone, Copy)]
enum Side {
    Data,
    Diff,
}

// Slices of different slabs are handed out from one `&self`; the slabs' borrow rules keep them
// disjoint (see `blob::slab`).
#[allow(clippy::mut_from_ref)]
impl Io<'_> {
    /// Number of bottoms.
    pub fn bottoms(&self) -> usize {
        self.bottom.len()
    }

    /// Number of tops.
    pub fn tops(&self) -> usize {
        self.top.len()
    }

    /// Extents of bottom `i`.
    pub fn bottom_shape(&self, i: usize) -> &Shape {
        &self.store.blobs[self.bottom[i]].shape
    }

    /// Extents of top `i`.
    pub fn top_shape(&self, i: usize) -> &Shape {
        &self.store.blobs[self.top[i]].shape
    }

    /// Whether the first top is written over the first bottom.
    pub fn in_place(&self) -> bool {
        !self.bottom.is_empty() && self.bottom.first() == self.top.first()
    }

    /// Whether bottom `i` wants a gradient.
    pub fn propagate_down(&self, i: usize) -> bool {
        self.propagate_down[i]
    }

    /// Whether a gradient arrives at top `i`; where none does, its diff memory holds nothing.
    pub fn top_has_diff(&self, i: usize) -> bool {
        self.top_has_diff[i]
    }

    /// Layout in which bottom `i` can be read without conversion.
    pub fn bottom_layout(&self, i: usize) -> Layout {
        self.layout(self.bottom[i], Side::Data)
    }

    /// Layout in which top `i` can be read without conversion.
    pub fn top_layout(&self, i: usize) -> Layout {
        self.layout(self.top[i], Side::Data)
    }

    /// Layout in which the gradient of top `i` can be read without conversion.
    pub fn top_diff_layout(&self, i: usize) -> Layout {
        self.layout(self.top[i], Side::Diff)
    }

    /// Values of bottom `i`, plain.
    pub fn bottom(&self, i: usize) -> Result<&[f32]> {
        self.bottom_in(i, Layout::Plain)
    }

    /// Values of bottom `i` in `layout`.
    pub fn bottom_in(&self, i: usize, layout: Layout) -> Result<&[f32]> {
        self.read(self.bottom[i], Side::Data, layout)
    }

    /// Values of top `i`, plain (for backward passes that use their output).
    pub fn top(&self, i: usize) -> Result<&[f32]> {
        self.top_in(i, Layout::Plain)
    }

    /// Values of top `i` in `layout`.
    pub fn top_in(&self, i: usize, layout: Layout) -> Result<&[f32]> {
        self.read(self.top[i], Side::Data, layout)
    }

    /// Top `i` to be written, plain.
    pub fn top_mut(&self, i: usize) -> Result<&mut [f32]> {
        self.top_mut_in(i, Layout::Plain)
    }

    /// Top `i` to be written in `layout`; padding channels must be written as zeros.
    pub fn top_mut_in(&self, i: usize, layout: Layout) -> Result<&mut [f32]> {
        self.write(self.top[i], Side::Data, layout)
    }

    /// Top `i` with its present values, to be changed in place (in-place layers: the bottom).
    pub fn top_update_in(&self, i: usize, layout: Layout) -> Result<&mut [f32]> {
        self.update(self.top[i], Side::Data, layout)
    }

    /// Gradient of top `i`, plain.
    pub fn top_diff(&self, i: usize) -> Result<&[f32]> {
        self.top_diff_in(i, Layout::Plain)
    }

    /// Gradient of top `i` in `layout`.
    pub fn top_diff_in(&self, i: usize, layout: Layout) -> Result<&[f32]> {
        self.read(self.top[i], Side::Diff, layout)
    }

    /// Gradient of bottom `i` to be written, plain.
    pub fn bottom_diff_mut(&self, i: usize) -> Result<&mut [f32]> {
        self.bottom_diff_mut_in(i, Layout::Plain)
    }

    /// Gradient of bottom `i` to be written in `layout`; padding channels must be written as zeros.
    pub fn bottom_diff_mut_in(&self, i: usize, layout: Layout) -> Result<&mut [f32]> {
        self.write(self.bottom[i], Side::Diff, layout)
    }

    /// Gradient of bottom `i` with its present values (in-place layers: the top's gradient).
    pub fn bottom_diff_update_in(&self, i: usize, layout: Layout) -> Result<&mut [f32]> {
        self.update(self.bottom[i], Side::Diff, layout)
    }

    /// Number of parameters.
    pub fn params(&self) -> usize {
        self.param.len()
    }

    /// Values of parameter `i`, plain.
    pub fn param(&self, i: usize) -> Result<&[f32]> {
        self.params.lend(self.param[i], self.now)
    }

    /// Values of parameter `i`, for layers that maintain them in their forward pass.
    pub fn param_mut(&self, i: usize) -> Result<&mut [f32]> {
        self.params.lend_mut(self.param[i], self.now)
    }

    /// Gradient of parameter `i`, to be added to.
    pub fn param_diff_mut(&self, i: usize) -> Result<&mut [f32]> {
        self.params.lend_diff(self.param[i], self.now)
    }

    /// Whether parameter `i` wants a gradient.
    pub fn param_needs_diff(&self, i: usize) -> bool {
        self.param_needs_diff.get(i).copied().unwrap_or(false)
    }

    /// Changes whenever parameter values change: the key of packed copies.
    pub fn param_version(&self) -> u64 {
        self.params.version()
    }

    fn layout(&self, id: BlobId, side: Side) -> Layout {
        let blob = &self.store.blobs[id];
        self.store.slabs[self.slab(id, side)].layout(&blob.shape)
    }

    fn slab(&self, id: BlobId, side: Side) -> usize {
        match side {
            Side::Data => self.store.blobs[id].data,
            Side::Diff => self.store.blobs[id].diff,
        }
    }

    fn read(&self, id: BlobId, side: Side, layout: Layout) -> Result<&[f32]> {
        let shape = &self.store.blobs[id].shape;
        self.store.slabs[self.slab(id, side)].read(self.now, layout, shape, self.threads)
    }

    fn write(&self, id: BlobId, side: Side, layout: Layout) -> Result<&mut [f32]> {
        let shape = &self.store.blobs[id].shape;
        self.store.slabs[self.slab(id, side)].write(self.now, layout, shape)
    }

    fn update(&self, id: BlobId, side: Side, layout: Layout) -> Result<&mut [f32]> {
        let shape = &self.store.blobs[id].shape;
        self.store.slabs[self.slab(id, side)].update(self.now, layout, shape, self.threads)
    }
}
