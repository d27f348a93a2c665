//! Trace files of ranks, and their times on rank 0's clock.
//!
//! A file tells how far its rank's clock was ahead of rank 0's at the start and at the end of the
//! run, each with a bound of the error; between the two the offset is taken to change evenly.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, bail, ensure};

/// One event of a Chrome trace, as far as ours have fields.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Event {
    pub(super) ph: String,
    pub(super) pid: usize,
    #[serde(default)]
    pub(super) tid: usize,
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) cat: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ts: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) dur: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    #[serde(default)]
    pub(super) args: Args,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Args {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) iter: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) about: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) dropped: Option<u64>,
}

/// What a rank's file says besides events.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Facts {
    pub(super) rank: usize,
    pub(super) host: String,
    #[serde(default)]
    pub(super) workers: Vec<usize>,
    #[serde(default)]
    pub(super) mode: String,
    #[serde(default)]
    pub(super) clocks: Vec<Offset>,
    #[serde(default)]
    pub(super) staleness: Vec<u64>,
    #[serde(default)]
    pub(super) rounds: u64,
    #[serde(default)]
    pub(super) round_iters: f64,
}

/// A rank's clock beside rank 0's: microseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
pub struct Offset {
    /// When, on the rank's own clock.
    pub ts: f64,
    /// Its clock minus rank 0's.
    pub offset: f64,
    /// By how much `offset` may be wrong at most.
    pub error: f64,
}

/// A rank's file.
#[derive(Debug, Deserialize)]
pub(super) struct File {
    #[serde(rename = "otherData", default)]
    pub(super) facts: Option<Facts>,
    #[serde(rename = "traceEvents")]
    pub(super) events: Vec<Event>,
}

impl File {
    /// Reads one file and moves its times to rank 0's clock.
    fn open(path: &Path) -> Result<(Facts, Vec<Event>)> {
        let bytes = std::fs::read(path).map_err(|e| Error::file(path, e))?;
        let file: File = serde_json::from_slice(&bytes).map_err(|e| {
            Error::Invalid(format!(
                "`{}` is no trace of `caffe train --trace`: {e}",
                path.display()
            ))
        })?;
        let Some(facts) = file.facts else {
            bail!(
                "`{}` does not say which rank it is of; it is no trace of `caffe train --trace`, or \
                 already merged",
                path.display()
            );
        };
        let mut events = file.events;
        for event in &mut events {
            if let Some(at) = &mut event.ts {
                let end = *at + event.dur.unwrap_or(0.0);
                let start = on_rank_0(&facts.clocks, *at);
                event.dur = event.dur.map(|_| on_rank_0(&facts.clocks, end) - start);
                *at = start;
            }
        }
        Ok((facts, events))
    }
}

/// A rank's time on rank 0's clock.
fn on_rank_0(clocks: &[Offset], at: f64) -> f64 {
    let offset = match clocks {
        [] => 0.0,
        [only] => only.offset,
        [first, .., last] if last.ts > first.ts => {
            let passed = (at - first.ts) / (last.ts - first.ts);
            first.offset + (last.offset - first.offset) * passed
        }
        [first, ..] => first.offset,
    };
    at - offset
}

/// What a span of an actor is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Activity {
    /// Building replicas, opening sources, meeting.
    Start,
    /// Forward and backward.
    Compute,
    /// A device waits for a batch.
    WaitData,
    /// A device waits for the job's gradient.
    WaitGradient,
    /// A device waits for its node's next ticket.
    WaitTicket,
    /// A device waits for slower replicas to come up (`ssp`).
    WaitTurn,
    /// The solver's update.
    Update,
    /// An update's way into the node's weights.
    Push,
    /// Testing, and waiting for test batches.
    Test,
    /// Writing a snapshot.
    Snapshot,
    /// Averaging and comparing at drained points.
    Drain,
    /// A reader fills a train batch.
    Read,
    /// A reader fills a test batch.
    ReadTest,
    /// A communicator adds up its replicas' gradients or updates.
    Aggregate,
    /// A communicator adds a round's sum to the weights.
    Apply,
    /// A bucket travels.
    Exchange,
    /// A header travels.
    Header,
}

impl Activity {
    /// By the word in the trace; `None` for what is part of something else.
    pub fn of(word: &str) -> Option<Activity> {
        Some(match word {
            "start" => Activity::Start,
            "compute" => Activity::Compute,
            "wait for a batch" => Activity::WaitData,
            "wait for the gradient" => Activity::WaitGradient,
            "wait for a ticket" => Activity::WaitTicket,
            "wait for slower replicas" => Activity::WaitTurn,
            "update" => Activity::Update,
            "push" => Activity::Push,
            "test" | "wait for a test batch" => Activity::Test,
            "snapshot" => Activity::Snapshot,
            "drain" | "verify" => Activity::Drain,
            "read" => Activity::Read,
            "read test batch" => Activity::ReadTest,
            "aggregate" => Activity::Aggregate,
            "apply" => Activity::Apply,
            "exchange" => Activity::Exchange,
            "header" => Activity::Header,
            _ => return None,
        })
    }
}

/// A stretch of time; seconds on rank 0's clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// What.
    pub what: Activity,
    /// When it began.
    pub start: f64,
    /// When it ended.
    pub end: f64,
    /// The iteration it is about.
    pub iter: Option<u64>,
}

impl Span {
    /// Seconds.
    pub fn length(&self) -> f64 {
        self.end - self.start
    }

    /// Seconds of it between two times.
    pub fn within(&self, from: f64, to: f64) -> f64 {
        (self.end.min(to) - self.start.max(from)).max(0.0)
    }
}

