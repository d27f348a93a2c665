//! What a job of many nodes would do, from an α–β model: the course of one replica's iteration, one
//! link per node, the memory of a node. `docs/scaling.md` has the formulas and compares them with
//! runs.
//!
//! Not here: where the numbers come from (`caffe plan` measures them or reads them).

mod order;

use serde::Serialize;

pub use order::Largest;

/// A run of parameters that travel together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Seconds after the iteration's begin at which backward has completed it.
    pub ready: f64,
    /// Its size.
    pub bytes: f64,
}

/// What the model starts from. Times in seconds, sizes in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    /// In the order in which they travel.
    pub buckets: Vec<Bucket>,
    /// One replica's forward and backward.
    pub compute: f64,
    /// Standard deviation of `compute`, as a part of it.
    pub jitter: f64,
    /// K: replicas on each node.
    pub workers: usize,
    /// α: a message's latency.
    pub latency: f64,
    /// β: bytes per second of a node's link, each way.
    pub bandwidth: f64,
    /// Bytes per second that a node's memory reads and writes in all; infinite: the host's work is
    /// not counted.
    pub memory: f64,
}

/// How replicas share what they learn, with the modes' own numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The mean gradient, every iteration.
    Sync,
    /// Everybody pushes.
    Hogwild,
    /// So many iterations apart at most.
    Ssp(u64),
    /// Averages every so many iterations.
    LocalSgd(u64),
}

/// What to expect.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// Number of nodes.
    pub nodes: usize,
    /// R.
    pub replicas: usize,
    /// Mean seconds from one iteration to the next.
    pub iteration: f64,
    /// Of it, seconds in which replicas wait for an exchange.
    pub exposed: f64,
    /// Seconds of memory traffic of one node for one iteration.
    pub host: f64,
    /// Iterations of one replica alone, in the time of one of this job, times R.
    pub speedup: f64,
    /// `speedup` over R.
    pub efficiency: f64,
    /// T: length of a round in iterations, where rounds run beside compute.
    pub round: f64,
}

/// Passes over a bucket's bytes when a device gives its gradient (read, write), when the node sums
/// (read each), and when the sum is written.
const GIVE: f64 = 2.0;
const SUM: f64 = 1.0;
/// Passes when a replica pushes: update, z, f and a read, a and w written; and when it takes w.
const PUSH: f64 = 6.0;
const TAKE: f64 = 2.0;
/// Passes of a round: swap (a read, f and wire written), apply (sum and z read, z written, f cleared).
const ROUND: f64 = 7.0;
/// Part of an iteration that lies between two rounds.
const REST: f64 = 0.5;
/// Rounds after which an update is visible everywhere, at the latest.
const VISIBLE: f64 = 2.0;

impl Inputs {
    /// The prediction for a mode on so many nodes.
    pub fn predict(&self, mode: Mode, nodes: usize) -> Prediction {
        let replicas = nodes * self.workers;
        if replicas == 1 {
            return self.told(nodes, self.compute, 0.0, 0.0, 0.0);
        }
        match mode {
            Mode::Sync => self.sync(nodes),
            Mode::LocalSgd(_) if nodes == 1 => self.sync(nodes),
            Mode::Hogwild => self.hogwild(nodes, None),
            Mode::Ssp(staleness) => self.hogwild(nodes, Some(staleness)),
            Mode::LocalSgd(every) => self.local_sgd(nodes, every.max(1)),
        }
    }

    /// Ring: 2(n − 1)·(α + bytes/(n·β)).
    pub fn sum_time(&self, bytes: f64, nodes: usize) -> f64 {
        let steps = 2.0 * nodes.saturating_sub(1) as f64;
        steps * (self.latency + bytes / (nodes.max(1) as f64 * self.bandwidth))
    }

    /// α·⌈log₂ n⌉.
    pub fn header_time(&self, nodes: usize) -> f64 {
        self.latency * f64::from(nodes.max(1).next_power_of_two().trailing_zeros())
    }

    fn bytes(&self) -> f64 {
        self.buckets.iter().map(|bucket| bucket.bytes).sum()
    }

    /// Seconds of all buckets' sums, one after the other.
    fn exchange(&self, nodes: usize) -> f64 {
        self.buckets.iter().map(|bucket| self.sum_time(bucket.bytes, nodes)).sum()
    }

    fn told(
        &self,
        nodes: usize,
        iteration: f64,
        exposed: f64,
        passes: f64,
        round: f64,
    ) -> Prediction {
        let replicas = nodes * self.workers;
        let efficiency = self.compute / iteration;
        Prediction {
            nodes,
            replicas,
            iteration,
            exposed,
            host: passes * self.bytes() / self.memory,
            speedup: efficiency * replicas as f64,
            efficiency,
            round,
        }
    }

    /// All wait for the slowest; buckets start as backward completes them, one after the other on
    /// the memory and on the link.
    fn sync(&self, nodes: usize) -> Prediction {
        let workers = self.workers as f64;
        let slowest = Largest::of(nodes * self.workers).mean;
        let stretch = 1.0 + self.jitter * slowest;
        let passes = GIVE * workers + SUM * (workers + 1.0);
        let (mut memory, mut link) = (0.0f64, 0.0f64);
        for bucket in &self.buckets {
            memory = memory.max(bucket.ready * stretch) + passes * bucket.bytes / self.memory;
            link = link.max(memory) + self.sum_time(bucket.bytes, nodes);
        }
        let computed = self.compute * stretch;
        let iteration = link.max(computed + self.header_time(nodes));
        self.told(nodes, iteration, iteration - computed, passes, 0.0)
    }

