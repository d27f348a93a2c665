//! Replicas whose gradient is no finite number, in every mode: an update that is dropped, and the
//! duties that take all nodes back to a snapshot together.

use std::collections::BTreeSet;

use caffe_actors::{Config, Mode, Schedule, Wire};

use crate::quadratic::source::target;
use crate::quadratic::{Behaviour, Trouble};
use crate::{ALL, config, job, succeed};

const ITERS: u64 = 30;
/// The iteration whose gradient is NaN on one replica.
const AT: u64 = 13;

fn behaviour(replica: usize, iter: u64, back: bool) -> Behaviour {
    let troubles = vec![Trouble::NotFinite { replica, iter, back }];
    Behaviour { troubles, compute: 1, ..Behaviour::default() }
}

/// Element 3 of the weights in `sync`: w ← w − v, v ← ½v + rate·(w − mean target), without the
/// update of one iteration; and going back to what it was after another one.
fn by_hand(replicas: u64, back: Option<(u64, u64)>) -> f32 {
    let (mut w, mut v) = (3.0f32, 0.0f32);
    let mut after = vec![w];
    for iter in 0..ITERS {
        if let Some((at, to)) = back
            && at == iter
        {
            (w, v) = (after[to as usize], 0.0);
        }
        if iter != AT {
            let targets = (replicas * iter..replicas * (iter + 1)).map(|q| target(q, 3));
            let mean = targets.sum::<f32>() / replicas as f32;
            v = 0.5 * v + 0.25 / (1.0 + iter as f32 / 64.0) * (w - mean);
            w -= v;
        }
        after.push(w);
    }
    w
}

/// What holds after any such job: every ticket was trained on once, and snapshots were written when
/// they were due and at no other time.
fn as_without_trouble(behaviour: &Behaviour, replicas: u64, what: &str) {
    behaviour.log.with(|seen| {
        assert_eq!(seen.tickets.len() as u64, ITERS * replicas, "{what}");
        let tickets: BTreeSet<u64> = seen.tickets.iter().copied().collect();
        assert_eq!(tickets, (0..ITERS * replicas).collect(), "{what}");
        assert_eq!(seen.written, [9, 18, 27, 30], "{what}");
        assert!(seen.final_weights.iter().all(|w| w.is_finite()), "{what}");
    });
}

fn layouts() -> impl Iterator<Item = (Mode, Wire, &'static [usize])> {
    let layouts: [&[usize]; 4] = [&[1], &[3], &[2, 1], &[1, 1, 1]];
    let wires = [Wire::F32, Wire::Bf16, Wire::Fp16];
    let all = ALL.into_iter().flat_map(move |mode| wires.map(|wire| (mode, wire)));
    let all = all.flat_map(move |(mode, wire)| layouts.map(|workers| (mode, wire, workers)));
    // With one node nothing is sent.
    all.filter(|(_, wire, workers)| *wire == Wire::F32 || workers.len() > 1)
}

#[test]
fn all_nodes_go_back_together_and_lose_no_ticket() {
    for (mode, wire, workers) in layouts() {
        let what = format!("{mode} {wire} {workers:?}");
        let replicas = workers.iter().sum::<usize>();
        let behaviour = behaviour(replicas - 1, AT, true);
        let config = Config { wire, ..config(mode, ITERS) };
        let (reports, told) = job(&config, workers, &behaviour);
        reports.into_iter().for_each(|report| drop(report.unwrap()));
        as_without_trouble(&behaviour, replicas as u64, &what);

        let mut reloads = behaviour.log.with(|seen| seen.reloads.clone());
        reloads.sort_unstable();
        assert_eq!(reloads, (0..replicas).collect::<Vec<_>>(), "{what}");
        let line = |rank: usize, part: &str| -> Vec<String> {
            told[rank].lines().into_iter().filter(|line| line.contains(part)).collect()
        };
        let last = workers.len() - 1;
        assert_eq!(line(last, "a made-up NaN"), [format!("warning rank {last}: a made-up NaN")]);
        let back = line(0, "all replicas go back to");
        let words: Vec<&str> = back[0].split([' ', ':']).collect();
        let (at, to): (u64, u64) =
            (words[2].parse().unwrap(), words.last().unwrap().parse().unwrap());
        assert_eq!(back.len(), 1, "{what}");
        // To the newest snapshot of all, at a drained point soon after.
        assert!(at > AT && at < ITERS && to == (at - 1) / 9 * 9, "{what}: {back:?}");
        if mode == Mode::Sync && wire == Wire::F32 {
            let weights = behaviour.log.with(|seen| seen.final_weights[3]);
            let wanted = by_hand(replicas as u64, Some((at, to)));
            assert!((weights - wanted).abs() < 1e-5, "{what}: {weights} {wanted}");
        }
    }
}

#[test]
fn a_dropped_update_changes_nothing_else() {
    for (mode, wire, workers) in layouts() {
        let what = format!("{mode} {wire} {workers:?}");
        let replicas = workers.iter().sum::<usize>() as u64;
        let behaviour = behaviour(0, AT, false);
        let config = Config { wire, ..config(mode, ITERS) };
        let (_, told) = succeed(&config, workers, &behaviour);
        as_without_trouble(&behaviour, replicas, &what);
        let warnings = told.lines().into_iter().filter(|line| line.contains("made-up NaN")).count();
        assert_eq!(warnings, 1, "{what}");
        let (reloads, weights) =
            behaviour.log.with(|seen| (seen.reloads.len(), seen.final_weights[3]));
        assert_eq!(reloads, 0, "{what}");
        if mode == Mode::Sync && wire == Wire::F32 {
            let wanted = by_hand(replicas, None);
            assert!((weights - wanted).abs() < 1e-5, "{what}: {weights} {wanted}");
        }
    }
}

#[test]
fn without_a_snapshot_there_is_no_way_back() {
    for mode in ALL {
        let behaviour = behaviour(1, 2, true);
        let (reports, _) = job(&config(mode, ITERS), &[1, 2], &behaviour);
        for report in reports {
            let fault = report.unwrap_err();
            assert_eq!(&*fault.cause, "there is no snapshot to go back to", "{mode}");
            assert!(fault.actor.starts_with("device"), "{fault}");
        }
    }
}

/// A wish to stop and one to go back, in the same header or not: the job goes back, then stops, with
/// a snapshot of where it is.
#[test]
fn a_job_that_goes_back_can_be_stopped() {
    for mode in ALL {
        let config = config(mode, 1_000);
        let mut behaviour = behaviour(1, AT, true);
        behaviour.stop = Some((AT, config.requests.clone()));
        let schedule = Schedule { test_interval: 0, ..config.schedule.clone() };
        let (reports, told) = succeed(&Config { schedule, ..config }, &[1, 1], &behaviour);
        assert!(reports.iter().all(|report| report.stopped_early), "{mode}");
        let lines = told.lines();
        let stopped = lines.iter().filter(|line| line.starts_with("stopped")).count();
        assert_eq!(stopped, 1, "{mode}: {lines:?}");
        let (saved, weights) =
            behaviour.log.with(|seen| (seen.saved.clone().unwrap(), seen.final_weights.clone()));
        assert_eq!(saved.0, reports[0].iter, "{mode}");
        assert!(saved.1 == weights, "{mode}: the snapshot is not of the end");
    }
}