/// One actor's spans, in order of their starts. Only a pump's overlap.
#[derive(Clone, Debug, Default)]
pub struct Lane {
    /// The actor, as in "device 0".
    pub title: String,
    /// What it works on, as in "LevelDB train_leveldb"; may be empty.
    pub about: String,
    /// Oldest events that are not in the file any more.
    pub dropped: u64,
    /// What it did.
    pub spans: Vec<Span>,
}

/// One rank.
#[derive(Clone, Debug, Default)]
pub struct Rank {
    /// Its number.
    pub rank: usize,
    /// Its host.
    pub host: String,
    /// How its clock stood to rank 0's.
    pub clocks: Vec<Offset>,
    /// Its actors.
    pub lanes: Vec<Lane>,
    /// Its updates by staleness; empty where no mode has any.
    pub staleness: Vec<u64>,
    /// Rounds between nodes that carried data.
    pub rounds: u64,
    /// Their mean length in iterations; 0 where it has no meaning.
    pub round_iters: f64,
}

/// A run.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// As the trainer calls it.
    pub mode: String,
    /// Device actors of each rank of the job, those without a file included.
    pub workers: Vec<usize>,
    /// In order of rank.
    pub ranks: Vec<Rank>,
}

impl Trace {
    /// Reads the traces of a run: folders with files of `--trace`, or such files.
    ///
    /// # Errors
    /// Nothing there, a file that is no such trace, or a rank that is there twice.
    pub fn read(paths: &[PathBuf]) -> Result<Trace> {
        let mut trace = Trace::default();
        for path in files(paths)? {
            let (facts, events) = File::open(&path)?;
            ensure!(
                trace.ranks.iter().all(|rank| rank.rank != facts.rank),
                "`{}` is a second trace of rank {}; give the files of one run only",
                path.display(),
                facts.rank
            );
            if facts.workers.len() > trace.workers.len() {
                trace.workers.clone_from(&facts.workers);
            }
            trace.mode.clone_from(&facts.mode);
            trace.ranks.push(rank_of(facts, events));
        }
        trace.ranks.sort_by_key(|rank| rank.rank);
        Ok(trace)
    }

    /// Number in the job of a rank's first replica.
    pub fn first_replica(&self, rank: usize) -> usize {
        self.workers.iter().take(rank).sum()
    }
}

/// Files as given; of a folder, its files of ranks.
pub(super) fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        if !path.is_dir() {
            found.push(path.clone());
            continue;
        }
        let entries = std::fs::read_dir(path).map_err(|e| Error::file(path, e))?;
        let before = found.len();
        for entry in entries {
            let file = entry.map_err(|e| Error::file(path, e))?.path();
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("trace-rank-") && name.ends_with(".json") {
                found.push(file);
            }
        }
        ensure!(
            found.len() > before,
            "`{}` holds no trace-rank-N.json; `caffe train --trace={}` writes one per rank",
            path.display(),
            path.display()
        );
    }
    found.sort();
    Ok(found)
}

/// The events of each file, on one time axis, with the rank they are of.
pub(super) fn events(paths: &[PathBuf]) -> Result<Vec<(Facts, Vec<Event>)>> {
    files(paths)?.iter().map(|path| File::open(path)).collect()
}

fn rank_of(facts: Facts, events: Vec<Event>) -> Rank {
    let mut lanes: Vec<Lane> = Vec::new();
    let mut open: Vec<(usize, String, Span)> = Vec::new();
    for event in events {
        if event.name == "process_name" {
            continue;
        }
        if lanes.len() <= event.tid {
            lanes.resize_with(event.tid + 1, Lane::default);
        }
        let lane = &mut lanes[event.tid];
        let start = event.ts.unwrap_or(0.0) / 1e6;
        match (event.ph.as_str(), Activity::of(&event.cat)) {
            ("M", _) => {
                lane.title = event.args.name.unwrap_or_default();
                lane.about = event.args.about.unwrap_or_default();
                lane.dropped = event.args.dropped.unwrap_or(0);
            }
            ("X", Some(what)) => {
                let end = start + event.dur.unwrap_or(0.0) / 1e6;
                lane.spans.push(Span { what, start, end, iter: event.args.iter });
            }
            ("b", Some(what)) => {
                let span = Span { what, start, end: start, iter: event.args.iter };
                open.push((event.tid, event.name, span));
            }
            ("e", Some(_)) => {
                let same = |(tid, name, _): &(usize, String, Span)| {
                    *tid == event.tid && *name == event.name
                };
                if let Some(place) = open.iter().position(same) {
                    let span = open.swap_remove(place).2;
                    lane.spans.push(Span { end: start, ..span });
                }
            }
            _ => {}
        }
    }
    for lane in &mut lanes {
        lane.spans.sort_by(|a, b| a.start.total_cmp(&b.start));
    }
    Rank {
        rank: facts.rank,
        host: facts.host,
        clocks: facts.clocks,
        lanes,
        staleness: facts.staleness,
        rounds: facts.rounds,
        round_iters: facts.round_iters,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_lie_between_two_measurements() {
        let clocks = [
            Offset { ts: 1000.0, offset: 100.0, error: 5.0 },
            Offset { ts: 2000.0, offset: 110.0, error: 5.0 },
        ];
        assert_eq!(on_rank_0(&clocks, 1500.0), 1395.0);
        assert_eq!(on_rank_0(&clocks[..1], 1500.0), 1400.0);
        assert_eq!(on_rank_0(&[], 1500.0), 1500.0);
    }
}
