//! Rings as a Chrome trace-event file, which Perfetto and `chrome://tracing` open.
//!
//! The file is complete whatever happened: ends whose start has left the ring are dropped,
//! starts without an end are closed at the moment of writing.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::transport::ClockOffset;

use super::ring::{Event, Phase};
use super::{Kind, NO_ITER, Tracer, Traces};

/// What a trace file says besides events.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) rank: usize,
    pub(crate) host: String,
    /// Device actors of each rank; empty when the nodes have not met.
    pub(crate) workers: Vec<usize>,
    pub(crate) mode: String,
    /// This rank's clock beside rank 0's, whenever that was measured.
    pub(crate) clocks: Vec<ClockOffset>,
    /// The run's outcome: staleness and rounds, if it came to its end.
    pub(crate) report: Option<crate::observe::RunReport>,
}

impl Facts {
    fn to_json(&self) -> Value {
        let clocks = self.clocks.iter().map(|clock| {
            json!({"ts": micros(clock.at.as_nanos() as u64), "offset": clock.nanos as f64 / 1e3,
                "error": micros(clock.error)})
        });
        let mut facts = Map::new();
        facts.insert("rank".into(), self.rank.into());
        facts.insert("host".into(), self.host.clone().into());
        facts.insert("workers".into(), self.workers.clone().into());
        facts.insert("mode".into(), self.mode.clone().into());
        facts.insert("clocks".into(), clocks.collect());
        if let Some(report) = &self.report {
            facts.insert("rounds".into(), report.rounds.into());
            facts.insert("round_iters".into(), report.round_iters.into());
            facts.insert("staleness".into(), report.staleness.clone().into());
        }
        Value::Object(facts)
    }
}

/// Writes `DIR/trace-rank-N.json`, through a temporary file.
///
/// # Errors
/// What the file system says, with the path.
pub(crate) fn write(traces: &Traces, dir: &Path, facts: &Facts) -> Result<PathBuf, String> {
    let rank = facts.rank;
    let path = dir.join(format!("trace-rank-{rank}.json"));
    let partial = dir.join(format!(".trace-rank-{rank}.json.partial"));
    let written = std::fs::create_dir_all(dir)
        .and_then(|()| File::create(&partial))
        .and_then(|file| write_to(&mut BufWriter::new(file), traces, facts))
        .and_then(|()| std::fs::rename(&partial, &path));
    match written {
        Ok(()) => Ok(path),
        Err(error) => Err(format!("cannot write the trace {}: {error}", path.display())),
    }
}

fn write_to(out: &mut impl Write, traces: &Traces, facts: &Facts) -> std::io::Result<()> {
    let rank = facts.rank;
    let now = traces.now().as_nanos() as u64;
    let names = traces.names.lock().clone();
    let process = format!("rank {rank} ({})", facts.host);
    let first = json!({"ph": "M", "pid": rank, "tid": 0, "name": "process_name",
        "args": {"name": process}});
    let about = facts.to_json();
    write!(out, "{{\"displayTimeUnit\":\"ms\",\"otherData\":{about},\n\"traceEvents\":[\n{first}")?;
    for (tid, lane) in traces.lanes.lock().iter().enumerate() {
        let title = json!({"ph": "M", "pid": rank, "tid": tid, "name": "thread_name",
            "args": {"name": lane.0.title, "about": *lane.0.about.lock(),
                "dropped": lane.0.ring.lock().dropped()}});
        write!(out, ",\n{title}")?;
        for value in lane_events(lane, &names, rank, tid, now) {
            write!(out, ",\n{value}")?;
        }
    }
    out.write_all(b"\n]}\n")?;
    out.flush()
}

