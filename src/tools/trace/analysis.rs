//! Where the devices' time went, and whose doing it was.
//!
//! Each device's time is a row of spans that do not overlap. What a span says is where the time
//! went; for a wait that is not yet why. A wait for the gradient is split at the moment at which
//! the last replica that it waited for had computed: before it, the time belongs to what *that*
//! replica did meanwhile (it computed for longer, or waited for its own data), after it, to the
//! exchange. Time without a span belongs to the snapshot or test that goes on elsewhere.

use std::collections::BTreeMap;

use super::read::{Activity, Lane, Span, Trace};

/// Why a device's time passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Forward and backward.
    Compute,
    /// Reading on this rank is too slow.
    Data(usize),
    /// Others waited while this replica computed.
    Slow(usize),
    /// Exchanges that nothing hides.
    Communication,
    /// The solver's update and its way into the node's weights.
    Update,
    /// Somebody wrote a snapshot.
    Snapshot,
    /// Testing.
    Test,
    /// All else: drained points, starts of segments, gaps.
    Other,
}

/// One device's row of the table.
#[derive(Clone, Debug)]
pub struct DeviceTime {
    /// Its node.
    pub rank: usize,
    /// Its device on that node.
    pub device: usize,
    /// Its number in the job.
    pub replica: usize,
    /// Seconds by cause.
    pub causes: BTreeMap<Cause, f64>,
    /// Seconds of each batch, in order.
    pub batches: Vec<f64>,
}

impl DeviceTime {
    /// Seconds of all causes that `which` picks.
    pub fn seconds(&self, which: impl Fn(Cause) -> bool) -> f64 {
        self.causes.iter().filter(|(cause, _)| which(**cause)).fold(0.0, |sum, (_, s)| sum + s)
    }
}

/// A run's time.
#[derive(Clone, Debug)]
pub struct Analysis {
    /// Training's begin and end, seconds on rank 0's clock.
    pub window: (f64, f64),
    /// Iterations in it.
    pub iterations: u64,
    /// By replica.
    pub devices: Vec<DeviceTime>,
}

/// A device's place and spans.
struct Row<'a> {
    rank: usize,
    device: usize,
    replica: usize,
    lane: &'a Lane,
}

impl Analysis {
    /// Looks at a run; `None` when its devices did nothing.
    pub fn of(trace: &Trace) -> Option<Analysis> {
        let rows = rows(trace);
        let window = window(&rows)?;
        let iters = rows
            .iter()
            .flat_map(|row| &row.lane.spans)
            .filter(|span| span.what == Activity::Compute && span.end > window.0);
        let iters: Vec<u64> = iters.filter_map(|span| span.iter).collect();
        let first = iters.iter().min().copied().unwrap_or(0);
        let iterations = iters.iter().max().map_or(0, |last| last - first + 1);
        let books = Books {
            elsewhere: Elsewhere::of(trace),
            done: finished(&rows),
            rows: &rows,
            seldom: trace.mode.starts_with("local-sgd"),
        };
        let devices = (0..rows.len()).map(|row| books.device(row, window)).collect();
        Some(Analysis { window, iterations, devices })
    }

    /// Seconds of all devices together.
    pub fn device_seconds(&self) -> f64 {
        (self.window.1 - self.window.0) * self.devices.len() as f64
    }

    /// Parts of all devices' time by cause, largest first.
    pub fn shares(&self) -> Vec<(Cause, f64)> {
        let mut sums: BTreeMap<Cause, f64> = BTreeMap::new();
        for (cause, seconds) in self.devices.iter().flat_map(|device| &device.causes) {
            *sums.entry(*cause).or_default() += seconds;
        }
        let all = self.device_seconds().max(f64::MIN_POSITIVE);
        let mut shares: Vec<_> = sums.into_iter().map(|(cause, s)| (cause, s / all)).collect();
        shares.sort_by(|a, b| b.1.total_cmp(&a.1));
        shares
    }

    /// Replicas by the median time of a batch, slowest first, with its ratio to the median of the
    /// others (1 where there are none).
    pub fn stragglers(&self) -> Vec<(&DeviceTime, f64, f64)> {
        let medians: Vec<f64> = self.devices.iter().map(|d| median(d.batches.clone())).collect();
        let mut all: Vec<_> = self
            .devices
            .iter()
            .enumerate()
            .map(|(place, device)| {
                let others = medians.iter().enumerate().filter(|(other, _)| *other != place);
                let others = median(others.map(|(_, m)| *m).collect());
                let ratio = if others > 0.0 { medians[place] / others } else { 1.0 };
                (device, medians[place], ratio)
            })
            .collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        all
    }
}

