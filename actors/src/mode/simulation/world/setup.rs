//! What a world is made of: given, or drawn from a seed.

use crate::config::Mode;
use crate::mode::simulation::Rng;

/// What a world is made of.
#[derive(Clone, Debug)]
pub(in crate::mode::simulation) struct Setup {
    pub(in crate::mode::simulation) mode: Mode,
    pub(in crate::mode::simulation) seed: u64,
    pub(in crate::mode::simulation) workers: Vec<usize>,
    pub(in crate::mode::simulation) buckets: usize,
    pub(in crate::mode::simulation) iters: u64,
    /// Drained points, the last being `iters`.
    pub(in crate::mode::simulation) stops: Vec<u64>,
    /// Microseconds of a step at speed 1, and of the slowest message.
    pub(in crate::mode::simulation) compute: u64,
    pub(in crate::mode::simulation) delay: u64,
    /// Slowness of each device of each node.
    pub(in crate::mode::simulation) speeds: Vec<Vec<f64>>,
    /// (when in µs, node, stop?): wishes from outside.
    pub(in crate::mode::simulation) wishes: Vec<(u64, usize, bool)>,
    /// Exchanges leave some updates behind, unless they must not.
    pub(in crate::mode::simulation) rounded: bool,
}

impl Setup {
    pub(in crate::mode::simulation) fn random(mode: Mode, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = rng.between(1, 4) as usize;
        let mut workers: Vec<usize> = (0..nodes).map(|_| rng.between(1, 3) as usize).collect();
        if nodes == 1 {
            workers[0] += 1;
        }
        let iters = rng.between(1, 24);
        let mut stops = vec![iters];
        for _ in 0..rng.below(4) {
            stops.push(rng.between(1, iters));
        }
        stops.sort_unstable();
        stops.dedup();
        let compute = [1, 300, 5_000, 40_000][rng.below(4) as usize];
        let speeds = workers
            .iter()
            .map(|k| (0..*k).map(|_| [1.0, 1.0, 1.3, 5.0][rng.below(4) as usize]).collect())
            .collect();
        let wishes = (0..rng.below(3))
            .map(|_| {
                let when = rng.below(iters * (compute + 2000));
                (when, rng.below(nodes as u64) as usize, rng.chance(30))
            })
            .collect();
        let delay = [1, 100, 3_000, 30_000][rng.below(4) as usize];
        let buckets = rng.between(1, 4) as usize;
        let rounded = nodes > 1 && rng.chance(50);
        Setup {
            mode,
            seed,
            workers,
            buckets,
            iters,
            stops,
            compute,
            delay,
            speeds,
            wishes,
            rounded,
        }
    }
}
