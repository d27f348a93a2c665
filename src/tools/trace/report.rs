//! A run's analysis as text: who was busy, who waited for what, and the verdict.

use std::fmt::Write;

use super::analysis::{Analysis, Cause, DeviceTime, median};
use super::read::{Activity, Lane, Rank, Trace};
use super::verdict::{SLOW, verdict};

/// Columns of the devices' table.
const COLUMNS: [&str; 8] =
    ["compute", "data", "comm", "others", "update", "test", "snapshot", "other"];

/// The report; the last line is the verdict.
pub fn report(trace: &Trace) -> String {
    let mut text = String::new();
    let Some(analysis) = Analysis::of(trace) else {
        return "The trace has no device that trained: nothing to report.\n".into();
    };
    // Writing to a String cannot fail.
    let _ = head(&mut text, trace, &analysis);
    let _ = devices(&mut text, &analysis);
    let _ = actors(&mut text, trace, &analysis);
    let _ = replicas(&mut text, trace, &analysis);
    let _ = writeln!(text, "\nVerdict: {}.", verdict(trace, &analysis));
    text
}

fn head(text: &mut String, trace: &Trace, analysis: &Analysis) -> std::fmt::Result {
    let seconds = analysis.window.1 - analysis.window.0;
    let plural =
        |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    writeln!(
        text,
        "{}, {}, mode {}: {seconds:.3} s of training, {} iterations, {:.2} ms each",
        plural(trace.ranks.len(), "rank"),
        plural(analysis.devices.len(), "replica"),
        trace.mode,
        analysis.iterations,
        1e3 * seconds / analysis.iterations.max(1) as f64
    )?;
    if trace.workers.len() > trace.ranks.len() {
        let all = trace.workers.len();
        writeln!(text, "Traces of {} of {all} ranks only.", trace.ranks.len())?;
    }
    let error = trace.ranks.iter().flat_map(|r| &r.clocks).map(|c| c.error).fold(0.0, f64::max);
    if trace.ranks.len() > 1 {
        writeln!(text, "Clocks: one time axis, right within {error:.0} µs{}", drifts(trace))?;
    }
    let lost = trace.ranks.iter().flat_map(|r| r.lanes.iter().map(move |lane| (r, lane)));
    let lost: Vec<String> = lost
        .filter(|(_, lane)| lane.dropped > 0)
        .map(|(rank, lane)| format!("rank {} {} {}", rank.rank, lane.title, lane.dropped))
        .collect();
    match lost.is_empty() {
        true => writeln!(text, "Events lost: none"),
        false => writeln!(text, "Events lost (the oldest): {}", lost.join(", ")),
    }
}

fn drifts(trace: &Trace) -> String {
    let mut words = Vec::new();
    for rank in &trace.ranks {
        if let [first, .., last] = &rank.clocks[..]
            && last.ts > first.ts
            && (last.offset - first.offset).abs() > first.error + last.error
        {
            let drift = (last.offset - first.offset) / (last.ts - first.ts) * 1e6;
            words.push(format!("; rank {} gains {drift:.1} µs a second", rank.rank));
        }
    }
    words.concat()
}

fn column(cause: Cause) -> usize {
    match cause {
        Cause::Compute => 0,
        Cause::Data(_) => 1,
        Cause::Communication => 2,
        Cause::Slow(_) => 3,
        Cause::Update => 4,
        Cause::Test => 5,
        Cause::Snapshot => 6,
        Cause::Other => 7,
    }
}

fn devices(text: &mut String, analysis: &Analysis) -> std::fmt::Result {
    let window = analysis.window.1 - analysis.window.0;
    write!(text, "\n{:<26}{:>7}{:>7}", "Devices: % of the time", "busy", "wait")?;
    for name in COLUMNS {
        write!(text, "{name:>9}")?;
    }
    writeln!(text)?;
    let row = |text: &mut String, title: String, devices: &[&DeviceTime]| {
        let all = window * devices.len() as f64;
        let percent = |which: &dyn Fn(Cause) -> bool| {
            100.0 * devices.iter().fold(0.0, |sum, device| sum + device.seconds(which)) / all
        };
        let waits = |c: Cause| matches!(c, Cause::Data(_) | Cause::Slow(_) | Cause::Communication);
        let works = |c: Cause| matches!(c, Cause::Compute | Cause::Update);
        write!(text, "{title:<26}{:>7.1}{:>7.1}", percent(&works), percent(&waits))?;
        for place in 0..COLUMNS.len() {
            write!(text, "{:>9.1}", percent(&|cause| column(cause) == place))?;
        }
        writeln!(text)
    };
    for device in &analysis.devices {
        row(text, format!("rank {} device {}", device.rank, device.device), &[device])?;
    }
    if analysis.devices.len() > 1 {
        row(text, "all".into(), &analysis.devices.iter().collect::<Vec<_>>())?;
    }
    Ok(())
}