    /// Nobody waits. Buckets are pushed as backward completes them, fresh weights are taken at the
    /// end; with a bound, visibility limits the pace.
    fn hogwild(&self, nodes: usize, staleness: Option<u64>) -> Prediction {
        let mut pushed = 0.0f64;
        for bucket in &self.buckets {
            pushed = pushed.max(bucket.ready) + PUSH * bucket.bytes / self.memory;
        }
        let mut iteration = pushed.max(self.compute) + TAKE * self.bytes() / self.memory;
        let exchange = self.header_time(nodes) + self.exchange(nodes);
        let round = if nodes == 1 { 0.0 } else { REST + exchange / iteration };
        let passes =
            (PUSH + TAKE) * self.workers as f64 + if nodes == 1 { 0.0 } else { ROUND / round };
        if let Some(staleness) = staleness {
            // An update is seen `VISIBLE` rounds after its step; s + 1 steps may be on their way.
            let seen = iteration * (1.0 + VISIBLE * round);
            iteration = iteration.max(seen / (staleness as f64 + 1.0));
        }
        let exposed = iteration - self.compute;
        self.told(nodes, iteration, exposed, passes, round)
    }

    /// `sync` within the node; every k iterations all wait for the slowest node and for a whole
    /// exchange.
    fn local_sgd(&self, nodes: usize, every: u64) -> Prediction {
        let (workers, every) = (self.workers as f64, every as f64);
        let near = Largest::of(self.workers);
        let passes = GIVE * workers + SUM * (workers + 1.0);
        let last = self.buckets.last().map_or(0.0, |bucket| bucket.bytes);
        let inside = passes * last / self.memory;
        // The sum of k iterations varies by √k times as much as one.
        let wait = self.jitter * near.deviation * Largest::of(nodes).mean / every.sqrt();
        let computed = self.compute * (1.0 + self.jitter * near.mean + wait);
        let exposed = inside + (self.exchange(nodes) + self.header_time(nodes)) / every;
        let more = GIVE * (workers + 1.0) / every;
        self.told(nodes, computed + exposed, exposed, passes + more, every)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 s of compute, two buckets of 1 GB, complete at 0.6 s and 1 s; 1 GB/s, no latency.
    fn inputs() -> Inputs {
        let bucket = |ready| Bucket { ready, bytes: 1e9 };
        Inputs {
            buckets: vec![bucket(0.6), bucket(1.0)],
            compute: 1.0,
            jitter: 0.0,
            workers: 1,
            latency: 0.0,
            bandwidth: 1e9,
            memory: f64::INFINITY,
        }
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-3
    }

    #[test]
    fn one_replica_is_one_replica() {
        for mode in [Mode::Sync, Mode::Hogwild, Mode::Ssp(0), Mode::LocalSgd(5)] {
            let p = inputs().predict(mode, 1);
            assert_eq!((p.iteration, p.exposed, p.speedup), (1.0, 0.0, 1.0));
        }
    }

    #[test]
    fn sync_exposes_what_backward_does_not_cover() {
        // Two nodes: 1 s a bucket. The first from 0.6 to 1.6, the second until 2.6.
        let p = inputs().predict(Mode::Sync, 2);
        assert!(near(p.iteration, 2.6) && near(p.exposed, 1.6) && near(p.speedup, 2.0 / 2.6));
        // A fast link: only the last bucket's time shows.
        let fast = Inputs { bandwidth: 1e11, ..inputs() };
        assert!(near(fast.predict(Mode::Sync, 2).exposed, 0.01));
        // Latency of a ring: 2·3 messages a bucket.
        let far = Inputs { bandwidth: f64::INFINITY, latency: 0.01, ..inputs() };
        assert!(near(far.predict(Mode::Sync, 4).exposed, 0.06));
    }

    #[test]
    fn sync_waits_for_the_slowest_of_all() {
        let free = Inputs { jitter: 0.02, bandwidth: f64::INFINITY, workers: 4, ..inputs() };
        // The largest of 16 normal numbers is 1.766 on average.
        let p = free.predict(Mode::Sync, 4);
        assert!(near(p.efficiency, 1.0 / (1.0 + 0.02 * 1.766)), "{p:?}");
        assert!(near(free.predict(Mode::Hogwild, 4).efficiency, 1.0));
    }

    #[test]
    fn hogwild_pays_for_pushes_and_ssp_for_late_sight() {
        let p = Inputs { memory: 1e12, ..inputs() }.predict(Mode::Hogwild, 2);
        // The last bucket's push, and taking both buckets' weights.
        assert!((p.exposed - (6.0 * 1e9 + 2.0 * 2e9) / 1e12).abs() < 1e-9, "{p:?}");
        // A round rests for half an iteration and exchanges for two: 2.5 iterations.
        let slow = inputs();
        assert!(near(slow.predict(Mode::Hogwild, 2).round, 2.5));
        // Visible after 1 + 2·2.5 = 6 iterations: with s = 1 two may be under way.
        assert!(near(slow.predict(Mode::Ssp(1), 2).iteration, 3.0));
        assert!(near(slow.predict(Mode::Ssp(5), 2).iteration, 1.0));
    }

    #[test]
    fn local_sgd_pays_once_in_k() {
        let p = inputs().predict(Mode::LocalSgd(10), 2);
        assert!(near(p.iteration, 1.2) && near(p.exposed, 0.2), "{p:?}");
        assert_eq!(inputs().predict(Mode::LocalSgd(10), 1).exposed, 0.0);
    }
}
