//! Records on their way to a CUDA device: copied there beside the computation, into one of two places, and
//! made floats by a kernel.
//!
//! The places take turns, so that one batch travels while another is computed on. Which one is the present
//! batch's stands in the step record, not among the kernels' arguments: these are the same in every pass.

use super::{Data, Sides, raw_batch};
use crate::blob::Shape;
use crate::data::transform::{Levels, Mean};
use crate::data::{Batch, Raw};
use crate::device::cuda::backend::{Address, Arg, Queue};
use crate::device::cuda::divisor::Divisor;
use crate::device::cuda::locked::Locked;
use crate::device::cuda::memory::Scratch;
use crate::device::cuda::source::Source;
use crate::device::cuda::{CudaRun, Form, Order};
use crate::layers::{CudaLayer, DeviceIo, Orders, Reals};
use crate::{Result, bail, ensure};

/// The kernels that make tops of what was copied.
pub static KERNELS: Source = Source {
    name: "data",
    text: r#"
// Where a record's pixels lay in its image, and whether the top shows them mirrored.
struct Cut {
  uint32 top, left, mirror;
};

// top = (pixel - mean) * scale over records of channels x height x width. A difference before a product
// leaves the compiler nothing to fuse, so the bits are the host's. The mean of an element is that of its
// place in an image of rows x columns, or that of its channel where `each` is 1, or one for all. Places are
// `stride` floats apart; a record's cut lies `cuts` floats behind its place's begin.
// The channels may be last in the top (never in the pixels).
extern "C" __global__ void transform(int64 n, const float* places, int64 stride, int64 cuts,
                                     const Step* step, const float* mean, real* top,
                                     Divisor record, Divisor plane, Divisor width,
                                     Divisor channels, int last, int rows, int columns, int each,
                                     float scale) {
  const float* place = places + step->place * stride;
  const uint8* pixels = (const uint8*)place;
  KERNEL_LOOP(i, n) {
    uint32 number = over(i, record), position = rest(i, record);
    Cut cut = ((const Cut*)(place + cuts))[number];
    uint32 c = last ? rest(position, channels) : over(position, plane);
    uint32 within = last ? over(position, channels) : rest(position, plane);
    uint32 y = over(within, width), x = rest(within, width);
    uint32 from = cut.mirror ? NUMBER(width) - 1 - x : x;
    int64 row = (int64)number * NUMBER(record) + c * NUMBER(plane) + y * NUMBER(width);
    int64 at = c * each;
    if (rows) at = ((int64)c * rows + cut.top + y) * columns + cut.left + from;
    top[i] = ((float)pixels[row + from] - mean[at]) * scale;
  }
}

// A top of floats.
extern "C" __global__ void take(int64 n, const float* places, int64 stride, const Step* step,
                                float* top) {
  const float* place = places + step->place * stride;
  KERNEL_LOOP(i, n) { top[i] = place[i]; }
}

// The same in the form that the first top is read in: of records of `plane` places for each channel.
extern "C" __global__ void take_as(int64 n, const float* places, int64 stride, const Step* step,
                                   real* top, Divisor record, Divisor channels, int plane, int last) {
  const float* place = places + step->place * stride;
  KERNEL_LOOP(i, n) {
    int64 from = i;
    if (last) {
      uint32 number = over(i, record), position = rest(i, record);
      uint32 within = over(position, channels), c = rest(position, channels);
      from = (int64)number * NUMBER(record) + c * plane + within;
    }
    top[i] = place[from];
  }
}
"#,
    functions: &["transform", "take", "take_as"],
};

/// Bytes of a float, and of any word of 32 bits.
const WORD: usize = size_of::<f32>();
/// Words of a `Cut`.
const CUT: usize = 3;
/// Floats at whose multiples the parts of a place begin.
const ALIGNED: usize = 64;

/// Where a batch's parts begin in a place, in floats.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Parts {
    /// The cuts of raw records, whose pixels come first.
    cuts: Option<usize>,
    /// Each top, and its floats; none of a raw one.
    tops: Vec<(usize, usize)>,
    /// The end.
    end: usize,
}

