//! Memory of this node's CUDA devices: what was forecast, and what was taken.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::solver::Forecast;

/// Bytes of a megabyte.
const MB: u64 = 1_000_000;

/// What replicas write, each on its thread, and the log tells.
#[derive(Debug, Default)]
pub struct DeviceMemory {
    forecast: OnceLock<Forecast>,
    taken: AtomicU64,
}

impl DeviceMemory {
    /// A replica will need so much; all replicas of a job are equal.
    pub fn expect(&self, forecast: Forecast) {
        self.forecast.get_or_init(|| forecast);
    }

    /// So much of a device is taken now.
    pub fn seen(&self, taken: Option<u64>) {
        self.taken.fetch_max(taken.unwrap_or(0), Ordering::Relaxed);
    }

    /// The forecast in words; `None` on the CPU.
    pub fn expected(&self) -> Option<String> {
        self.forecast.get().map(|forecast| format!("a replica needs {forecast} of its device"))
    }

    /// What became of it; `None` where nobody looked.
    pub fn outcome(&self) -> Option<String> {
        let (forecast, taken) = (self.forecast.get()?, self.taken.load(Ordering::Relaxed));
        let text = || {
            let (taken, forecast) = (taken / MB, forecast.total() / MB);
            format!("device memory: {taken} MB taken, {forecast} MB forecast for a replica")
        };
        (taken > 0).then(text)
    }
}
