//! Image layers' records as batches, by ticket: one file for each layer type.
//!
//! ```no_run
//! use caffe::data::{Batch, Reading, readers};
//! # fn main() -> Result<(), caffe::data::DataError> {
//! # let layer = caffe_proto::LayerParameter::default();
//! let mut source = readers::open(&layer, caffe_proto::Phase::Train, Reading::new(1701))?;
//! let mut batch = Batch::default();
//! for ticket in 0..100 {
//!     source.fill(ticket, &mut batch)?;
//!     println!("{:?}: first label {}", batch.shapes[0], batch.tops[1][0]);
//! }
//! # Ok(())
//! # }
//! ```

pub mod data;
pub mod image_data;
mod images;
mod settings;
pub mod window_data;

use std::ops::Range;

use super::order::positions;
use super::transform::Cut;

/// One filled batch. Reuse it: buffers keep their memory.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Which batch of the job this is.
    pub ticket: u64,
    /// The values of each top, in Caffe's order: `data`, then `label` where the layer has two tops.
    /// Those of the first one are empty where its records are raw.
    pub tops: Vec<Vec<f32>>,
    /// The records of the first top, where their transform is left to the net's device.
    pub raw: Raw,
    /// The shape of each top: `[N, C, H, W]` and `[N]`.
    pub shapes: Vec<Vec<usize>>,
    /// The record positions covered.
    pub positions: Range<u64>,
    /// Of each record its index: in the database, in the list.
    pub records: Vec<u64>,
    /// Of each record its key, or the file's name.
    pub keys: Vec<Vec<u8>>,
}

/// The images of a batch as the bytes that their records hold, cropped but not changed otherwise:
/// what [`Levels`](super::transform::Levels) makes floats of, on whichever device the net runs. Empty
/// in a batch of floats.
#[derive(Debug, Clone, Default)]
pub struct Raw {
    /// As many bytes as the top has values, in the same order but for mirrored records: those are as
    /// they were.
    pub pixels: Vec<u8>,
    /// Of each record where its pixels lay in its image, and whether the top shows them mirrored.
    pub cuts: Vec<Cut>,
}

impl Raw {
    /// Whether the batch is one of floats.
    pub fn is_empty(&self) -> bool {
        self.cuts.is_empty()
    }

    /// Makes it that, and keeps the memory.
    pub(super) fn clear(&mut self) {
        self.pixels.clear();
        self.cuts.clear();
    }
}

impl Batch {
    /// Takes the ticket's number and positions, and room for so many tops.
    fn begin(&mut self, ticket: u64, batch_size: usize, tops: usize) {
        self.ticket = ticket;
        self.positions = positions(ticket, batch_size as u64);
        self.tops.resize_with(tops, Vec::new);
        self.raw.clear();
        self.shapes.resize_with(tops, Vec::new);
        self.keys.resize_with(batch_size, Vec::new);
        self.records.clear();
        self.records.resize(batch_size, 0);
    }

    /// Notes which record is in place `slot`.
    fn note(&mut self, slot: usize, index: u64, key: &[u8]) {
        let noted = &mut self.keys[slot];
        noted.clear();
        noted.extend_from_slice(key);
        self.records[slot] = index;
    }

    /// Gives top `i` a shape and memory for it.
    fn shape_top(&mut self, i: usize, shape: &[usize]) -> &mut [f32] {
        self.shapes[i].clear();
        self.shapes[i].extend_from_slice(shape);
        self.tops[i].resize(shape.iter().product(), 0.0);
        &mut self.tops[i]
    }

    /// Gives the first top a shape and memory for its raw records.
    fn shape_raw(&mut self, shape: [usize; 4]) -> &mut Raw {
        self.shapes[0].clear();
        self.shapes[0].extend_from_slice(&shape);
        self.tops[0].clear();
        self.raw.pixels.resize(shape.iter().product(), 0);
        self.raw.cuts.resize(shape[0], Cut::default());
        &mut self.raw
    }
}
