//! The algorithms of a job's convolutions: the first replica settles them, from the snapshot that the job
//! resumes from or by measurement, and the others take them.

use serde_json::Value;

use crate::Result;
use crate::device::cuda::CudaDevice;
use crate::device::cuda::algorithms::{Settled, Table, Wanted};

/// One replica's part.
pub struct Algorithms {
    device: CudaDevice,
    wanted: Vec<Wanted>,
}

/// What the first replica has settled, for the log.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// How many, and how long it took; empty when there was nothing to settle.
    pub line: String,
    /// Recorded algorithms that were not taken, and why.
    pub events: Vec<String>,
}

impl Algorithms {
    /// Of a replica on this device whose nets will ask for these.
    pub fn new(device: &CudaDevice, wanted: Vec<Wanted>) -> Algorithms {
        Algorithms { device: device.clone(), wanted }
    }

    /// Settles the first replica's, with what a snapshot has recorded.
    ///
    /// # Errors
    /// A device that failed, or a convolution it has no code for.
    pub fn settle(&self, recorded: Option<&Value>) -> Result<Told> {
        let Some(own) = self.device.0.algorithms().filter(|_| !self.wanted.is_empty()) else {
            return Ok(Told::default());
        };
        let (table, mut events) = match recorded.map(Table::read) {
            None => (None, Vec::new()),
            Some(None) => {
                let why =
                    "the snapshot's algorithms of cuDNN cannot be read: all are measured anew";
                (None, vec![why.to_owned()])
            }
            Some(Some(table)) if table.of == own.of => (Some(table), Vec::new()),
            Some(Some(table)) => {
                let why = format!(
                    "the snapshot's algorithms of cuDNN were measured on {}; this is {}: all are measured anew",
                    table.of, own.of
                );
                (None, vec![why])
            }
        };
        let records = table.as_ref().map_or(&[][..], |table| &table.records);
        let Settled { recorded, measured, refused, took } =
            self.device.0.settle(&self.wanted, records)?;
        events.extend(refused);
        let line = format!(
            "algorithms of cuDNN: {measured} measured, {recorded} restored from the snapshot, in {:.3} s",
            took.as_secs_f64()
        );
        Ok(Told { line, events })
    }

    /// The table, as it goes into snapshots; `None` where nothing was settled.
    pub fn json(&self) -> Option<Value> {
        let table = self.device.0.algorithms().filter(|table| !table.records.is_empty())?;
        Some(table.json())
    }

    /// The table in the words that other replicas hear; none where there is no table.
    pub fn words(&self) -> Vec<u8> {
        self.json().map_or_else(Vec::new, |json| json.to_string().into_bytes())
    }

    /// Takes the first replica's table from its words, where its device and library are the same; else
    /// replica number `replica` measures for itself. What there is to say about that.
    ///
    /// # Errors
    /// As [`settle`](Algorithms::settle).
    pub fn hear(&self, words: &[u8], replica: usize) -> Result<Option<String>> {
        let Some(own) = self.device.0.algorithms().filter(|_| !self.wanted.is_empty()) else {
            return Ok(None);
        };
        let first = serde_json::from_slice(words).ok().and_then(|json| Table::read(&json));
        let same = first.as_ref().filter(|table| table.of == own.of);
        let records = same.map_or(&[][..], |table| &table.records);
        let Settled { measured, refused, took, .. } =
            self.device.0.settle(&self.wanted, records)?;
        if measured == 0 {
            return Ok(None);
        }
        let why = match (&first, &refused[..]) {
            (None, _) => format!("it is on {}, replica 0 has none", own.of),
            (Some(table), _) if table.of != own.of => {
                format!("it is on {}, replica 0 is on {}", own.of, table.of)
            }
            (_, [one]) => one.clone(),
            (_, [one, more @ ..]) => format!("{one}; and {} more", more.len()),
            (_, []) => "replica 0 has none for them".into(),
        };
        Ok(Some(format!(
            "replica {replica} has measured {measured} algorithms of cuDNN for itself in {:.3} s, so its sums \
             may differ from those of replica 0 in their last bits: {why}",
            took.as_secs_f64()
        )))
    }
}
