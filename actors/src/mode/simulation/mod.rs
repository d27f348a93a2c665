//! Random schedules: whole jobs of fake nodes and devices around the real machines, in fake time.
//!
//! A world is made from a seed: number of nodes, devices and buckets, speeds, delays of every
//! message, segments, wishes to stop or to take a snapshot. An update is a ticket's name with a
//! weight; weights are lists of names; a sum is a concatenation. So "every update exactly once,
//! with weight ρ, on every node" can be read off the lists.

mod checks;
mod rng;
mod world;

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use self::rng::Rng;
use self::world::{Setup, World};
use crate::config::Mode;

/// How many schedules each machine is put through.
fn schedules() -> u64 {
    let wanted = std::env::var("CAFFE_SCHEDULES").ok().and_then(|n| n.parse().ok());
    wanted.unwrap_or(if cfg!(debug_assertions) { 2_000 } else { 25_000 })
}

/// A line in the log of the tests, also when they pass: standard error itself is not captured.
fn tell(mode: &str) {
    let (count, mut log) = (schedules(), std::io::stderr());
    writeln!(log, "{mode}: {count} random schedules, seeds 0..{count}, all as they must be")
        .unwrap();
}

#[test]
fn sync_takes_every_ticket_once_and_never_hangs() {
    for seed in 0..schedules() {
        let world = World::run(Setup::random(Mode::Sync, seed));
        world.check_sync();
    }
    tell("sync");
}

#[test]
fn hogwild_counts_every_update_once_everywhere_and_never_hangs() {
    for seed in 0..schedules() {
        let world = World::run(Setup::random(Mode::Hogwild, seed));
        world.check_hogwild();
    }
    tell("hogwild");
}

#[test]
fn ssp_keeps_its_bound_and_never_hangs() {
    for seed in 0..schedules() {
        let staleness = [0, 1, 2, 5, 40][seed as usize % 5];
        let world = World::run(Setup::random(Mode::Ssp { staleness }, seed));
        world.check_hogwild();
    }
    tell("ssp");
}

#[test]
fn local_sgd_takes_every_ticket_once_and_never_hangs() {
    for seed in 0..schedules() {
        let every = [1, 2, 3, 7, 100][seed as usize % 5];
        let world = World::run(Setup::random(Mode::LocalSgd { every }, seed));
        world.check_local_sgd();
    }
    tell("local-sgd");
}

#[test]
fn a_straggler_takes_fewer_tickets_and_costs_little() {
    let mut setup = Setup {
        workers: vec![4, 4],
        buckets: 3,
        iters: 400,
        compute: 20_000,
        ..Setup::random(Mode::Hogwild, 1)
    };
    setup.wishes.clear();
    setup.stops = vec![400];
    setup.speeds = vec![vec![1.0; 4]; 2];
    let even = World::run(setup.clone());
    setup.speeds[1][2] = 2.0;
    let slowed = World::run(setup);
    slowed.check_hogwild();
    let steps = slowed.steps();
    let others: f64 = (steps.iter().flatten().sum::<u64>() - steps[1][2]) as f64 / 7.0;
    let share = steps[1][2] as f64 / others;
    assert!((0.4..0.6).contains(&share), "the slow device took {share} of the others' tickets");
    let loss = 1.0 - even.now().as_secs_f64() / slowed.now().as_secs_f64();
    assert!(loss < 0.5 / 8.0 + 0.03, "a 2x straggler among 8 cost {loss}");
}

#[test]
fn rounds_stay_shorter_than_an_iteration() {
    let setup = Setup {
        workers: vec![2, 2],
        buckets: 2,
        iters: 200,
        stops: vec![200],
        compute: 20_000,
        wishes: Vec::new(),
        speeds: vec![vec![1.0; 2]; 2],
        ..Setup::random(Mode::Hogwild, 3)
    };
    let world = World::run(setup);
    let weights: BTreeMap<u32, usize> =
        world.node(0).updates(0).fold(BTreeMap::new(), |mut seen, (_, rho)| {
            *seen.entry(rho.to_bits()).or_default() += 1;
            seen
        });
    assert_eq!(weights.keys().copied().collect::<Vec<_>>(), [0.25f32.to_bits()]);
    assert!(world.now() < Duration::from_millis(200 * 20 * 13 / 10), "{:?}", world.now());
}

#[test]
fn the_generator_is_not_degenerate() {
    let mut rng = Rng::new(1);
    let all: Vec<u64> = (0..1000).map(|_| rng.below(10)).collect();
    assert!((0..10).all(|value| all.iter().filter(|v| **v == value).count() > 60));
}