fn lane_events(lane: &Tracer, names: &[String], pid: usize, tid: usize, now: u64) -> Vec<Value> {
    let events = lane.0.ring.lock().ordered();
    let mut values = Vec::with_capacity(events.len());
    let mut nested: Vec<Event> = Vec::new();
    let mut overlapping: Vec<Event> = Vec::new();
    for event in events {
        match event.phase {
            Phase::Begin => nested.push(event),
            Phase::End => {
                if let Some(begin) = nested.pop() {
                    values.push(complete(&begin, event.at, names, pid, tid));
                }
            }
            Phase::Open => overlapping.push(event),
            Phase::Close => {
                let same = |open: &Event| open.kind == event.kind && open.name == event.name;
                if let Some(place) = overlapping.iter().position(same) {
                    values.extend(pair(&overlapping.swap_remove(place), event.at, pid, tid));
                }
            }
        }
    }
    values.extend(nested.iter().map(|begin| complete(begin, now, names, pid, tid)));
    values.extend(overlapping.iter().flat_map(|open| pair(open, now, pid, tid)));
    values
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

fn args(event: &Event) -> Value {
    if event.iter == NO_ITER { json!({}) } else { json!({"iter": event.iter}) }
}

/// A nested span as one "complete" event.
fn complete(begin: &Event, end: u64, names: &[String], pid: usize, tid: usize) -> Value {
    let layer = names.get(begin.name as usize).filter(|_| begin.kind == Kind::Layer);
    let name = layer.map_or(begin.kind.name(), String::as_str);
    json!({"ph": "X", "pid": pid, "tid": tid, "name": name, "cat": begin.kind.name(),
        "ts": micros(begin.at), "dur": micros(end.saturating_sub(begin.at)), "args": args(begin)})
}

/// An overlapping span as a pair of asynchronous events.
fn pair(open: &Event, end: u64, pid: usize, tid: usize) -> [Value; 2] {
    let name = format!("{} {}", open.kind.name(), open.name);
    let one = |phase: &str, at: u64| {
        json!({"ph": phase, "pid": pid, "tid": tid, "name": name, "cat": open.kind.name(),
            "id": format!("{}-{}-{}", pid, open.kind.name(), open.name),
            "ts": micros(at), "args": args(open)})
    };
    [one("b", open.at), one("e", end)]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::trace::Wanted;

    #[test]
    fn a_file_with_lost_starts_and_open_spans_is_complete() {
        let traces = {
            let wanted = Wanted { keep: true, layers: true, ..Wanted::default() };
            let clock = Arc::new(crate::SystemClock::default());
            Traces { capacity: 5, ..Traces::new(clock, wanted) }
        };
        let tracer = traces.lane("device 0");
        let conv = tracer.name("conv\"1\"");
        tracer.set_iter(3);
        let lost = tracer.span(Kind::Compute);
        drop(tracer.span(Kind::WaitBatch));
        let _open = tracer.span(Kind::Forward);
        drop(lost);
        drop(tracer.layer(conv));
        tracer.open(Kind::Exchange, 7);

        let dir = tempfile::tempdir().unwrap();
        let path = write(&traces, dir.path(), &Facts { rank: 1, ..Facts::default() }).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let events = json["traceEvents"].as_array().unwrap();
        let named = |name: &str| events.iter().find(|e| e["name"] == name);
        assert!(named("conv\"1\"").is_some_and(|e| e["ph"] == "X" && e["args"]["iter"] == 3));
        let dropped = &named("thread_name").unwrap()["args"]["dropped"];
        assert!(dropped.as_u64().is_some_and(|count| count > 0), "{dropped}");
        assert_eq!(json["otherData"]["rank"], 1);
        assert_eq!(events.iter().filter(|e| e["name"] == "exchange 7").count(), 2);
        for event in events.iter().filter(|e| e["ph"] == "X") {
            assert!(event["dur"].as_f64().unwrap() >= 0.0);
        }
    }

    #[test]
    fn an_event_is_cheap() {
        let tracer = Tracer::detached("bench");
        let start = std::time::Instant::now();
        for _ in 0..100_000 {
            drop(tracer.span(Kind::Read));
        }
        let each = start.elapsed().as_nanos() / 200_000;
        println!("{each} ns an event");
        assert!(each < 20_000, "an event costs {each} ns");
    }
}
