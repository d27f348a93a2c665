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
    /// The images at `positions`, in this order, as far as their headers.
    ///
    /// # Errors
    /// One of them cannot be read.
    fn read(&mut self, positions: Range<u64>) -> Result<Vec<Item>, DataError>;

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
        let items = self.items.read(batch.positions.clone())?;
        items.iter().for_each(|item| batch.note(item.index, &item.key));
        if self.tops > 1 {
            let labels = batch.shape_top(1, &[n]).iter_mut();
            labels.zip(&items).for_each(|(label, item)| *label = item.content.label as f32);
        }
        let [channels, height, width] = self.common_shape(&items)?;
        let first = batch.positions.start;
        self.place(&items, first, batch.shape_top(0, &[n, channels, height, width]))
    }

    fn decodes(&self) -> bool {
        self.decodes
    }
}
