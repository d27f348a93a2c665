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
//! takes the batches that a reader made ([`Layer::feed`]): floats, or the records' bytes
//! ([`Raw`]), of which it makes floats where it runs: (pixel − mean) · scale, mirrored where the reader
//! says so.

mod cuda;

use std::sync::Arc;

pub use self::cuda::KERNELS;
use self::cuda::Staging;
use super::{Count, CudaLayer, Io, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::data::transform::{Cut, Levels};
use crate::data::{Batch, Raw, Reading, readers};
use crate::device::Run;
use crate::device::cpu::threads::Threads;
use crate::device::cuda::Form;
use crate::{Result, bail, ensure};

/// Floats per copying task.
const CHUNK: usize = 64 * 1024;

/// The layer.
struct Data {
    shapes: Vec<Shape>,
    batch: Batch,
    /// What raw records need to become floats; `None` where they never come raw.
    levels: Option<Arc<Levels>>,
    /// Whether they are expected raw on a device.
    raw: bool,
    staging: Staging,
    /// On a device, the form of the first top.
    form: Form,
}

impl Layer for Data {
    fn reshape(&mut self, _run: &mut Run, _bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(self.shapes.clone())
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if let Some((raw, levels, sides)) = raw_batch(&self.batch, &self.levels, io.top_shape(0))? {
            transform(run.threads(), raw, levels, sides, io.top_mut(0)?);
        }
        copy_floats(run.threads(), &self.batch, &io)
    }

    fn backward(&mut self, _run: &mut Run, _io: Io<'_>) -> Result<()> {
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }

    fn feed(&mut self, batch: &mut Batch) {
        std::mem::swap(&mut self.batch, batch);
    }

    fn fed(&self) -> Option<&Batch> {
        Some(&self.batch)
    }

    fn blank(&self) -> Option<Batch> {
        let raw = |shape: &Shape| Raw {
            pixels: vec![0; shape.count()],
            cuts: vec![Cut::default(); shape[0]],
        };
        let zeros = |(i, shape): (usize, &Shape)| match self.raw && i == 0 {
            true => Vec::new(),
            false => vec![0.0; shape.count()],
        };
        Some(Batch {
            tops: self.shapes.iter().enumerate().map(zeros).collect(),
            raw: self.shapes.first().filter(|_| self.raw).map(raw).unwrap_or_default(),
            shapes: self.shapes.iter().map(|shape| shape.dims().to_vec()).collect(),
            ..Batch::default()
        })
    }
}

/// Channels, height and width of a record in the top.
type Sides = [usize; 3];

/// The batch's raw records, if it has some and they fit the top.
fn raw_batch<'a>(
    batch: &'a Batch,
    levels: &'a Option<Arc<Levels>>,
    shape: &Shape,
) -> Result<Option<(&'a Raw, &'a Levels, Sides)>> {
    let raw = &batch.raw;
    if raw.is_empty() {
        return Ok(None);
    }
    let Some(levels) = levels else { bail!("internal: raw records for a layer of floats") };
    let &[records, channels, height, width] = shape.dims() else {
        bail!("internal: raw records for a top of shape {shape}")
    };
    ensure!(
        raw.cuts.len() == records && raw.pixels.len() == shape.count(),
        "the batch holds {} bytes of {} records, the net was built for {shape}",
        raw.pixels.len(),
        raw.cuts.len()
    );
    Ok(Some((raw, levels, [channels, height, width])))
}

/// Copies the tops that are floats, all but a raw one.
fn copy_floats(threads: Threads, batch: &Batch, io: &Io<'_>) -> Result<()> {
    let first = usize::from(!batch.raw.is_empty());
    for (i, values) in batch.tops.iter().enumerate().take(io.tops()).skip(first) {
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

/// Raw records as floats, on the host.
fn transform(threads: Threads, raw: &Raw, levels: &Levels, sides: Sides, top: &mut [f32]) {
    let size = sides.iter().product();
    threads.par_chunks_mut(top, size, |i, out| {
        levels.apply(&raw.pixels[i * size..][..size], sides, raw.cuts[i], out);
    });
}

/// Builds any layer that a reader feeds.
pub(super) fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let reading = Reading { raw: true, ..Reading::new(setup.seed) };
    let source = readers::open(setup.param, setup.phase, reading)?;
    let shapes = source.top_shapes().into_iter().map(Shape::new).collect();
    Ok(Box::new(Data {
        shapes,
        batch: Batch::default(),
        levels: source.levels().cloned(),
        raw: source.is_raw(),
        staging: Staging::default(),
        form: Form::default(),
    }))
}

/// `Data`.
pub static DEF: LayerDef =
    LayerDef::new("Data", "batches of records from a LevelDB or LMDB, transformed", build)
        .counts(Count::Exactly(0), Count::Between(1, 2))
        .kernels(&[&KERNELS]);
