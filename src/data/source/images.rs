//! Batches of whole images: what `Data` and `ImageData` have in common.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::Batch;
use crate::data::datum::{Labelled, Pending};
use crate::data::parallel;
use crate::data::readers::Records;
use crate::data::transform::{Cut, Levels, Transformer};
use crate::data::{DataError, Reading, RecordProblem};

/// An image on its way into a batch.
pub struct Item {
    /// Its number in the database or list.
    pub(super) index: u64,
    /// Its key or file name.
    pub(super) key: Bytes,
    /// The image and its label.
    pub(super) content: Labelled,
}

/// Where images come from.
pub trait Items {
    /// Hands the images at `positions` to `take`, each with its position, in whichever order is read
    /// fastest, as far as their headers.
    ///
    /// # Errors
    /// One of them cannot be read, and those of `take`.
    fn visit(
        &mut self,
        positions: Range<u64>,
        take: &mut dyn FnMut(u64, Item) -> Result<(), DataError>,
    ) -> Result<(), DataError>;

    /// The images at `positions`, in this order.
    ///
    /// # Errors
    /// One of them cannot be read.
    fn read(&mut self, positions: Range<u64>) -> Result<Vec<Item>, DataError> {
        let mut items = Vec::with_capacity((positions.end - positions.start) as usize);
        self.visit(positions, &mut |position, item| {
            items.push((position, item));
            Ok(())
        })?;
        items.sort_unstable_by_key(|(position, _)| *position);
        Ok(items.into_iter().map(|(_, item)| item).collect())
    }

    /// The error that an image has a problem.
    fn blame(&self, item: &Item, problem: RecordProblem) -> DataError;
}

/// What one image of a batch becomes.
enum Place<'a> {
    /// Floats, transformed.
    Values(&'a mut [f32]),
    /// Bytes to be transformed, and what to know for that.
    Raw(&'a mut [u8], &'a mut Cut),
}

/// Reads, decodes, transforms and batches images.
pub struct Images<I> {
    items: I,
    transformer: Transformer,
    batch_size: usize,
    tops: usize,
    threads: usize,
    /// (channels, height, width) of the first image in the blob.
    first: [usize; 3],
    decodes: bool,
    /// Whether bytes stay bytes.
    raw: bool,
}

impl<I: Items> Images<I> {
    /// Looks at the first image.
    pub(super) fn new(
        items: I,
        transformer: Transformer,
        batch_size: usize,
        tops: usize,
        reading: Reading,
    ) -> Result<Self, DataError> {
        let (first, threads) = ([0; 3], reading.threads);
        let (decodes, raw) = (false, false);
        let mut images =
            Self { items, transformer, batch_size, tops, threads, first, decodes, raw };
        let items = images.items.read(0..1)?;
        images.first = images.common_shape(&items)?;
        images.decodes = any_encoded(&items);
        images.raw = reading.raw && all_bytes(&items);
        Ok(images)
    }

    /// The shape that all images of the batch have in the blob: that of the first one.
    fn common_shape(&self, items: &[Item]) -> Result<[usize; 3], DataError> {
        let mut common = None;
        for item in items {
            let blame = |problem| self.items.blame(item, problem);
            let image = self.transformer.output_shape(item.content.image.shape()).map_err(blame)?;
            let batch = *common.get_or_insert(image);
            if image != batch {
                return Err(blame(RecordProblem::Differs { image, batch }));
            }
        }
        Ok(common.unwrap_or(self.first))
    }

    /// Fills a batch of images that need no decoding: each is in its place before the next is read,
    /// so that one record is in memory at a time, not a batch of them. False where raw records are
    /// wanted and one has floats.
    fn fill_one_by_one(&mut self, batch: &mut Batch, raw: bool) -> Result<bool, DataError> {
        let (n, first) = (self.batch_size, batch.positions.start);
        let mut common = None;
        let mut bad = None;
        let mut bytes = true;
        // Visiting borrows the items, which alone can say what is wrong with one.
        let mut place = |position: u64, item: Item| {
            let image = &item.content.image;
            bytes &= !raw || image.is_bytes();
            if bad.is_none() && bytes {
                let slot = (position - first) as usize;
                let placed = self.transformer.output_shape(image.shape()).and_then(|own| {
                    let shape = *common.get_or_insert(own);
                    if own != shape {
                        return Err(RecordProblem::Differs { image: own, batch: shape });
                    }
                    let place = one_of(batch, n, shape, slot, raw);
                    put(&self.transformer, image, position, place)
                });
                match placed {
                    Ok(()) => note(batch, slot, &item),
                    Err(problem) => bad = Some((item, problem)),
                }
            }
            Ok(())
        };
        self.items.visit(first..first + n as u64, &mut place)?;
        bad.map_or(Ok(bytes), |(item, problem)| Err(self.items.blame(&item, problem)))
    }