impl Parts {
    fn of(batch: &Batch) -> Parts {
        let mut parts = Parts::default();
        let mut part = |floats: usize| {
            let begin = parts.end;
            parts.end += floats.next_multiple_of(ALIGNED);
            begin
        };
        let Raw { pixels, cuts } = &batch.raw;
        let has_cuts = !batch.raw.is_empty();
        if has_cuts {
            part(pixels.len().div_ceil(WORD));
        }
        let cuts = has_cuts.then(|| part(cuts.len() * CUT));
        let tops = batch.tops.iter().map(|top| (part(top.len()), top.len())).collect();
        Parts { cuts, tops, ..parts }
    }

    /// Writes a batch into a place.
    fn write(&self, batch: &Batch, place: &mut [u8]) {
        if let Some(cuts) = self.cuts {
            place[..batch.raw.pixels.len()].copy_from_slice(&batch.raw.pixels);
            let words = batch.raw.cuts.iter();
            let words = words.flat_map(|cut| [cut.top, cut.left, u32::from(cut.mirror)]);
            put(&mut place[cuts * WORD..], words.map(u32::to_ne_bytes));
        }
        for ((begin, _), top) in self.tops.iter().zip(&batch.tops) {
            put(&mut place[begin * WORD..], top.iter().map(|value| value.to_ne_bytes()));
        }
    }
}

/// Writes words to the beginning of `to`.
fn put(to: &mut [u8], words: impl Iterator<Item = [u8; WORD]>) {
    for (to, word) in to.chunks_exact_mut(WORD).zip(words) {
        to.copy_from_slice(&word);
    }
}

/// The places on the device, and what there is beside them.
#[derive(Default)]
pub(super) struct Staging {
    /// The host's side of each place. First to go: that waits for copies to the other side.
    here: [Option<Locked>; 2],
    /// Both places, one behind the other, and the floats of one.
    there: Scratch,
    stride: usize,
    /// What lies in each.
    parts: [Parts; 2],
    /// The place that holds a batch of the future, and where that begins in the order of records.
    ahead: Option<(usize, u64)>,
    mean: Scratch,
    has_mean: bool,
}

impl Staging {
    /// Copies a batch into a place.
    fn send(&mut self, cuda: &CudaRun, batch: &Batch, place: usize) -> Result<()> {
        let parts = Parts::of(batch);
        self.reserve(cuda, parts.end)?;
        let floats = self.stride;
        let here = match &mut self.here[place] {
            Some(here) if here.floats() >= floats => here,
            old => old.insert(Locked::new(&cuda.device, floats)?),
        };
        parts.write(batch, here.bytes()?);
        let to = self.there.room(&cuda.device, 2 * floats)?.plus(place * floats);
        here.upload(Queue::CopyIn, parts.end, to)?;
        cuda.device.follow(Queue::Compute, here.copied())?;
        self.parts[place] = parts;
        Ok(())
    }

