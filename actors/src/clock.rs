//! Time as a value that is passed in: [`Clock`].
//!
//! The state machines are given `now` with every event and never look at a clock themselves;
//! tests give them any time they like.

use std::time::{Duration, Instant};

/// A monotonic clock.
pub trait Clock: Send + Sync {
    /// Time since some fixed moment.
    fn now(&self) -> Duration;

    /// How long a span of this clock is on the system's: what to sleep for it.
    fn lasts(&self, span: Duration) -> Duration {
        span
    }
}

/// The machine's own clock, from the moment it was made.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A clock that goes slower than the system's: what lasts a second by it takes `factor` seconds.
/// With it, everything that the machine paces by time keeps its proportions to compute and
/// exchanges that have been dilated by the same factor.
#[derive(Clone, Copy, Debug)]
pub struct DilatedClock {
    system: SystemClock,
    factor: f64,
}

impl DilatedClock {
    /// From now on. The factor must be above 0.
    pub fn new(factor: f64) -> Self {
        DilatedClock { system: SystemClock::default(), factor }
    }
}

impl Clock for DilatedClock {
    fn now(&self) -> Duration {
        self.system.now().div_f64(self.factor)
    }

    fn lasts(&self, span: Duration) -> Duration {
        span.mul_f64(self.factor)
    }
}
