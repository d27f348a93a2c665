//! `caffe db copy` and `caffe db shard`: the same records in other databases.

use std::path::{Path, PathBuf};

use crate::data::{Backend, DataError, Database, Writer};

use super::Converted;

/// Copies the database `input` to `output`, which may be of another kind.
///
/// # Errors
/// The errors of [`Database`] and [`Writer`].
pub fn copy(input: (&Path, Backend), output: (&Path, Backend)) -> Result<Converted, DataError> {
    let mut cursor = Database::open(input.0, input.1)?.cursor()?;
    let mut writer = Writer::create(output.0, output.1)?;
    while let Some(record) = cursor.next_record()? {
        writer.put(&record.key, &record.value)?;
    }
    Ok(Converted { path: output.0.to_owned(), records: writer.finish()? })
}

/// Deals the records of `input` out to `shards` databases called `output` with `_0`, `_1`, … behind:
/// record i goes to shard i mod `shards`, so that a set sorted by class stays balanced.
///
/// # Errors
/// As [`copy`]. When one of them cannot be completed, those completed before stay.
pub fn shard(
    input: (&Path, Backend),
    output: (&Path, Backend),
    shards: usize,
) -> Result<Vec<Converted>, DataError> {
    let mut cursor = Database::open(input.0, input.1)?.cursor()?;
    let name = |i: usize| {
        let mut name = output.0.as_os_str().to_owned();
        name.push(format!("_{i}"));
        PathBuf::from(name)
    };
    // All of them first: an output that exists is refused before any work is done.
    let create = |i| Ok((name(i), Writer::create(name(i), output.1)?));
    let mut writers = (0..shards).map(create).collect::<Result<Vec<_>, DataError>>()?;
    let mut turn = 0;
    while let Some(record) = cursor.next_record()? {
        writers[turn].1.put(&record.key, &record.value)?;
        turn = (turn + 1) % shards.max(1);
    }
    let finish =
        |(path, writer): (PathBuf, Writer)| Ok(Converted { path, records: writer.finish()? });
    writers.into_iter().map(finish).collect()
}
