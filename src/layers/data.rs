//! Data: batches of records from a database.
//!
//! ```text
//! layer {
//!   name: "cifar" type: "Data" top: "data" top: "label"
//!   transform_param { mean_file: "mean.binaryproto" }
//!   data_param { source: "cifar10_train_leveldb" batch_size: 100 backend: LEVELDB }
//! }
//! ```
//!
//! Records may be plain or hold a JPEG or PNG (`encoded`); these become three channels with
//! `force_color` in transform_param or `force_encoded_color` in data_param, one with `force_gray`,
//! else what they are. `prefetch` is taken as advice: readers fill ahead as far as memory allows.
//!
//! The layer does not read: it opens the database once, at setup, to learn the shapes, and then
//! takes the batches that a reader made ([`Layer::feed`]).

use super::{Count, Io, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::data::{Batch, Reading, readers};
use crate::device::Run;
use crate::{Result, ensure};

/// Floats per copying task.
const CHUNK: usize = 64 * 1024;

/// The layer.
struct Data {
    shapes: Vec<Shape>,
    batch: Batch,
}

impl Layer for Data {
    fn reshape(&mut self, _run: &mut Run, _bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(self.shapes.clone())
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let threads = run.threads();
        for (i, values) in self.batch.tops.iter().enumerate().take(io.tops()) {
            let top = io.top_mut(i)?;
            ensure!(
                top.len() == values.len(),
                "the batch holds {} values for top {i}, the net was built for {}",
                values.len(),
                io.top_shape(i)
            );
            threads.par_chunks_mut(top, CHUNK, |k, part| {
                part.copy_from_slice(&values[k * CHUNK..][..part.len()]);
            });
        }
        Ok(())
    }

    fn backward(&mut self, _run: &mut Run, _io: Io<'_>) -> Result<()> {
        Ok(())
    }

    fn feed(&mut self, batch: &mut Batch) {
        std::mem::swap(&mut self.batch, batch);
    }

    fn fed(&self) -> Option<&Batch> {
        Some(&self.batch)
    }
}

/// Builds any layer that a reader feeds.
pub(super) fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let source = readers::open(setup.param, setup.phase, Reading::new(setup.seed))?;
    let shapes = source.top_shapes().into_iter().map(Shape::new).collect();
    Ok(Box::new(Data { shapes, batch: Batch::default() }))
}

/// `Data`.
pub static DEF: LayerDef =
    LayerDef::new("Data", "batches of records from a LevelDB or LMDB, transformed", build)
        .counts(Count::Exactly(0), Count::Between(1, 2));
