//! Measures an emulated run from inside: how long each replica's iterations are, away from start
//! and drain, and what they cost this host's processor.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

/// Listens to all replicas of this process.
pub(super) struct Meter {
    /// Iterations that count.
    window: Range<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    replicas: BTreeMap<usize, Cycles>,
    /// Moment and processor time at the first and the latest step that counts.
    first: Option<(Instant, Duration)>,
    last: Option<(Instant, Duration)>,
}

/// One replica's steps, each from its begin to the next one's.
struct Cycles {
    first: Instant,
    last: Instant,
    count: u64,
    /// Seconds of compute in them, and in the step under way.
    compute: f64,
    under_way: f64,
}

/// What came out, all in seconds of the dilated run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Measured {
    /// Iterations per second, summed over this process's replicas.
    pub(super) rate: f64,
    /// Replicas of this process.
    pub(super) replicas: usize,
    /// Mean time from one step's begin to the next, and of it, the compute.
    pub(super) cycle: f64,
    pub(super) compute: f64,
    /// Processor seconds of this process for one step of each of its replicas.
    pub(super) host: f64,
    /// Part of this host's cores that this process kept busy.
    pub(super) busy: f64,
}

impl Meter {
    pub(super) fn new(window: Range<u64>) -> Self {
        Meter { window, state: Mutex::default() }
    }

    /// A replica begins its step of an iteration.
    pub(super) fn begin(&self, replica: usize, iter: u64, now: Instant) {
        let mut state = self.state.lock();
        if !self.window.contains(&iter) {
            return;
        }
        let cpu = processor_time();
        state.first.get_or_insert((now, cpu));
        state.last = Some((now, cpu));
        let fresh = Cycles { first: now, last: now, count: 0, compute: 0.0, under_way: 0.0 };
        match state.replicas.get_mut(&replica) {
            None => drop(state.replicas.insert(replica, fresh)),
            Some(cycles) => {
                cycles.count += 1;
                cycles.last = now;
                cycles.compute += cycles.under_way;
                cycles.under_way = 0.0;
            }
        }
    }

    /// It has computed for so many seconds.
    pub(super) fn computed(&self, replica: usize, seconds: f64) {
        if let Some(cycles) = self.state.lock().replicas.get_mut(&replica) {
            cycles.under_way += seconds;
        }
    }

    /// The result; `None` when there were too few iterations to say anything.
    pub(super) fn measured(&self) -> Option<Measured> {
        let state = self.state.lock();
        let ((begun, cpu_begun), (ended, cpu_ended)) = (state.first?, state.last?);
        let (mut rate, mut cycle, mut compute, mut steps) = (0.0, 0.0, 0.0, 0.0);
        for cycles in state.replicas.values().filter(|cycles| cycles.count > 0) {
            let seconds = (cycles.last - cycles.first).as_secs_f64();
            rate += cycles.count as f64 / seconds;
            cycle += seconds;
            compute += cycles.compute;
            steps += cycles.count as f64;
        }
        let replicas = state.replicas.len();
        let wall = (ended - begun).as_secs_f64();
        if steps == 0.0 || wall == 0.0 {
            return None;
        }
        let cpu = (cpu_ended - cpu_begun).as_secs_f64();
        Some(Measured {
            rate,
            replicas,
            cycle: cycle / steps,
            compute: compute / steps,
            host: cpu / (wall * rate / replicas as f64),
            busy: cpu / (wall * cores() as f64),
        })
    }
}

/// Hardware threads open to this process.
pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// Of all threads of this process.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_add_up_and_only_the_window_counts() {
        let meter = Meter::new(1..5);
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        for iter in 0..6 {
            // A slow first iteration does not count.
            meter.begin(0, iter, at(1000 * u64::from(iter > 0) + 100 * iter));
            meter.computed(0, 0.08);
            if iter % 2 == 1 {
                meter.begin(1, iter, at(100 * iter));
                meter.computed(1, 0.2);
            }
        }
        let measured = meter.measured().unwrap();
        assert!((measured.rate - 15.0).abs() < 1e-9, "{measured:?}");
        assert!((measured.cycle - 0.5 / 4.0).abs() < 1e-9);
        assert!((measured.compute - (0.24 + 0.2) / 4.0).abs() < 1e-9);
        assert_eq!(measured.replicas, 2);
        assert_eq!(Meter::new(0..9).measured(), None);
    }
}
