//! When things happen: [`Schedule`], plain data, and the pure functions of it that every node
//! evaluates alike.
//!
//! Caffe's order around iteration `i`: snapshot of `i` iterations, test, then the step. After
//! `max_iter`: the closing snapshot, the closing loss, the closing test.

/// What to do at which iteration. All counts are in iterations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// First iteration of this run: 0, or that of the snapshot it resumes.
    pub start_iter: u64,
    /// Train until this many iterations are done.
    pub max_iter: u64,
    /// Batches per step on each replica.
    pub iter_size: usize,
    /// Show the loss every so many iterations; 0 = never.
    pub display: u64,
    /// Show the mean loss of this many iterations.
    pub average_loss: u64,
    /// Test every so many iterations; 0 = never.
    pub test_interval: u64,
    /// Test before the first iteration.
    pub test_initialization: bool,
    /// Number of batches of each test net.
    pub test_batches: Vec<u64>,
    /// First batch index of each test net: zeros, or those of the snapshot it resumes.
    pub test_cursors: Vec<u64>,
    /// Snapshot every so many iterations; 0 = never.
    pub snapshot: u64,
    /// Snapshot after the last iteration.
    pub snapshot_after_train: bool,
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule {
            start_iter: 0,
            max_iter: 0,
            iter_size: 1,
            display: 0,
            average_loss: 1,
            test_interval: 0,
            test_initialization: true,
            test_batches: Vec::new(),
            test_cursors: Vec::new(),
            snapshot: 0,
            snapshot_after_train: true,
        }
    }
}

fn hits(iter: u64, interval: u64) -> bool {
    interval > 0 && iter.is_multiple_of(interval)
}

fn next_multiple_after(iter: u64, interval: u64) -> u64 {
    iter.checked_div(interval).map_or(u64::MAX, |done| (done + 1) * interval)
}

impl Schedule {
    /// The next drained point after `iter` iterations: a test, a snapshot or the end.
    pub fn next_stop(&self, iter: u64) -> u64 {
        let mut stop = self.max_iter;
        stop = stop.min(next_multiple_after(iter, self.snapshot));
        if !self.test_batches.is_empty() {
            stop = stop.min(next_multiple_after(iter, self.test_interval));
        }
        stop.max(iter)
    }

    /// Whether a test is due before iteration `iter`'s step (or, at `max_iter`, at the end).
    pub fn test_due(&self, iter: u64) -> bool {
        !self.test_batches.is_empty()
            && hits(iter, self.test_interval)
            && (iter > 0 || self.test_initialization)
    }

    /// Whether a snapshot of `iter` iterations is due. Not at the iteration that the run starts
    /// from: that state came from a snapshot, or is the initial one.
    pub fn snapshot_due(&self, iter: u64) -> bool {
        let closing = iter == self.max_iter && self.snapshot_after_train;
        iter > self.start_iter && (hits(iter, self.snapshot) || closing)
    }

    /// Whether iteration `iter` is displayed.
    pub fn display_due(&self, iter: u64) -> bool {
        hits(iter, self.display)
    }

    /// Whether the loss of iteration `iter` enters a displayed mean.
    pub fn loss_wanted(&self, iter: u64) -> bool {
        if self.display == 0 {
            return false;
        }
        let shown = iter.div_ceil(self.display) * self.display;
        shown - iter < self.average_loss.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule() -> Schedule {
        Schedule {
            max_iter: 1500,
            display: 100,
            average_loss: 3,
            test_interval: 500,
            test_batches: vec![10],
            test_cursors: vec![0],
            snapshot: 700,
            ..Schedule::default()
        }
    }

    #[test]
    fn drained_points_are_tests_snapshots_and_the_end() {
        let s = schedule();
        let mut stops = vec![0];
        while stops[stops.len() - 1] < s.max_iter {
            stops.push(s.next_stop(stops[stops.len() - 1]));
        }
        assert_eq!(stops, [0, 500, 700, 1000, 1400, 1500]);
        assert_eq!(s.next_stop(1500), 1500);
    }

    #[test]
    fn duties_follow_caffe() {
        let s = schedule();
        assert!(s.test_due(0) && s.test_due(500) && !s.test_due(700) && s.test_due(1500));
        assert!(!s.snapshot_due(0) && s.snapshot_due(700) && s.snapshot_due(1500));
        let resumed = Schedule { start_iter: 700, ..schedule() };
        assert!(!resumed.snapshot_due(700));
        let late = Schedule { test_initialization: false, ..schedule() };
        assert!(!late.test_due(0));
    }

    #[test]
    fn only_losses_that_are_shown_are_fetched() {
        let s = schedule();
        let wanted: Vec<u64> = (0..=200).filter(|i| s.loss_wanted(*i)).collect();
        assert_eq!(wanted, [0, 98, 99, 100, 198, 199, 200]);
    }
}