/// The middle value, of an even number the lower one; 0 of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

fn rows(trace: &Trace) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for rank in &trace.ranks {
        for lane in &rank.lanes {
            let number = lane.title.strip_prefix("device ").and_then(|n| n.parse::<usize>().ok());
            if let Some(device) = number {
                let replica = trace.first_replica(rank.rank) + device;
                rows.push(Row { rank: rank.rank, device, replica, lane });
            }
        }
    }
    rows
}

/// From the first batch to the last thing a device did for training; later where a ring has lost
/// its beginning.
fn window(rows: &[Row<'_>]) -> Option<(f64, f64)> {
    let trains = |span: &&Span| !matches!(span.what, Activity::Start | Activity::Drain);
    let starts = rows.iter().filter_map(|row| Some(row.lane.spans.iter().find(trains)?.start));
    let ends = rows.iter().flat_map(|row| row.lane.spans.iter().filter(trains)).map(|s| s.end);
    let lost = rows.iter().filter(|row| row.lane.dropped > 0);
    let known = lost.filter_map(|row| Some(row.lane.spans.first()?.start));
    let begin = starts.fold(f64::INFINITY, f64::min).max(known.fold(f64::NEG_INFINITY, f64::max));
    let end = ends.fold(f64::NEG_INFINITY, f64::max);
    (end > begin).then_some((begin, end))
}

/// When each replica had computed each iteration: (end, row), by iteration.
fn finished(rows: &[Row<'_>]) -> BTreeMap<u64, Vec<(f64, usize)>> {
    let mut done: BTreeMap<u64, BTreeMap<usize, f64>> = BTreeMap::new();
    for (place, row) in rows.iter().enumerate() {
        for span in row.lane.spans.iter().filter(|span| span.what == Activity::Compute) {
            if let Some(iter) = span.iter {
                done.entry(iter).or_default().insert(place, span.end);
            }
        }
    }
    done.into_iter()
        .map(|(iter, ends)| (iter, ends.into_iter().map(|(row, end)| (end, row)).collect()))
        .collect()
}

/// When anybody tested or wrote a snapshot.
struct Elsewhere {
    snapshots: Vec<(f64, f64)>,
    tests: Vec<(f64, f64)>,
}

impl Elsewhere {
    fn of(trace: &Trace) -> Elsewhere {
        let lanes = || trace.ranks.iter().flat_map(|rank| &rank.lanes);
        let all = |what: Activity| {
            union(lanes().flat_map(|lane| &lane.spans).filter(|s| s.what == what).collect())
        };
        Elsewhere { snapshots: all(Activity::Snapshot), tests: all(Activity::Test) }
    }
}

fn union(mut spans: Vec<&Span>) -> Vec<(f64, f64)> {
    spans.sort_by(|a, b| a.start.total_cmp(&b.start));
    let mut joined: Vec<(f64, f64)> = Vec::new();
    for span in spans {
        match joined.last_mut() {
            Some(last) if span.start <= last.1 => last.1 = last.1.max(span.end),
            _ => joined.push((span.start, span.end)),
        }
    }
    joined
}

fn overlap(pieces: &[(f64, f64)], from: f64, to: f64) -> f64 {
    let first = pieces.partition_point(|piece| piece.1 <= from);
    let some = pieces[first..].iter().take_while(|piece| piece.0 < to);
    some.map(|piece| piece.1.min(to) - piece.0.max(from)).sum()
}

struct Books<'a> {
    rows: &'a [Row<'a>],
    done: BTreeMap<u64, Vec<(f64, usize)>>,
    elsewhere: Elsewhere,
    /// Nodes exchange only now and then (`local-sgd`).
    seldom: bool,
}

