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

use std::sync::Arc;

use super::{Count, CudaLayer, DeviceIo, Io, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::data::transform::{Levels, Mean};
use crate::data::{Batch, Raw, Reading, readers};
use crate::device::Run;
use crate::device::cpu::threads::Threads;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::{Address, Arg};
use crate::device::cuda::divisor::Divisor;
use crate::device::cuda::memory::Scratch;
use crate::device::cuda::source::Source;
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
}

impl Layer for Data {
    fn reshape(&mut self, _run: &mut Run, _bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(self.shapes.clone())
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if let Some((raw, levels, sides)) = raw_batch(&self.batch, &self.levels, &io)? {
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
}

/// Channels, height and width of a record in the top.
type Sides = [usize; 3];

/// The batch's raw records, if it has some and they fit the top.
fn raw_batch<'a>(
    batch: &'a Batch,
    levels: &'a Option<Arc<Levels>>,
    io: &Io<'_>,
) -> Result<Option<(&'a Raw, &'a Levels, Sides)>> {
    let raw = &batch.raw;
    if raw.is_empty() {
        return Ok(None);
    }
    let Some(levels) = levels else { bail!("internal: raw records for a layer of floats") };
    let shape = io.top_shape(0);
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

/// The kernel that does the same on a device.
pub static KERNELS: Source = Source {
    name: "data",
    text: r#"
// Where a record's pixels lay in its image, and whether the top shows them mirrored.
struct Cut {
  uint32 top, left, mirror;
};

// top = (pixel - mean) * scale over records of channels x height x width. A difference before a product
// leaves the compiler nothing to fuse, so the bits are the host's. The mean of an element is that of its
// place in an image of rows x columns, or that of its channel where `step` is 1, or one for all.
extern "C" __global__ void transform(int64 n, const uint8* pixels, const Cut* cuts, const float* mean,
                                     float* top, Divisor record, Divisor plane, Divisor width,
                                     int rows, int columns, int step, float scale) {
  KERNEL_LOOP(i, n) {
    uint32 place = rest(i, record), within = rest(place, plane);
    Cut cut = cuts[over(i, record)];
    uint32 c = over(place, plane), y = over(within, width), x = rest(within, width);
    uint32 from = cut.mirror ? NUMBER(width) - 1 - x : x;
    int64 at = c * step;
    if (rows) at = ((int64)c * rows + cut.top + y) * columns + cut.left + from;
    top[i] = ((float)pixels[i - x + from] - mean[at]) * scale;
  }
}
"#,
    functions: &["transform"],
};

/// A batch's bytes in device memory, and what there is beside them.
#[derive(Default)]
struct Staging {
    pixels: Scratch,
    cuts: Scratch,
    mean: Scratch,
    has_mean: bool,
    /// The cuts as the kernel wants them.
    words: Vec<u8>,
}

/// 32-bit words of a `Cut`.
const CUT: usize = 3;

impl Staging {
    /// Takes memory for batches of a shape, and puts the mean there.
    fn reserve(&mut self, cuda: &CudaRun, shape: &Shape, levels: &Levels) -> Result<()> {
        self.pixels.room(&cuda.device, shape.count().div_ceil(size_of::<f32>()))?;
        self.cuts.room(&cuda.device, shape[0] * CUT)?;
        self.mean(cuda, levels).map(|_| ())
    }

    /// The mean, which is copied once.
    fn mean(&mut self, cuda: &CudaRun, levels: &Levels) -> Result<Address> {
        let values = match &levels.mean {
            Mean::None => [0.0].as_slice(),
            Mean::Values(values) => values,
            Mean::Image(mean) => &mean.data,
        };
        let at = self.mean.room(&cuda.device, values.len())?;
        if !self.has_mean {
            cuda.device.upload(values, at)?;
            self.has_mean = true;
        }
        Ok(at)
    }

    /// Copies a batch to the device: its pixels, and how they lie.
    fn upload(&mut self, cuda: &CudaRun, raw: &Raw) -> Result<[Address; 2]> {
        let pixels = self.pixels.room(&cuda.device, raw.pixels.len().div_ceil(size_of::<f32>()))?;
        cuda.device.upload_bytes(&raw.pixels, pixels)?;
        self.words.clear();
        for cut in &raw.cuts {
            let words = [cut.top, cut.left, u32::from(cut.mirror)];
            self.words.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        }
        let cuts = self.cuts.room(&cuda.device, raw.cuts.len() * CUT)?;
        cuda.device.upload_bytes(&self.words, cuts)?;
        Ok([pixels, cuts])
    }

    /// Copies a batch to the device and transforms it there, into `top`.
    fn transform(
        &mut self,
        cuda: &CudaRun,
        (raw, levels, sides): (&Raw, &Levels, Sides),
        top: Address,
    ) -> Result<()> {
        let mean = self.mean(cuda, levels)?;
        let [pixels, cuts] = self.upload(cuda, raw)?;
        let (rows, columns, step) = match &levels.mean {
            Mean::Image(mean) => (mean.shape[1], mean.shape[2], 0),
            Mean::Values(values) if values.len() > 1 => (0, 0, 1),
            _ => (0, 0, 0),
        };
        let [channels, height, width] = sides;
        let extents = [channels * height * width, height * width, width];
        let [record, plane, width] = extents.map(|extent| Divisor::new(extent).into());
        let [rows, columns, step] = [rows, columns, step].map(|n| Arg::Int(n as i32));
        let (pixels, cuts, mean, top) = (pixels.into(), cuts.into(), mean.into(), top.into());
        let scale = levels.scale.into();
        let args = [pixels, cuts, mean, top, record, plane, width, rows, columns, step, scale];
        cuda.each(&KERNELS, "transform", raw.pixels.len(), &args)
    }
}

impl CudaLayer for Data {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if let (true, Some(levels)) = (self.raw, &self.levels) {
            // Whatever this batch is: a forecast, for one, is of floats.
            self.staging.reserve(cuda, io.top_shape(0), levels)?;
        }
        if let Some(batch) = raw_batch(&self.batch, &self.levels, &io)? {
            self.staging.transform(cuda, batch, io.top_mut(0)?)?;
        }
        // Floats are copied when the device asks for them: labels, for one, are read on the host, too.
        copy_floats(cuda.host.threads, &self.batch, &io)
    }

    fn backward(&mut self, _cuda: &CudaRun, _io: DeviceIo<'_>) -> Result<()> {
        Ok(())
    }
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
    }))
}

/// `Data`.
pub static DEF: LayerDef =
    LayerDef::new("Data", "batches of records from a LevelDB or LMDB, transformed", build)
        .counts(Count::Exactly(0), Count::Between(1, 2))
        .kernels(&[&KERNELS]);
