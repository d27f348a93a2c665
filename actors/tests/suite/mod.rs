//! One suite of whole jobs, run by `tests/machine` with nodes in one process and by
//! `tests/mpi.rs` with real ranks (through the example `quadratic`, as `case=NAME`).
//!
//! Every mode with 2, 3 and 4 nodes, even and uneven, and every wire format; nodes that idle; jobs
//! with fewer tickets than replicas want; a job that is stopped. What must hold is said once, in
//! [`Case::check`].

// Shared by two tests and an example: none uses all of it.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use caffe_actors::{Config, Mode, RunReport, Schedule, Wire};

use crate::quadratic::{Behaviour, Trouble};

/// A job.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub mode: Mode,
    pub wire: Wire,
    /// Devices of each node.
    pub workers: Vec<usize>,
    pub iters: u64,
    pub iter_size: usize,
    /// Replica that is slower than the others, by so many milliseconds a step.
    pub slow: Option<(usize, u64)>,
    /// This rank asks everybody to stop when it comes to this iteration.
    pub stop: Option<(usize, u64)>,
}

/// What one rank reports.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    pub iter: u64,
    pub checksum: u64,
    pub steps: Vec<u64>,
    pub rounds: u64,
    /// Batch tickets its replicas trained on.
    pub tickets: Vec<u64>,
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let modes = [
        ("sync", Mode::Sync),
        ("hogwild", Mode::Hogwild),
        ("ssp-0", Mode::Ssp { staleness: 0 }),
        ("ssp-2", Mode::Ssp { staleness: 2 }),
        ("local-sgd-4", Mode::LocalSgd { every: 4 }),
    ];
    let layouts = [vec![1, 1], vec![1, 2, 1], vec![1, 1, 1, 1]];
    let wires = [Wire::F32, Wire::Bf16, Wire::Fp16];
    let mut all = Vec::new();
    for (m, (name, mode)) in modes.into_iter().enumerate() {
        let case = |detail: &str, wire: Wire, workers: &[usize]| Case {
            name: format!("{name}-{detail}-{wire}"),
            mode,
            wire,
            workers: workers.to_vec(),
            iters: 20,
            iter_size: 1,
            slow: None,
            stop: None,
        };
        // Each mode meets each wire format and each number of nodes.
        for (l, layout) in layouts.iter().enumerate() {
            let wire = wires[(m + l) % wires.len()];
            all.push(case(&format!("{}-nodes", layout.len()), wire, layout));
        }
        let wire = wires[(m + 1) % wires.len()];
        all.push(Case { iter_size: 2, ..case("uneven", wire, &[3, 1]) });
        // Fewer tickets than replicas like to hold.
        all.push(Case { iters: 1, ..case("early", wire, &[2, 1, 1]) });
        if matches!(mode, Mode::Hogwild | Mode::Ssp { .. }) {
            // The last node's only replica is so slow that its node mostly idles in rounds.
            all.push(Case { slow: Some((2, 100)), ..case("idle", wire, &[1, 1, 1]) });
        }
        let stop = Some((1, 30));
        all.push(Case { iters: 100_000, stop, ..case("stopped", wire, &[1, 1]) });
    }
    all
}

impl Case {
    /// The set-up of node `rank`; the launch is the caller's.
    pub fn config(&self, rank: usize) -> Config {
        let schedule = Schedule {
            max_iter: self.iters,
            iter_size: self.iter_size,
            display: 5,
            test_interval: 8,
            test_batches: vec![5],
            test_cursors: vec![0],
            snapshot: 11,
            ..Schedule::default()
        };
        let mut config = Config::new(self.mode, schedule);
        config.wire = self.wire;
        config.threads = vec![1; self.workers[rank]];
        config.stall_warning = Duration::from_secs(20);
        config
    }

    /// How the fakes of node `rank` behave, which has this set-up.
    pub fn behaviour(&self, rank: usize, config: &Config) -> Behaviour {
        let slow = self.slow.iter().map(|&(replica, millis)| Trouble::Slow { replica, millis });
        let stop = self.stop.filter(|(who, _)| *who == rank);
        Behaviour {
            troubles: slow.collect(),
            compute: 1,
            tests: 1,
            stop: stop.map(|(_, iter)| (iter, config.requests.clone())),
            ..Behaviour::default()
        }
    }

    /// What must hold for any transport: all ranks end with the same weights, bit for bit, after
    /// the same iteration, and every ticket was trained on once.
    pub fn check(&self, ranks: &[Ended]) {
        let name = &self.name;
        assert_eq!(ranks.len(), self.workers.len(), "{name}");
        let first = &ranks[0];
        for (rank, ended) in ranks.iter().enumerate() {
            assert_eq!(ended.checksum, first.checksum, "{name}: weights of rank {rank}");
            assert_eq!(ended.iter, first.iter, "{name}: iterations of rank {rank}");
            assert_eq!(ended.steps.len(), self.workers[rank], "{name}");
        }
        match self.stop {
            Some(_) => assert!(first.iter >= 30 && first.iter < self.iters, "{name}: {first:?}"),
            None => assert_eq!(first.iter, self.iters, "{name}"),
        }
        let replicas = self.workers.iter().sum::<usize>() as u64;
        let tickets: Vec<u64> = ranks.iter().flat_map(|ended| ended.tickets.clone()).collect();
        let expected = first.iter * replicas * self.iter_size as u64;
        assert_eq!(tickets.len() as u64, expected, "{name}: number of tickets");
        let different: BTreeSet<u64> = tickets.into_iter().collect();
        assert_eq!(different, (0..expected).collect(), "{name}: tickets");
        let steps: u64 = ranks.iter().flat_map(|ended| &ended.steps).sum();
        assert_eq!(steps, first.iter * replicas, "{name}: steps");
        if let Some((slow, _)) = self.slow {
            let steps: Vec<u64> = ranks.iter().flat_map(|ended| ended.steps.clone()).collect();
            let fastest = steps.iter().max().unwrap();
            let ssp = matches!(self.mode, Mode::Ssp { .. });
            assert!(ssp || steps[slow] < *fastest, "{name}: {steps:?}");
        }
    }
}

impl Ended {
    /// Of a rank whose replicas trained on `tickets`.
    pub fn new(report: &RunReport, tickets: Vec<u64>) -> Self {
        let RunReport { iter, checksum, steps, rounds, .. } = report.clone();
        Ended { iter, checksum, steps, rounds, tickets }
    }

    /// One line for [`parse`](Ended::parse).
    pub fn line(&self, rank: usize) -> String {
        let list =
            |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let Ended { iter, checksum, steps, rounds, tickets } = self;
        let (steps, tickets) = (list(steps), list(tickets));
        format!("ended {rank} {iter} {checksum:016x} {steps} {rounds} {tickets}.")
    }

    /// Reads a [`line`](Ended::line): rank and what it reported.
    pub fn parse(line: &str) -> Option<(usize, Ended)> {
        // The full stop tells that a line is whole.
        let mut words = line.strip_prefix("ended ")?.strip_suffix('.')?.split(' ');
        let list = |text: &str| -> Option<Vec<u64>> {
            text.split(',').filter(|n| !n.is_empty()).map(|n| n.parse().ok()).collect()
        };
        let rank = words.next()?.parse().ok()?;
        let ended = Ended {
            iter: words.next()?.parse().ok()?,
            checksum: u64::from_str_radix(words.next()?, 16).ok()?,
            steps: list(words.next()?)?,
            rounds: words.next()?.parse().ok()?,
            tickets: list(words.next()?)?,
        };
        Some((rank, ended))
    }
}
