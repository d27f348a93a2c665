//! How fast all replicas were since the last display, and what their time went into.

use std::fmt;
use std::time::{Duration, Instant};

use caffe_actors::{Pace, Tally};

/// Records per second and shares of time, over the time between two displays.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::trainer) struct Speed {
    /// Of all replicas together.
    pub(in crate::trainer) images: f64,
    /// Parts of all replicas' time.
    pub(in crate::trainer) shares: Shares,
    /// Each replica's, by rank and device.
    pub(in crate::trainer) replicas: Vec<ReplicaSpeed>,
}

/// What time went into: parts of 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::trainer) struct Shares {
    pub(in crate::trainer) data: f64,
    pub(in crate::trainer) compute: f64,
    pub(in crate::trainer) exposed: f64,
    pub(in crate::trainer) update: f64,
}

/// One replica's speed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::trainer) struct ReplicaSpeed {
    pub(in crate::trainer) rank: usize,
    pub(in crate::trainer) device: usize,
    pub(in crate::trainer) images: f64,
    pub(in crate::trainer) shares: Shares,
}

impl Shares {
    fn of(tally: &Tally) -> Shares {
        let all = tally.nanos().max(1) as f64;
        let [data, compute, exposed, update] =
            [tally.data, tally.compute, tally.exposed, tally.update].map(|part| part as f64 / all);
        Shares { data, compute, exposed, update }
    }

    /// Name and value of each.
    pub(in crate::trainer) fn named(&self) -> [(&'static str, f64); 4] {
        [
            ("data_wait", self.data),
            ("compute", self.compute),
            ("comm_exposed", self.exposed),
            ("update", self.update),
        ]
    }
}

impl Speed {
    /// From what replicas did within `seconds`, in batches of so many records; `None` when that is
    /// nothing.
    pub(in crate::trainer) fn of(paces: &[Pace], batch: usize, seconds: f64) -> Option<Speed> {
        let mut all = Tally::default();
        for pace in paces {
            all += pace.spent;
        }
        if all.batches == 0 || all.nanos() == 0 || seconds <= 0.0 {
            return None;
        }
        let images = |batches: u64| batches as f64 * batch as f64 / seconds;
        let replicas = paces.iter().map(|pace| ReplicaSpeed {
            rank: pace.rank,
            device: pace.device,
            images: images(pace.spent.batches),
            shares: Shares::of(&pace.spent),
        });
        Some(Speed {
            images: images(all.batches),
            shares: Shares::of(&all),
            replicas: replicas.collect(),
        })
    }
}

/// As the log has it; `parse_log` reads it back.
impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Speed: {:.1} img/s", self.images)?;
        let slowest = self.replicas.iter().min_by(|a, b| a.images.total_cmp(&b.images));
        if let Some(slowest) = slowest.filter(|_| self.replicas.len() > 1) {
            let count = self.replicas.len();
            write!(
                f,
                " on {count} replicas ({:.1} each; slowest {:.1}: rank {} device {})",
                self.images / count as f64,
                slowest.images,
                slowest.rank,
                slowest.device
            )?;
        }
        let Shares { data, compute, exposed, update } = self.shares;
        write!(
            f,
            "; data wait {:.1} %, compute {:.1} %, comm exposed {:.1} %, update {:.1} %",
            100.0 * data,
            100.0 * compute,
            100.0 * exposed,
            100.0 * update
        )
    }
}

/// Time between displays, without that of tests.
#[derive(Debug)]
pub(in crate::trainer) struct Stopwatch {
    last: Instant,
    testing: Option<Instant>,
}

impl Stopwatch {
    pub(in crate::trainer) fn start() -> Self {
        Stopwatch { last: Instant::now(), testing: None }
    }

    /// A test begins.
    pub(in crate::trainer) fn pause(&mut self) {
        self.testing = Some(Instant::now());
    }

    /// A test has ended.
    pub(in crate::trainer) fn resume(&mut self) {
        if let Some(begun) = self.testing.take() {
            self.last += begun.elapsed();
        }
    }

    /// Time since the last lap.
    pub(in crate::trainer) fn lap(&mut self) -> Duration {
        let lap = self.last.elapsed();
        self.last = Instant::now();
        lap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_all_replicas_and_the_slowest_is_named() {
        let pace = |rank, batches, data, compute| Pace {
            rank,
            device: 0,
            spent: Tally { batches, data, compute, exposed: 0, update: 0 },
        };
        let speed = Speed::of(&[pace(0, 30, 0, 100), pace(1, 10, 100, 0)], 100, 2.0).unwrap();
        assert_eq!(speed.images, 2000.0);
        assert_eq!(
            speed.to_string(),
            "Speed: 2000.0 img/s on 2 replicas (1000.0 each; slowest 500.0: rank 1 device 0); data \
             wait 50.0 %, compute 50.0 %, comm exposed 0.0 %, update 0.0 %"
        );
        let alone = Speed::of(&[pace(0, 30, 0, 100)], 100, 2.0).unwrap().to_string();
        assert!(alone.starts_with("Speed: 1500.0 img/s; data wait"), "{alone}");
        assert_eq!(Speed::of(&[pace(0, 0, 5, 0)], 100, 2.0), None);
    }
}
