//! What tells one data layer's records from another's, cheaply: not a checksum of all records, but
//! enough to notice that two ranks read different data.
//!
//! | layer | what is looked at |
//! |---|---|
//! | `Data` | the first record, the last key; of an LMDB the number of records |
//! | `ImageData`, `WindowData` | the list |
//! | `HDF5Data` | the list, and the size of each file in it |
//!
//! A mean file counts, too.

use std::path::Path;

use caffe_proto::LayerParameter;

use super::{Cursor, DataError, Database};

/// The digest of what a layer reads.
///
/// # Errors
/// A database or list that cannot be read.
pub fn digest(layer: &LayerParameter) -> Result<u64, DataError> {
    let mut sum = Sum::default();
    match layer.r#type() {
        "ImageData" => {
            sum.file(layer.image_data_param.as_ref().map_or("", |p| p.source()))?;
        }
        "WindowData" => {
            sum.file(layer.window_data_param.as_ref().map_or("", |p| p.source()))?;
        }
        "HDF5Data" => {
            let list = layer.hdf5_data_param.as_ref().map_or("", |p| p.source());
            for path in sum.file(list)?.lines().map(str::trim).filter(|line| !line.is_empty()) {
                let size = std::fs::metadata(path).map_or(0, |m| m.len());
                sum.add(&size.to_le_bytes());
            }
        }
        _ => {
            let param = layer.data_param.clone().unwrap_or_default();
            let mut database = Database::open(param.source(), param.backend().into())?;
            sum.add(&database.count().unwrap_or(0).to_le_bytes());
            if let Some(first) = database.cursor()?.next_record()? {
                sum.add(&first.key);
                sum.add(&first.value);
            }
            sum.add(&last_key(&mut database.cursor()?)?);
        }
    }
    if let Some(mean) = layer.transform_param.as_ref().and_then(|t| t.mean_file.as_ref()) {
        sum.file(mean)?;
    }
    Ok(u64::from(sum.crc) << 32 | u64::from(sum.bytes as u32))
}

/// The last key, without reading what lies before it: found byte by byte, each time the greatest
/// that some key still reaches.
fn last_key(cursor: &mut Cursor) -> Result<Vec<u8>, DataError> {
    let mut last = Vec::new();
    let mut at = Vec::new();
    // Longer keys differ enough by then.
    for _ in 0..64 {
        let (mut low, mut high) = (0u8, u8::MAX);
        let mut found = None;
        while low <= high {
            let byte = low + (high - low) / 2;
            at.push(byte);
            cursor.seek(&at)?;
            let key = cursor.next_key()?;
            at.pop();
            match key {
                Some(key) => {
                    found = Some((byte, key));
                    low = byte.saturating_add(1);
                    if byte == u8::MAX {
                        break;
                    }
                }
                None if byte == 0 => break,
                None => high = byte - 1,
            }
        }
        let Some((byte, key)) = found else { break };
        at.push(byte);
        last = key.to_vec();
    }
    Ok(last)
}

#[derive(Default)]
struct Sum {
    crc: u32,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Adds a file; what it holds, as text.
    fn file(&mut self, path: &str) -> Result<String, DataError> {
        let explain =
            |source| DataError::Io { action: "read", path: Path::new(path).to_owned(), source };
        let bytes = std::fs::read(path).map_err(explain)?;
        self.add(&bytes);
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Backend;

    #[test]
    fn the_last_key_is_found_without_reading_all() {
        let folder = tempfile::tempdir().unwrap();
        crate::data::synthetic::write_synthetic(folder.path(), 400, 30, 5).unwrap();
        let path = folder.path().join("cifar10_train_leveldb");
        let mut database = Database::open(&path, Backend::LevelDb).unwrap();
        let mut cursor = database.cursor().unwrap();
        let mut last = Vec::new();
        while let Some(key) = cursor.next_key().unwrap() {
            last = key.to_vec();
        }
        assert_eq!(last_key(&mut cursor).unwrap(), last);

        let layer = |set: &str| -> LayerParameter {
            let source = folder.path().join(format!("cifar10_{set}_leveldb"));
            let text = format!("type: 'Data' data_param {{ source: '{}' }}", source.display());
            caffe_proto::text::parse("test", &text).unwrap()
        };
        assert_eq!(digest(&layer("train")).unwrap(), digest(&layer("train")).unwrap());
        assert_ne!(digest(&layer("train")).unwrap(), digest(&layer("test")).unwrap());
    }
}
