//! `Data`: records of a database.

use std::ops::Range;
use std::path::{Path, PathBuf};

use caffe_proto::{DataParameter, LayerParameter, Phase};

use super::images::{Images, Item, Items};
use super::settings::{self, wrong};
use crate::data::datum::Labelled;
use crate::data::image::Colour;
use crate::data::order::Order;
use crate::data::records::RecordCursor;
use crate::data::transform::Transformer;
use crate::data::{DataError, Database, Reading, RecordProblem};

/// Bytes of a database that stay in memory for a shuffled order, which draws from a window of some
/// thousand records: for images of 32 × 32 all of it.
const KEPT: u64 = 48 << 20;

/// The records of a `Data` layer's database.
pub struct DatabaseItems {
    path: PathBuf,
    cursor: RecordCursor,
    colour: Colour,
    /// Where position 0 lies, from `rand_skip`.
    skip: u64,
}

/// Opens the database of `layer` and looks at its first record.
///
/// # Errors
/// [`DataError::Layer`] for settings that make no sense, the errors of [`Database::open`],
/// [`DataError::Empty`], [`DataError::Record`] when the first record does not fit the settings.
pub fn open(
    layer: &LayerParameter,
    phase: Phase,
    reading: Reading,
) -> Result<Images<DatabaseItems>, DataError> {
    let none =
        || wrong(layer, "data_param is missing; add `data_param { source: \"…\" batch_size: … }`");
    let data: &DataParameter = layer.data_param.as_deref().ok_or_else(none)?;
    let path = settings::source(layer, "data_param", data.source(), "the database's directory")?;
    let batch_size = settings::batch_size(layer, "data_param", data.batch_size())?;
    if !(1..=2).contains(&layer.top.len()) {
        return Err(wrong(layer, "a Data layer has one top (data) or two (data, label)"));
    }
    let transform = layer.transform_param.as_deref().cloned().unwrap_or_default();
    let force_color = transform.force_color() || data.force_encoded_color();
    let colour = match (force_color, transform.force_gray()) {
        (true, true) => {
            return Err(wrong(layer, "images cannot be forced to colour and to grey; keep one"));
        }
        (true, false) => Colour::Bgr,
        (false, true) => Colour::Grey,
        (false, false) => Colour::Native,
    };
    let transformer = Transformer::new(layer.name(), &transform, phase, reading.seed)?;
    let order = match reading.shuffle && phase == Phase::Train {
        true => Order::Blocks { seed: reading.seed },
        false => Order::Sequential,
    };
    let kept = if order.is_shuffled() { KEPT } else { 0 };
    let mut database = Database::open_keeping(path, data.backend().into(), kept)?;
    let items = DatabaseItems {
        path: path.to_owned(),
        cursor: RecordCursor::new(&mut database, order)?,
        colour,
        skip: settings::skip(layer, reading.seed, data.rand_skip()),
    };
    Images::new(items, transformer, batch_size, layer.top.len(), reading)
}

impl Items for DatabaseItems {
    fn visit(
        &mut self,
        positions: Range<u64>,
        take: &mut dyn FnMut(u64, Item) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let Self { path, cursor, colour, skip } = self;
        let positions = positions.start + *skip..positions.end + *skip;
        cursor.visit(positions, |position, index, record| {
            let content = Labelled::parse(record.value, *colour)
                .map_err(|problem| bad_record(path, &record.key, problem))?;
            take(position - *skip, Item { index, key: record.key, content })
        })
    }

    fn blame(&self, item: &Item, problem: RecordProblem) -> DataError {
        bad_record(&self.path, &item.key, problem)
    }
}

fn bad_record(path: &Path, key: &[u8], problem: RecordProblem) -> DataError {
    let key = key.escape_ascii().to_string();
    DataError::Record { path: path.to_owned(), key, problem }
}