    /// Takes memory for two places of so many floats.
    fn reserve(&mut self, cuda: &CudaRun, floats: usize) -> Result<()> {
        if floats > self.stride {
            for here in self.here.iter_mut().flatten() {
                // A copy may still be under way to memory that is given back now.
                here.values()?;
            }
            if self.ahead.is_some() {
                bail!("internal: a batch that was sent ahead is smaller than the one before it");
            }
            self.there.room(&cuda.device, 2 * floats)?;
            self.stride = floats;
            // What was asked for so far may still work with what this memory was before.
            let given = cuda.device.event()?;
            cuda.device.set(given, Queue::Compute)?;
            cuda.device.follow(Queue::CopyIn, given)?;
        }
        Ok(())
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

    /// Where the places begin.
    fn places(&mut self, cuda: &CudaRun) -> Result<Address> {
        self.there.room(&cuda.device, 2 * self.stride)
    }

    /// Makes a top of raw records.
    fn transform(
        &mut self,
        cuda: &CudaRun,
        (raw, levels, sides): (&Raw, &Levels, Sides),
        (top, order): (Address, Order),
    ) -> Result<()> {
        let (mean, places) = (self.mean(cuda, levels)?, self.places(cuda)?);
        let parts = &self.parts[cuda.place];
        let Some(cuts) = parts.cuts else { bail!("internal: raw records that were not sent") };
        let (rows, columns, each) = match &levels.mean {
            Mean::Image(mean) => (mean.shape[1], mean.shape[2], 0),
            Mean::Values(values) if values.len() > 1 => (0, 0, 1),
            _ => (0, 0, 0),
        };
        let [channels, height, width] = sides;
        let extents = [channels * height * width, height * width, width, channels];
        let [record, plane, width, channels] = extents.map(|extent| Divisor::new(extent).into());
        let last = last(order);
        let [rows, columns, each] = [rows, columns, each].map(|n| Arg::Int(n as i32));
        let [stride, cuts] = [self.stride, cuts].map(Arg::from);
        let (step, scale) = (cuda.record.at().into(), levels.scale.into());
        let (places, mean, top) = (places.into(), mean.into(), top.into());
        let args = [
            places, stride, cuts, step, mean, top, record, plane, width, channels, last, rows,
            columns, each, scale,
        ];
        cuda.each(&KERNELS, "transform", raw.pixels.len(), &args)
    }

    /// Makes a top of floats; the first one in this order.
    fn take(
        &mut self,
        (cuda, order): (&CudaRun, Order),
        i: usize,
        shape: &Shape,
        top: Address,
    ) -> Result<()> {
        let places = self.places(cuda)?;
        let (begin, floats) = self.parts[cuda.place].tops.get(i).copied().unwrap_or_default();
        ensure!(
            floats == shape.count(),
            "the batch holds {floats} values for top {i}, the net was built for {shape}"
        );
        let (stride, step) = (self.stride.into(), cuda.record.at().into());
        let [places, top] = [places.plus(begin), top].map(Arg::from);
        if i > 0 {
            return cuda.each(&KERNELS, "take", floats, &[places, stride, step, top]);
        }
        let axes = shape.axes();
        let [channels, plane] = [1, 2].map(|n| shape.count_from(n.min(axes)));
        let record = Divisor::new(channels).into();
        let [channels, plane] = [channels / plane.max(1), plane];
        let (channels, plane) = (Divisor::new(channels).into(), Arg::Int(plane as i32));
        let args = [places, stride, step, top, record, channels, plane, last(order)];
        cuda.each(&KERNELS, "take_as", floats, &args)
    }
}

fn last(order: Order) -> Arg {
    Arg::Int(i32::from(order == Order::ChannelsLast))
}

impl CudaLayer for Data {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let raw = raw_batch(&self.batch, &self.levels, io.top_shape(0))?;
        if let Some(batch) = raw {
            self.staging.transform(cuda, batch, (io.top_mut(0)?, io.order()))?;
        }
        let (first, on) = (usize::from(raw.is_some()), (cuda, io.order()));
        (first..io.tops())
            .try_for_each(|i| self.staging.take(on, i, io.top_shape(i), io.top_mut(i)?))
    }

    fn backward(&mut self, _cuda: &CudaRun, _io: DeviceIo<'_>) -> Result<()> {
        Ok(())
    }

    fn first_top_is_read_as(&mut self, form: Form) {
        self.form = form;
    }

    fn reals(&self) -> Reals {
        if self.form == Form::default() { Reals::NONE } else { Reals::FIRST }
    }

    fn orders(&self) -> Orders {
        Orders::Only(self.form.order)
    }

    fn send(&mut self, cuda: &CudaRun, place: usize) -> Result<()> {
        match self.staging.ahead.take() {
            Some(ahead) if ahead == (place, self.batch.positions.start) => Ok(()),
            _ => self.staging.send(cuda, &self.batch, place),
        }
    }

    fn send_ahead(&mut self, cuda: &CudaRun, batch: &Batch, place: usize) -> Result<()> {
        // A batch that needs more room has to wait until nobody uses what is there.
        if Parts::of(batch).end <= self.staging.stride {
            self.staging.send(cuda, batch, place)?;
            self.staging.ahead = Some((place, batch.positions.start));
        }
        Ok(())
    }
}
