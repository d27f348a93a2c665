//! `ImageData`: image files named in a list.
//!
//! Without `new_height` and `new_width` images keep their sizes; a batch holds images of one size,
//! so that takes a crop or a batch size of 1.

use std::ops::Range;
use std::path::PathBuf;

use caffe_proto::{ImageDataParameter, LayerParameter, Phase};

use super::images::{Images, Item, Items};
use super::settings::{self, wrong};
use crate::data::datum::{Labelled, Pending};
use crate::data::image::Colour;
use crate::data::list::{self, Entry};
use crate::data::order::Order;
use crate::data::transform::Transformer;
use crate::data::{DataError, Reading, RecordProblem};
use crate::rng::stream_id;

/// The files of an `ImageData` layer's list.
pub struct ListItems {
    list: PathBuf,
    entries: Vec<Entry>,
    root: String,
    order: Order,
    skip: u64,
    colour: Colour,
    size: Option<[usize; 2]>,
}

/// Reads the list of `layer` and looks at its first image.
///
/// # Errors
/// [`DataError::Layer`] for settings that make no sense, the errors of [`list::read`], and
/// [`DataError::Image`] when the first image cannot be read or does not fit.
pub fn open(
    layer: &LayerParameter,
    phase: Phase,
    reading: Reading,
) -> Result<Images<ListItems>, DataError> {
    let none = || {
        wrong(
            layer,
            "image_data_param is missing; add `image_data_param { source: \"…\" batch_size: … }`",
        )
    };
    let data: &ImageDataParameter = layer.image_data_param.as_deref().ok_or_else(none)?;
    let path = settings::source(layer, "image_data_param", data.source(), "the list of images")?;
    let batch_size = settings::batch_size(layer, "image_data_param", data.batch_size())?;
    settings::two_tops(layer)?;
    let size = match [data.new_height(), data.new_width()] {
        [0, 0] => None,
        [0, _] | [_, 0] => {
            return Err(wrong(layer, "new_height and new_width go together; give both or neither"));
        }
        sides => Some(sides.map(|side| side as usize)),
    };
    let transform = layer.transform_param.as_deref().cloned().unwrap_or_default();
    if transform.force_color() || transform.force_gray() {
        return Err(wrong(
            layer,
            "force_color and force_gray are for encoded records; use is_color in image_data_param",
        ));
    }
    let entries = list::read(path)?;
    let skip = settings::skip(layer, reading.seed, data.rand_skip());
    if skip >= entries.len() as u64 {
        let text =
            format!("rand_skip came out as {skip}, but the list has {} lines", entries.len());
        return Err(wrong(layer, text));
    }
    let shuffle = data.shuffle() || (reading.shuffle && phase == Phase::Train);
    let items = ListItems {
        list: path.to_owned(),
        entries,
        root: data.root_folder().to_owned(),
        order: match shuffle {
            true => Order::Shuffled { seed: reading.seed ^ stream_id(layer.name()) },
            false => Order::Sequential,
        },
        skip,
        colour: if data.is_color() { Colour::Bgr } else { Colour::Grey },
        size,
    };
    let transformer = Transformer::new(layer.name(), &transform, phase, reading.seed)?;
    Images::new(items, transformer, batch_size, 2, reading)
}

impl Items for ListItems {
    fn visit(
        &mut self,
        mut positions: Range<u64>,
        take: &mut dyn FnMut(u64, Item) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let count = self.entries.len() as u64;
        let index = |position| self.order.record(position + self.skip, count);
        positions.try_for_each(|position| take(position, self.open(index(position))?))
    }

    fn blame(&self, item: &Item, problem: RecordProblem) -> DataError {
        self.bad_image(&self.entries[item.index as usize], problem)
    }
}

impl ListItems {
    fn open(&self, index: u64) -> Result<Item, DataError> {
        let entry = &self.entries[index as usize];
        let picture = list::read_picture(&list::file(&self.root, &entry.name))
            .map_err(|problem| self.bad_image(entry, problem))?;
        let image = Pending::Encoded { picture, colour: self.colour, size: self.size };
        let content = Labelled { image, label: entry.label };
        Ok(Item { index, key: entry.name.clone().into(), content })
    }

    fn bad_image(&self, entry: &Entry, problem: RecordProblem) -> DataError {
        DataError::Image {
            list: self.list.clone(),
            line: entry.line,
            file: list::file(&self.root, &entry.name),
            problem,
        }
    }
}