fn actors(text: &mut String, trace: &Trace, analysis: &Analysis) -> std::fmt::Result {
    writeln!(text, "\nOther actors: % of the time")?;
    for rank in &trace.ranks {
        for lane in &rank.lanes {
            let line = match lane.title.split(' ').next() {
                Some("reader") => reader(lane, analysis.window),
                Some("communicator") => communicator(lane, analysis.window),
                Some("pump") if trace.workers.len() > 1 => pump(rank, lane, analysis.window),
                _ => continue,
            };
            writeln!(text, "{:<26}{line}", format!("rank {} {}", rank.rank, lane.title))?;
        }
    }
    Ok(())
}

/// Seconds, and each span's, of one activity in the window.
fn spent(lane: &Lane, what: Activity, (from, to): (f64, f64)) -> (f64, Vec<f64>) {
    let some = lane.spans.iter().filter(|s| s.what == what && s.end > from && s.start < to);
    let lengths: Vec<f64> = some.clone().map(|span| span.length()).collect();
    (some.fold(0.0, |sum, span| sum + span.within(from, to)), lengths)
}

fn percent(seconds: f64, (from, to): (f64, f64)) -> f64 {
    100.0 * seconds / (to - from)
}

fn reader(lane: &Lane, window: (f64, f64)) -> String {
    let (train, batches) = spent(lane, Activity::Read, window);
    let (test, _) = spent(lane, Activity::ReadTest, window);
    let about = if lane.about.is_empty() { "records" } else { &lane.about };
    format!(
        "busy {:.1}: {} batches of {about}, {:.2} ms each (median); test batches {:.1}",
        percent(train + test, window),
        batches.len(),
        1e3 * median(batches.clone()),
        percent(test, window)
    )
}

fn communicator(lane: &Lane, window: (f64, f64)) -> String {
    let (aggregate, _) = spent(lane, Activity::Aggregate, window);
    let (apply, _) = spent(lane, Activity::Apply, window);
    format!(
        "busy {:.1}: adding up replicas {:.1}, adding rounds to the weights {:.1}",
        percent(aggregate + apply, window),
        percent(aggregate, window),
        percent(apply, window)
    )
}

fn pump(rank: &Rank, lane: &Lane, window: (f64, f64)) -> String {
    let (_, sums) = spent(lane, Activity::Exchange, window);
    let (_, headers) = spent(lane, Activity::Header, window);
    let mut under_way: Vec<(f64, f64)> = Vec::new();
    for span in lane.spans.iter().filter(|s| s.what == Activity::Exchange) {
        match under_way.last_mut() {
            Some(last) if span.start <= last.1 => last.1 = last.1.max(span.end),
            _ => under_way.push((span.start, span.end)),
        }
    }
    let clipped = |(a, b): &(f64, f64)| (b.min(window.1) - a.max(window.0)).max(0.0);
    let exchanging = under_way.iter().fold(0.0, |sum, piece| sum + clipped(piece));
    let longest = sums.iter().copied().fold(0.0, f64::max);
    let rounds = match rank.round_iters > 0.0 {
        true => format!("; {} rounds of {:.2} iterations", rank.rounds, rank.round_iters),
        false => String::new(),
    };
    format!(
        "exchanging {:.1}: {} buckets, {:.2} ms each (median), {:.2} ms at most; {} headers, {:.2} ms \
         each{rounds}",
        percent(exchanging, window),
        sums.len(),
        1e3 * median(sums.clone()),
        1e3 * longest,
        headers.len(),
        1e3 * median(headers.clone()),
    )
}

fn replicas(text: &mut String, trace: &Trace, analysis: &Analysis) -> std::fmt::Result {
    writeln!(text, "\nReplicas, slowest first: median time of a batch")?;
    for (device, seconds, ratio) in analysis.stragglers() {
        let mark = if ratio >= SLOW { "  slow" } else { "" };
        writeln!(
            text,
            "{:<26}{:>9.2} ms  {ratio:.2}× the others  {:>6} batches{mark}",
            format!("{} (rank {} device {})", device.replica, device.rank, device.device),
            1e3 * seconds,
            device.batches.len()
        )?;
    }
    for rank in trace.ranks.iter().filter(|rank| rank.staleness.len() > 1) {
        let all: u64 = rank.staleness.iter().sum();
        let sum: u64 = rank.staleness.iter().enumerate().map(|(s, n)| s as u64 * n).sum();
        writeln!(
            text,
            "Staleness of rank {}'s updates: mean {:.2}, at most {}",
            rank.rank,
            sum as f64 / all.max(1) as f64,
            rank.staleness.iter().rposition(|n| *n > 0).unwrap_or(0)
        )?;
    }
    Ok(())
}
