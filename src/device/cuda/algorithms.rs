//! Which algorithms correlations are computed with: a [`Table`] that replicas, ranks and resumed runs share.
//!
//! A library has several algorithms for a correlation. Which is the fastest is measured, and measured times
//! differ from call to call; the last bits of sums differ from algorithm to algorithm. So one replica
//! measures for all: its table goes to the others before anything is computed, and into snapshots.
//!
//! ```
//! use caffe::device::cuda::algorithms::{Setup, Table};
//! use caffe::device::cuda::Math;
//!
//! let of = Setup { device: "A GPU".into(), capability: (9, 0), cudnn: 91000, math: Math::F32 };
//! let table = Table { of, records: Vec::new() };
//! assert_eq!(table.of.to_string(), "A GPU (compute capability 9.0) with cuDNN 9.10.0 in f32");
//! assert_eq!(Table::read(&table.json()), Some(table));
//! ```

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::backend::Correlation;
use super::kind::{Kind, Math};

/// What is computed of a [`Correlation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// y from x and w.
    Forward,
    /// The gradient of x, from w and that of y.
    Back,
    /// The gradient of w, from x and that of y, added to what is there.
    Weights,
}

impl Direction {
    /// What it is in messages.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Forward => "forward pass",
            Direction::Back => "gradient",
            Direction::Weights => "gradient of the weights",
        }
    }
}

/// What an algorithm is for. All of the correlation's description is compared and written, whatever it
/// consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// What is computed.
    pub direction: Direction,
    /// What numbers are stored as.
    pub kind: Kind,
    /// Of what.
    pub shape: Correlation,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} of {:?} in {}", self.direction.name(), self.shape, self.kind.name())
    }
}

/// Where algorithms were measured: elsewhere others may be faster, or not be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// The device's product name.
    pub device: String,
    /// Its compute capability.
    pub capability: (i32, i32),
    /// cuDNN's version, as it counts.
    pub cudnn: usize,
    /// What is computed with.
    pub math: Math,
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setup { device, capability: (major, minor), cudnn, math } = self;
        let (first, second, third) = (cudnn / 10000, cudnn / 100 % 100, cudnn % 100);
        write!(
            f,
            "{device} (compute capability {major}.{minor}) with cuDNN {first}.{second}.{third} in {}",
            math.name()
        )
    }
}

/// The algorithm that something is computed with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What it is for.
    pub wanted: Wanted,
    /// Its number in cuDNN's list of that direction.
    pub algorithm: u32,
    /// The number of cuDNN's type of arithmetic.
    pub arithmetic: u32,
    /// Bytes of its working memory.
    pub bytes: u64,
    /// Milliseconds that it took when it was measured.
    pub ms: f32,
}

/// Algorithms, in the order in which they were settled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Where they were measured.
    pub of: Setup,
    /// One for each direction of each correlation.
    pub records: Vec<Record>,
}

impl Table {
    /// As it is written and sent.
    pub fn json(&self) -> Value {
        // Numbers and texts only: nothing in it can fail.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Reads what [`json`](Table::json) made, perhaps in another version of the program: records that
    /// make no sense here are left out. `None` for what is no table.
    pub fn read(json: &Value) -> Option<Table> {
        let of = Setup::deserialize(json.get("of")?).ok()?;
        let records = json.get("records")?.as_array()?;
        let records = records.iter().filter_map(|record| Record::deserialize(record).ok());
        Some(Table { of, records: records.collect() })
    }
}

/// What became of a wish for algorithms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Algorithms that were recorded.
    pub recorded: usize,
    /// Algorithms that were measured.
    pub measured: usize,
    /// Why recorded ones were not taken, a sentence each.
    pub refused: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::device::cuda::Order;
    use crate::device::cuda::backend::Axis;

    fn table() -> Table {
        let axis = Axis { image: 9, kernel: 3, stride: 1, pad: 1, dilation: 1, positions: 9 };
        let record = |direction| Record {
            wanted: Wanted {
                direction,
                kind: Kind::Bf16,
                shape: Correlation {
                    images: 2,
                    channels: 4,
                    outputs: 6,
                    groups: 2,
                    axes: vec![axis, axis],
                    order: Order::ChannelsLast,
                },
            },
            algorithm: 1,
            arithmetic: 2,
            bytes: 1 << 33,
            ms: 0.125,
        };
        let of = Setup {
            device: "GPU \"zero\"".into(),
            capability: (8, 0),
            cudnn: 92801,
            math: Math::Bf16,
        };
        Table { of, records: [Direction::Forward, Direction::Weights].map(record).to_vec() }
    }

    #[test]
    fn a_table_comes_back_whole() {
        let table = table();
        let text = table.json().to_string();
        assert_eq!(Table::read(&serde_json::from_str(&text).unwrap()), Some(table));
    }

    #[test]
    fn records_of_other_versions_are_left_out() {
        let whole = table().json();
        type Change = fn(&mut Value);
        let changes: [Change; 5] = [
            // A description that says more than this program knows must not be taken for another.
            |record| record["wanted"]["shape"]["order"] = json!("channels last"),
            |record| record["wanted"]["shape"]["axes"][0]["skew"] = json!(1),
            |record| record["wanted"]["kind"] = json!("f8"),
            |record| record["algorithm"] = json!(-1),
            |record| *record = json!(null),
        ];
        for change in changes {
            let mut json = whole.clone();
            change(&mut json["records"][0]);
            let read = Table::read(&json).unwrap();
            assert_eq!(read.records, table().records[1..], "{json}");
        }
        for bad in [json!(null), json!([1]), json!({ "of": "a GPU", "records": [] })] {
            assert_eq!(Table::read(&bad), None);
        }
    }
}
