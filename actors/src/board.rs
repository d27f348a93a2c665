//! Where devices and communicator of a node lay out bulk data at drained points, when nobody
//! trains: opening words, start weights, statistics, histories, test scores.
//!
//! Nothing here is touched while a segment runs. Whoever writes a field says so with a message
//! before anybody reads it, so the locks are never contended.

use std::sync::OnceLock;

use parking_lot::Mutex;

use crate::store::Store;

/// The board of one node.
#[derive(Debug, Default)]
pub(crate) struct Board {
    /// What the job's first replica has to say to the others; emptied when all have heard it.
    pub(crate) words: Mutex<Vec<u8>>,
    /// Start weights per bucket; emptied when all devices have them.
    pub(crate) weights: Mutex<Vec<Vec<f32>>>,
    /// The job's mean statistics.
    pub(crate) statistics: Mutex<Vec<f32>>,
    /// Each device's own.
    pub(crate) own_statistics: Vec<Mutex<Vec<f32>>>,
    /// Each device's own history.
    pub(crate) histories: Vec<Mutex<Vec<f32>>>,
    /// The job's mean history.
    pub(crate) mean_history: Mutex<Vec<f32>>,
    /// Scores of the running test: a row for each batch, zeros where another node computes.
    pub(crate) scores: Mutex<Vec<f32>>,
    /// The node's weights in hogwild.
    pub(crate) store: OnceLock<Store>,
}

impl Board {
    /// For a node with `devices` devices.
    pub(crate) fn new(devices: usize) -> Self {
        Board {
            own_statistics: (0..devices).map(|_| Mutex::default()).collect(),
            histories: (0..devices).map(|_| Mutex::default()).collect(),
            ..Board::default()
        }
    }
}

/// Adds the vectors of all devices, in device order.
pub(crate) fn sum_of(parts: &[Mutex<Vec<f32>>]) -> Vec<f32> {
    let mut parts = parts.iter();
    let mut total = parts.next().map(|first| first.lock().clone()).unwrap_or_default();
    for part in parts {
        for (sum, value) in total.iter_mut().zip(part.lock().iter()) {
            *sum += value;
        }
    }
    total
}