    /// Fills a batch of images that are worth several threads, as `fill_one_by_one` does.
    fn fill_together(&mut self, batch: &mut Batch, raw: bool) -> Result<bool, DataError> {
        let items = self.items.read(batch.positions.clone())?;
        if raw && !all_bytes(&items) {
            return Ok(false);
        }
        for (slot, item) in items.iter().enumerate() {
            note(batch, slot, item);
        }
        let [channels, height, width] = self.common_shape(&items)?;
        let (n, size, first) = (items.len(), channels * height * width, batch.positions.start);
        let shape = [n, channels, height, width];
        let jobs = (first..).zip(&items);
        let jobs: Vec<_> = match raw {
            true => {
                let raw = batch.shape_raw(shape);
                let places = raw.pixels.chunks_exact_mut(size).zip(&mut raw.cuts);
                jobs.zip(places.map(|(out, cut)| Place::Raw(out, cut))).collect()
            }
            false => {
                let places = batch.shape_top(0, &shape).chunks_exact_mut(size);
                jobs.zip(places.map(Place::Values)).collect()
            }
        };
        let threads = if any_encoded(&items) { self.threads } else { 1 };
        let transformer = &self.transformer;
        let work = |((position, item), place): ((u64, &Item), Place<'_>)| {
            put(transformer, &item.content.image, position, place)
                .map_err(|problem| (position - first, problem))
        };
        parallel::for_each(threads, jobs, work)
            .map_err(|(i, problem)| self.items.blame(&items[i as usize], problem))?;
        Ok(true)
    }

    fn fill_with(&mut self, ticket: u64, batch: &mut Batch, raw: bool) -> Result<bool, DataError> {
        let n = self.batch_size;
        batch.begin(ticket, n, self.tops);
        if self.tops > 1 {
            batch.shape_top(1, &[n]);
        }
        match self.decodes {
            true => self.fill_together(batch, raw),
            false => self.fill_one_by_one(batch, raw),
        }
    }
}

/// Place `slot` of a batch of `n` images of `shape`.
fn one_of(batch: &mut Batch, n: usize, shape: [usize; 3], slot: usize, raw: bool) -> Place<'_> {
    let [channels, height, width] = shape;
    let size = channels * height * width;
    let own = slot * size..(slot + 1) * size;
    let shape = [n, channels, height, width];
    match raw {
        true => {
            let raw = batch.shape_raw(shape);
            Place::Raw(&mut raw.pixels[own], &mut raw.cuts[slot])
        }
        false => Place::Values(&mut batch.shape_top(0, &shape)[own]),
    }
}

/// Decodes the image at `position` into its place.
fn put(
    transformer: &Transformer,
    image: &Pending,
    position: u64,
    place: Place<'_>,
) -> Result<(), RecordProblem> {
    match place {
        Place::Values(out) => transformer.apply(&*image.image()?, position, out),
        Place::Raw(out, cut) => {
            let [_, height, width] = transformer.output_shape(image.shape())?;
            *cut = transformer.cut(image.shape(), [height, width], position);
            image.write_bytes(*cut, [height, width], out)
        }
    }
}

/// Notes what `item` in place `slot` of the batch is, and its label.
fn note(batch: &mut Batch, slot: usize, item: &Item) {
    batch.note(slot, item.index, &item.key);
    if let Some(labels) = batch.tops.get_mut(1) {
        labels[slot] = item.content.label as f32;
    }
}

fn any_encoded(items: &[Item]) -> bool {
    items.iter().any(|item| item.content.image.is_encoded())
}

fn all_bytes(items: &[Item]) -> bool {
    items.iter().all(|item| item.content.image.is_bytes())
}

impl<I: Items> Records for Images<I> {
    fn batch_size(&self) -> usize {
        self.batch_size
    }

    fn top_shapes(&self) -> Vec<Vec<usize>> {
        let [channels, height, width] = self.first;
        let mut shapes =
            vec![vec![self.batch_size, channels, height, width], vec![self.batch_size]];
        shapes.truncate(self.tops);
        shapes
    }

    fn fill(&mut self, ticket: u64, batch: &mut Batch) -> Result<(), DataError> {
        if !(self.raw && self.fill_with(ticket, batch, true)?) {
            self.fill_with(ticket, batch, false)?;
        }
        Ok(())
    }

    fn decodes(&self) -> bool {
        self.decodes
    }

    fn is_raw(&self) -> bool {
        self.raw
    }

    fn levels(&self) -> Option<&Arc<Levels>> {
        Some(self.transformer.levels())
    }

    fn batch_bytes(&self) -> usize {
        let image = self.first.iter().product::<usize>();
        let each = if self.raw { image + size_of::<Cut>() } else { image * size_of::<f32>() };
        self.batch_size * (each + (self.tops - 1) * size_of::<f32>())
    }
}
