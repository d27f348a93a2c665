//! Batches of whole images: what `Data` and `ImageData` have in common.

use std::ops::Range;

use bytes::Bytes;

use super::Batch;
use crate::data::datum::Labelled;
use crate::data::parallel;
use crate::data::readers::Records;
use crate::data::transform::Transformer;
use crate::data::{DataError, RecordProblem};

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
}

impl<I: Items> Images<I> {
    /// Looks at the first image.
    pub(super) fn new(
        items: I,
        transformer: Transformer,
        batch_size: usize,
        tops: usize,
        threads: usize,
    ) -> Result<Self, DataError> {
        let first = [0; 3];
        let mut images =
            Self { items, transformer, batch_size, tops, threads, first, decodes: false };
        let items = images.items.read(0..1)?;
        images.first = images.common_shape(&items)?;
        images.decodes = any_encoded(&items);
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
    /// so that one record is in memory at a time, not a batch of them.
    fn fill_one_by_one(&mut self, batch: &mut Batch) -> Result<(), DataError> {
        let (n, first) = (self.batch_size, batch.positions.start);
        let mut common = None;
        let mut bad = None;
        // Visiting borrows the items, which alone can say what is wrong with one.
        let mut place = |position: u64, item: Item| {
            if bad.is_none() {
                let placed = self.transformer.output_shape(item.content.image.shape());
                let placed = placed.and_then(|image| {
                    let shape = *common.get_or_insert(image);
                    if image != shape {
                        return Err(RecordProblem::Differs { image, batch: shape });
                    }
                    let [channels, height, width] = shape;
                    let size = channels * height * width;
                    let out = batch.shape_top(0, &[n, channels, height, width]);
                    let out = &mut out[(position - first) as usize * size..][..size];
                    self.transformer.apply(&*item.content.image.image()?, position, out)
                });
                match placed {
                    Ok(()) => note(batch, (position - first) as usize, &item),
                    Err(problem) => bad = Some((item, problem)),
                }
            }
            Ok(())
        };
        self.items.visit(first..first + n as u64, &mut place)?;
        bad.map_or(Ok(()), |(item, problem)| Err(self.items.blame(&item, problem)))
    }

    /// Decodes and transforms each image into its place in `out`.
    fn place(&self, items: &[Item], first: u64, out: &mut [f32]) -> Result<(), DataError> {
        let threads = if any_encoded(items) { self.threads } else { 1 };
        let size = (out.len() / items.len().max(1)).max(1);
        let jobs = items.iter().zip(first..).zip(out.chunks_exact_mut(size)).collect();
        let transformer = &self.transformer;
        let work = |((item, position), out): ((&Item, u64), &mut [f32])| {
            let image = item.content.image.image();
            image
                .and_then(|image| transformer.apply(&image, position, out))
                .map_err(|problem| (position - first, problem))
        };
        parallel::for_each(threads, jobs, work)
            .map_err(|(i, problem)| self.items.blame(&items[i as usize], problem))
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
        let n = self.batch_size;
        batch.begin(ticket, n, self.tops);
        if self.tops > 1 {
            batch.shape_top(1, &[n]);
        }
        if !self.decodes {
            return self.fill_one_by_one(batch);
        }
        let items = self.items.read(batch.positions.clone())?;
        for (slot, item) in items.iter().enumerate() {
            note(batch, slot, item);
        }
        let [channels, height, width] = self.common_shape(&items)?;
        let first = batch.positions.start;
        self.place(&items, first, batch.shape_top(0, &[n, channels, height, width]))
    }

    fn decodes(&self) -> bool {
        self.decodes
    }
}