impl Books<'_> {
    fn device(&self, place: usize, (from, to): (f64, f64)) -> DeviceTime {
        let row = &self.rows[place];
        let mut causes = BTreeMap::new();
        let mut batches = Vec::new();
        let mut at = from;
        for span in &row.lane.spans {
            let seconds = span.within(at, to);
            if span.what == Activity::Compute && span.start >= from {
                batches.push(span.length());
            }
            if span.end <= at {
                continue;
            }
            self.gap(at, span.start.clamp(at, to), &mut causes);
            if seconds > 0.0 {
                let piece = Span { start: span.start.max(at), end: span.end.min(to), ..*span };
                self.enter(place, &piece, &mut causes);
            }
            at = span.end.clamp(at, to);
        }
        self.gap(at, to, &mut causes);
        let Row { rank, device, replica, .. } = *row;
        DeviceTime { rank, device, replica, causes, batches }
    }

    /// Time in which a device did nothing of its own.
    fn gap(&self, from: f64, to: f64, causes: &mut BTreeMap<Cause, f64>) {
        if to <= from {
            return;
        }
        let snapshot = overlap(&self.elsewhere.snapshots, from, to);
        let test = overlap(&self.elsewhere.tests, from, to).min(to - from - snapshot);
        add(causes, Cause::Snapshot, snapshot);
        add(causes, Cause::Test, test);
        add(causes, Cause::Other, to - from - snapshot - test);
    }

    fn enter(&self, place: usize, span: &Span, causes: &mut BTreeMap<Cause, f64>) {
        let seconds = span.length();
        let cause = match span.what {
            Activity::Compute => Cause::Compute,
            Activity::WaitData => Cause::Data(self.rows[place].rank),
            Activity::WaitTicket => Cause::Communication,
            Activity::Update | Activity::Push => Cause::Update,
            Activity::Snapshot => Cause::Snapshot,
            Activity::Test => Cause::Test,
            Activity::WaitGradient => return self.gradient(place, span, causes),
            Activity::WaitTurn => return self.turn(place, span, causes),
            _ => Cause::Other,
        };
        add(causes, cause, seconds);
    }

    /// A wait for the gradient: first for the last replica to compute, then for the exchange.
    fn gradient(&self, place: usize, span: &Span, causes: &mut BTreeMap<Cause, f64>) {
        let ends = span.iter.and_then(|iter| self.done.get(&iter)).into_iter().flatten();
        // A bucket may come while its last replica still computes the rest of its gradient; but a
        // replica of another node, where nodes seldom meet, was not waited for then.
        let waited_for = |(end, row): &&(f64, usize)| {
            let near = !self.seldom || self.rows[*row].rank == self.rows[place].rank;
            *row != place && *end > span.start && (near || *end <= span.end)
        };
        let until = match ends.filter(waited_for).max_by(|a, b| a.0.total_cmp(&b.0)) {
            Some((end, row)) => {
                let until = end.min(span.end);
                self.blame(*row, span.start, until, causes);
                until
            }
            None => span.start,
        };
        add(causes, Cause::Communication, span.end - until);
    }

    /// Time in which a device waited for another one: belongs to what that one did.
    fn blame(&self, culprit: usize, from: f64, to: f64, causes: &mut BTreeMap<Cause, f64>) {
        let row = &self.rows[culprit];
        let spans = &row.lane.spans;
        let first = spans.partition_point(|span| span.end <= from);
        let mut rest = to - from;
        for span in spans[first..].iter().take_while(|span| span.start < to) {
            let cause = match span.what {
                Activity::Compute => Cause::Slow(row.replica),
                Activity::WaitData => Cause::Data(row.rank),
                Activity::Update | Activity::Push => Cause::Update,
                Activity::Snapshot => Cause::Snapshot,
                Activity::Test => Cause::Test,
                Activity::WaitGradient | Activity::WaitTicket | Activity::WaitTurn => {
                    Cause::Communication
                }
                _ => Cause::Other,
            };
            let seconds = span.within(from, to);
            add(causes, cause, seconds);
            rest -= seconds;
        }
        add(causes, Cause::Other, rest.max(0.0));
    }

    /// A wait for slower replicas: for the one that worked through most of it.
    fn turn(&self, place: usize, wait: &Span, causes: &mut BTreeMap<Cause, f64>) {
        let works = |row: &Row<'_>| -> f64 {
            let spans = &row.lane.spans;
            let first = spans.partition_point(|span| span.end <= wait.start);
            let some = spans[first..].iter().take_while(|span| span.start < wait.end);
            let some = some.filter(|s| matches!(s.what, Activity::Compute | Activity::WaitData));
            some.map(|span| span.within(wait.start, wait.end)).sum()
        };
        let others = self.rows.iter().enumerate().filter(|(other, _)| *other != place);
        match others.max_by(|a, b| works(a.1).total_cmp(&works(b.1))) {
            Some((culprit, _)) => self.blame(culprit, wait.start, wait.end, causes),
            None => add(causes, Cause::Other, wait.length()),
        }
    }
}

fn add(causes: &mut BTreeMap<Cause, f64>, cause: Cause, seconds: f64) {
    if seconds > 0.0 {
        *causes.entry(cause).or_default() += seconds;
    }
}
