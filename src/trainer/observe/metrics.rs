//! Numbers as JSON lines, one object per event, written as it happens:
//!
//! ```json
//! {"event":"display","iter":100,"seconds":3.2,"loss":1.7,"lr":0.001,"img_per_s":3100.5,
//!  "data_wait":0.01,"compute":0.93,"comm_exposed":0.02,"update":0.04,"outputs":{"loss":1.7},
//!  "replicas":[{"rank":0,"device":0,"img_per_s":3100.5,…}],"staleness":[]}
//! ```
//!
//! (on one line). A file that is there is continued; each run begins with a `start`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::numbers::{Entry, Sink};
use super::speed::Shares;
use crate::{Error, Result};

/// The open file.
pub(super) struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Opens the file for more lines.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn append(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Metrics { path: path.to_owned(), file: file.map_err(|e| Error::file(path, e))? })
    }
}

impl Sink for Metrics {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn take(&mut self, entry: &Entry) -> std::io::Result<()> {
        // In one call, so that a reader never sees half a line.
        self.file.write_all(format!("{}\n", object(entry)).as_bytes())
    }
}

/// JSON has no NaN: such a number is null.
fn object(entry: &Entry) -> Value {
    let mut all = Map::new();
    all.insert("event".into(), entry.event.into());
    all.insert("iter".into(), entry.iter.into());
    all.insert("seconds".into(), entry.seconds.into());
    all.extend(entry.net.map(|net| ("net".into(), net.into())));
    all.extend(entry.values.iter().map(|(name, value)| ((*name).into(), (*value).into())));
    let outputs = entry.outputs.iter().map(|(name, value)| (name.clone(), (*value).into()));
    if !entry.outputs.is_empty() {
        all.insert("outputs".into(), Value::Object(outputs.collect()));
    }
    if let Some(speed) = &entry.speed {
        all.extend(shares(speed.images, &speed.shares));
        let replicas = speed.replicas.iter().map(|replica| {
            let mut one = shares(replica.images, &replica.shares);
            one.insert("rank".into(), replica.rank.into());
            one.insert("device".into(), replica.device.into());
            Value::Object(one)
        });
        all.insert("replicas".into(), replicas.collect());
    }
    if !entry.staleness.is_empty() {
        all.insert("staleness".into(), json!(entry.staleness));
    }
    all.extend(entry.text.clone().map(|text| ("text".into(), text.into())));
    Value::Object(all)
}

fn shares(images: f64, shares: &Shares) -> Map<String, Value> {
    let mut all = Map::new();
    all.insert("img_per_s".into(), images.into());
    all.extend(shares.named().map(|(name, value)| (name.into(), value.into())));
    all
}
