//! Blobs: named n-dimensional arrays of f32 with a gradient beside them.
//!
//! A blob is a description ([`BlobInfo`]: name, shape) plus two slab numbers (data and diff) in the
//! net's [`Store`]; the memory itself, its layouts and their validity belong to the slabs, so that
//! aliases are a matter of numbers and only the memory planner makes them.

pub mod layout;
mod shape;
mod slab;

pub use layout::Layout;
pub use shape::Shape;
pub(crate) use slab::Places;
pub use slab::{Epoch, Lent, Slab};

/// Number of a blob in its net.
pub type BlobId = usize;
/// Number of a slab in its net.
pub type SlabId = usize;

/// What a net knows of a blob.
#[derive(Clone, Debug)]
pub struct BlobInfo {
    /// Name in the prototxt (or the name of an inserted split).
    pub name: String,
    /// Present extents.
    pub shape: Shape,
    /// Memory of the values.
    pub data: SlabId,
    /// Memory of the gradient.
    pub diff: SlabId,
}

/// All blobs of one net and their memory.
#[derive(Default)]
pub struct Store {
    /// The blobs, by [`BlobId`].
    pub blobs: Vec<BlobInfo>,
    /// The memory, by [`SlabId`].
    pub slabs: Vec<Slab>,
}

impl Store {
    /// Conversions between layouts so far, over all slabs.
    pub fn reorders(&self) -> u64 {
        self.slabs.iter().map(Slab::reorders).sum()
    }

    /// Bytes of memory held by all slabs.
    pub fn bytes(&self) -> usize {
        self.slabs.iter().map(Slab::held).sum::<usize>() * size_of::<f32>()
    }
}
