//! Numbers as an event file of TensorBoard: a record per entry, with scalars.
//!
//! A record is `length u64 | crc u32 of it | bytes | crc u32 of them`, little-endian, checksums
//! crc32c masked as in LevelDB; the bytes are an `Event` message.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use caffe_proto::Message;
use caffe_proto::tensorboard::event::What;
use caffe_proto::tensorboard::{Event, Summary, summary};

use super::numbers::{Entry, Sink};
use crate::data::leveldb::masked_crc;
use crate::{Error, Result};

/// What TensorBoard expects of the first event.
const VERSION: &str = "brain.Event:2";

/// The open file.
pub(super) struct Events {
    path: PathBuf,
    file: File,
}

impl Events {
    /// Begins a new event file in `folder`, which is made if need be.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn create(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| Error::file(folder, e))?;
        let (seconds, process) = (now() as u64, std::process::id());
        // TensorBoard looks for this beginning; the rest keeps runs apart.
        let path = folder.join(format!("events.out.tfevents.{seconds:010}.{process}.caffe"));
        let file = File::create(&path).map_err(|e| Error::file(&path, e))?;
        let mut events = Events { path, file };
        let first =
            Event { wall_time: now(), step: 0, what: Some(What::FileVersion(VERSION.into())) };
        events.write(&first).map_err(|e| Error::file(&events.path, e))?;
        Ok(events)
    }

    fn write(&mut self, event: &Event) -> std::io::Result<()> {
        self.file.write_all(&record(&event.encode_to_vec()))
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

fn record(bytes: &[u8]) -> Vec<u8> {
    let crc = |bytes: &[u8]| masked_crc(crc32c::crc32c(bytes)).to_le_bytes();
    let length = (bytes.len() as u64).to_le_bytes();
    [&length[..], &crc(&length), bytes, &crc(bytes)].concat()
}

impl Sink for Events {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn take(&mut self, entry: &Entry) -> std::io::Result<()> {
        let value = scalars(entry);
        if value.is_empty() {
            return Ok(());
        }
        let what = Some(What::Summary(Summary { value }));
        self.write(&Event { wall_time: now(), step: entry.iter as i64, what })
    }
}

/// An entry's numbers under TensorBoard's kind of names, whose first part makes groups.
fn scalars(entry: &Entry) -> Vec<summary::Value> {
    let mut all: Vec<(String, f64)> = Vec::new();
    match entry.event {
        "display" => {
            all.extend(entry.values.iter().map(|(name, value)| (format!("train/{name}"), *value)));
            let outputs =
                entry.outputs.iter().map(|(name, v)| (format!("train outputs/{name}"), *v));
            all.extend(outputs);
        }
        "test" => {
            let net = entry.net.unwrap_or(0);
            let name = |name: &str| match net {
                0 => format!("test/{name}"),
                net => format!("test {net}/{name}"),
            };
            all.extend(entry.outputs.iter().map(|(of, value)| (name(of), *value)));
        }
        _ => {}
    }
    if let Some(speed) = &entry.speed {
        all.push(("speed/img_per_s".into(), speed.images));
        all.extend(speed.shares.named().map(|(name, value)| (format!("time/{name}"), value)));
        all.extend(speed.replicas.iter().filter(|_| speed.replicas.len() > 1).map(|replica| {
            let (rank, device) = (replica.rank, replica.device);
            (format!("replicas/img_per_s rank {rank} device {device}"), replica.images)
        }));
    }
    let updates: u64 = entry.staleness.iter().sum();
    if updates > 0 && entry.event == "display" {
        let sum: u64 = entry.staleness.iter().enumerate().map(|(s, n)| s as u64 * n).sum();
        all.push(("time/staleness".into(), sum as f64 / updates as f64));
    }
    let value = |(tag, value)| summary::Value { tag, simple_value: Some(value as f32) };
    all.into_iter().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_lengths_and_checksums_as_tensorflow_writes_them() {
        let bytes = record(b"abc");
        assert_eq!(&bytes[..8], &3u64.to_le_bytes());
        assert_eq!(bytes.len(), 8 + 4 + 3 + 4);
        // A zero is a point like any other: it must be in the bytes.
        let zero = summary::Value { tag: "t".into(), simple_value: Some(0.0) };
        assert_eq!(zero.encode_to_vec(), [10, 1, b't', 21, 0, 0, 0, 0]);
        // crc32c("123456789") is 0xe3069283.
        let masked = masked_crc(0xe306_9283);
        assert_eq!(masked, 0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8));
        let nine = record(b"123456789");
        assert_eq!(&nine[nine.len() - 4..], &masked.to_le_bytes());
    }
}
