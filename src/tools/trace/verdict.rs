//! What bound a run, in one sentence.
//!
//! The cause besides computing itself that took the largest part of the devices' time, if it took
//! [`WORTH_NAMING`] of it; else computing. Removing a cause saves at most its part.

use super::analysis::{Analysis, Cause};
use super::read::Trace;

/// A smaller part than this is not what a run is bound by.
pub const WORTH_NAMING: f64 = 0.15;
/// A replica slower than the median of the others by this factor is called slow.
pub const SLOW: f64 = 1.25;

/// The sentence, as in "bound by LevelDB reading on rank 1: 41 % of the devices' time goes into …".
pub fn verdict(trace: &Trace, analysis: &Analysis) -> String {
    let shares = analysis.shares();
    let of = |which: fn(Cause) -> bool| -> f64 {
        shares.iter().filter(|(cause, _)| which(*cause)).fold(0.0, |sum, (_, share)| sum + share)
    };
    let compute = of(|cause| cause == Cause::Compute);
    let mut rivals: Vec<(Cause, f64)> = shares
        .iter()
        .filter(|(cause, _)| !matches!(cause, Cause::Compute | Cause::Other))
        .copied()
        .collect();
    // Readers that are slow on several ranks are one cause, named by the worst.
    let data = of(|cause| matches!(cause, Cause::Data(_)));
    if let Some(worst) = rivals.iter_mut().find(|(cause, _)| matches!(cause, Cause::Data(_))) {
        worst.1 = data;
    }
    rivals.sort_by(|a, b| b.1.total_cmp(&a.1));
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    let Some((cause, share)) = rivals.first().filter(|(_, share)| *share >= WORTH_NAMING) else {
        return by_compute(trace, analysis, compute);
    };
    let share = percent(*share);
    let compute = percent(compute);
    match cause {
        Cause::Data(rank) => format!(
            "bound by {} on rank {rank}: {share} of the devices' time goes into waiting for batches, \
             {compute} into computing",
            reading(trace, *rank)
        ),
        Cause::Slow(replica) => by_slow(analysis, *replica, &share),
        Cause::Communication => format!(
            "bound by communication: {share} of the devices' time goes into waiting for exchanges \
             that computing does not hide, {compute} into computing"
        ),
        Cause::Update => format!(
            "bound by the update: {share} of the devices' time goes into the solver's update and \
             pushing it, {compute} into forward and backward"
        ),
        Cause::Snapshot => format!(
            "bound by snapshots: {share} of the devices' time passes while one is written, {compute} \
             goes into computing"
        ),
        _ => format!(
            "bound by testing: {share} of the devices' time goes into tests, {compute} into training"
        ),
    }
}

fn by_compute(trace: &Trace, analysis: &Analysis, compute: f64) -> String {
    let percent = 100.0 * compute;
    let mut text =
        format!("bound by compute: {percent:.0} % of the devices' time is forward and backward");
    let waits = !trace.mode.starts_with("hogwild");
    if let Some((device, _, ratio)) = analysis.stragglers().first().filter(|s| s.2 >= SLOW) {
        text += &format!(
            "; replica {} (rank {}, device {}) takes {ratio:.1}× the others' time for a batch{}",
            device.replica,
            device.rank,
            device.device,
            if waits { "" } else { ", for which hogwild does not wait" }
        );
    }
    text
}

fn by_slow(analysis: &Analysis, replica: usize, share: &str) -> String {
    let stragglers = analysis.stragglers();
    let found = stragglers.iter().find(|(device, ..)| device.replica == replica);
    let (place, ratio) = found.map_or((String::new(), 1.0), |(device, _, ratio)| {
        (format!(" (rank {}, device {})", device.rank, device.device), *ratio)
    });
    format!(
        "bound by the slow replica {replica}{place}: {ratio:.1}× the median; the others spend {share} \
         of all devices' time waiting for it"
    )
}

/// What a rank's readers do, in a word: "LevelDB reading".
fn reading(trace: &Trace, rank: usize) -> String {
    let lanes = trace.ranks.iter().filter(|r| r.rank == rank).flat_map(|r| &r.lanes);
    let about = lanes.filter(|lane| lane.title.starts_with("reader")).map(|lane| &lane.about);
    let kind = about.filter_map(|about| about.split_whitespace().next()).next();
    kind.map_or("reading".into(), |kind| format!("{kind} reading"))
}
