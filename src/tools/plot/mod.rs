//! The chart of training logs: every output of the nets and the learning rate, over iterations and
//! over seconds, several runs in one picture.
//!
//! A run has a colour; its train net is drawn in whole lines, its test net in dashed ones (every other
//! run in dotted and dash-dotted ones, for readers who do not see the colours). What both nets tell
//! under one name shares a panel.
//!
//! ```
//! use caffe::tools::{parse_log::parse, plot::{Options, Run, chart}};
//! let log = "\
//! I1122 23:11:20.500000 1 solver.cpp:239] Iteration 0 (0 iter/s, 1s/1 iters), loss = 2.5
//! I1122 23:11:20.500000 1 solver.cpp:258]     Train net output #0: loss = 2.5 (* 1 = 2.5 loss)
//! ";
//! let run = Run { name: "train.log".into(), tables: parse(log) };
//! let chart = chart(&[run], &Options::default())?;
//! assert_eq!(chart.panels.len(), 2);
//! # Ok::<(), caffe::Error>(())
//! ```

mod mean;

use super::chart::{Axis, Chart, Panel, Scale, Series, Style};
use super::parse_log::{Row, Table, Tables};
use crate::{Result, bail};

pub use mean::mean;

/// A rate that falls by this factor or more is drawn by its logarithm.
const STEEP: f64 = 50.0;

/// Longer runs are told in minutes, and in hours.
const MINUTES: f64 = 600.0;
const HOURS: f64 = 3.0 * 3600.0;

const RATE: &str = "learning rate";

/// A log that has been read.
#[derive(Debug)]
pub struct Run {
    /// In the legend.
    pub name: String,
    /// What the log says.
    pub tables: Tables,
}

/// What is drawn.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Names of outputs, in order; `lr` is the learning rate. Empty: all there are.
    pub outputs: Vec<String>,
    /// The horizontal axes. Empty: both.
    pub over: Vec<Over>,
    /// Losses by their logarithm.
    pub log: bool,
}

/// A horizontal axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Of the solver.
    Iterations,
    /// Since the solver began.
    Seconds,
}

/// What a panel shows.
#[derive(Clone, Copy, PartialEq)]
enum Shown<'a> {
    Output(&'a str),
    Rate,
}

/// The chart of `runs`.
///
/// # Errors
/// Outputs that no log has, or nothing to draw at all.
pub fn chart(runs: &[Run], options: &Options) -> Result<Chart> {
    let shown = shown(runs, &options.outputs)?;
    let over: &[Over] = match &options.over[..] {
        [] => &[Over::Iterations, Over::Seconds],
        some => some,
    };
    let mut panels = Vec::new();
    for &what in &shown {
        for &over in over {
            panels.push(panel(runs, what, over, options.log));
        }
    }
    let title = if let [one] = runs { one.name.clone() } else { String::new() };
    Ok(Chart { title, columns: over.len(), panels })
}

/// Losses first, then the other outputs as they come, then the rate.
fn shown<'a>(runs: &'a [Run], wanted: &'a [String]) -> Result<Vec<Shown<'a>>> {
    let tables = || runs.iter().flat_map(|run| [&run.tables.train, &run.tables.test]);
    let mut names: Vec<&str> = Vec::new();
    for name in tables().flat_map(|table| &table.columns) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let rated = tables().flat_map(|table| &table.rows).any(|row| row.rate.is_finite());
    if names.is_empty() {
        bail!("there is nothing to draw: no log has an output of a net");
    }
    let rate = || rated.then_some(Shown::Rate);
    if wanted.is_empty() {
        names.sort_by_key(|name| !is_loss(name));
        return Ok(names.into_iter().map(Shown::Output).chain(rate()).collect());
    }
    let find = |wanted: &'a String| match names.contains(&wanted.as_str()) {
        true => Ok(Shown::Output(wanted)),
        false if wanted == "lr" && rated => Ok(Shown::Rate),
        false => bail!(
            "no log has an output `{wanted}`; there are {}{}",
            names.join(", "),
            if rated { " and lr" } else { "" }
        ),
    };
    wanted.iter().map(find).collect()
}

fn is_loss(name: &str) -> bool {
    name.to_ascii_lowercase().contains("loss")
}

fn panel(runs: &[Run], what: Shown<'_>, over: Over, log: bool) -> Panel {
    let (label, unit) = across(runs, over);
    let x = |row: &Row| match over {
        Over::Iterations => row.iter as f64,
        Over::Seconds => row.seconds / unit,
    };
    let mut series = Vec::new();
    for (i, run) in runs.iter().enumerate() {
        for (side, table) in [&run.tables.train, &run.tables.test].into_iter().enumerate() {
            let points = match what {
                Shown::Output(name) => points(table, name, x),
                // One net tells the rate: the train net, where there are lines of it.
                Shown::Rate if side == 1 && !run.tables.train.rows.is_empty() => Vec::new(),
                Shown::Rate => table.rows.iter().map(|row| [x(row), row.rate]).collect(),
            };
            if points.iter().any(|p| p[1].is_finite()) {
                let net = ["train", "test"][side];
                let name = if runs.len() > 1 { format!("{}: {net}", run.name) } else { net.into() };
                let style = Style { colour: i, dash: side + 2 * (i % 2) };
                series.push(Series::line(name, points).styled(style));
            }
        }
    }
    let (title, scale) = match what {
        Shown::Output(name) if log && is_loss(name) => (name, Scale::Log),
        Shown::Output(name) => (name, Scale::Linear),
        Shown::Rate if is_steep(&series) => (RATE, Scale::Log),
        Shown::Rate => (RATE, Scale::Linear),
    };
    let y = Axis { scale, ..Axis::linear("") };
    Panel { title: title.into(), x: Axis::linear(label), y, series }
}

/// What stands below a horizontal axis, and how many seconds its unit has.
fn across(runs: &[Run], over: Over) -> (&'static str, f64) {
    if over == Over::Iterations {
        return ("iterations", 1.0);
    }
    let tables = runs.iter().flat_map(|run| [&run.tables.train, &run.tables.test]);
    let longest = tables.flat_map(|t| &t.rows).map(|row| row.seconds).fold(0.0, f64::max);
    match longest {
        s if s > HOURS => ("hours", 3600.0),
        s if s > MINUTES => ("minutes", 60.0),
        _ => ("seconds", 1.0),
    }
}

fn points(table: &Table, name: &str, x: impl Fn(&Row) -> f64) -> Vec<[f64; 2]> {
    let Some(column) = table.columns.iter().position(|c| c == name) else { return Vec::new() };
    table.rows.iter().map(|row| [x(row), row.values[column]]).collect()
}

fn is_steep(series: &[Series]) -> bool {
    let rates = series.iter().flat_map(|s| &s.points).map(|p| p[1]).filter(|r| r.is_finite());
    let (low, high) =
        rates.fold((f64::MAX, 0.0), |(low, high): (f64, f64), r| (low.min(r), high.max(r)));
    low > 0.0 && high / low >= STEEP
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::parse_log::parse;

    /// A run of `n` displays of 100 iterations, a test at every other one.
    fn run(name: &str, n: u32, rate: impl Fn(u32) -> f64) -> Run {
        let mut log = String::from("I0101 00:00:00.000000 1 solver.cpp:289] Solving net\n");
        for i in 0..n {
            let head = format!("I0101 00:{:02}:{:02}.000000 1 solver.cpp:1]", i / 60, i % 60);
            let (iter, loss) = (100 * i, 2.3 / f64::from(1 + i));
            if i % 2 == 0 {
                log += &format!("{head} Iteration {iter}, Testing net (#0)\n");
                log += &format!("{head}     Test net output #0: accuracy = {}\n", 1.0 - loss / 3.0);
                log +=
                    &format!("{head}     Test net output #1: loss = {loss} (* 1 = {loss} loss)\n");
            }
            log += &format!("{head} Iteration {iter} (1 iter/s), loss = {loss}\n");
            log += &format!("{head}     Train net output #0: loss = {loss} (* 1 = {loss} loss)\n");
            log += &format!("{head} Iteration {iter}, lr = {}\n", rate(i));
        }
        Run { name: name.into(), tables: parse(&log) }
    }

    #[test]
    fn every_output_and_the_rate_have_panels_over_both_axes() {
        let runs = [run("a", 10, |_| 0.01), run("b", 20, |i| 0.1f64.powi(i as i32 / 5))];
        let chart = chart(&runs, &Options::default()).unwrap();
        let titles: Vec<&str> = chart.panels.iter().map(|p| p.title.as_str()).collect();
        assert_eq!(titles, ["loss", "loss", "accuracy", "accuracy", RATE, RATE]);
        let names = |i: usize| -> Vec<&str> {
            chart.panels[i].series.iter().map(|s| s.name.as_str()).collect()
        };
        assert_eq!(names(0), ["a: train", "a: test", "b: train", "b: test"]);
        assert_eq!(names(2), ["a: test", "b: test"]);
        assert_eq!(names(4), ["a: train", "b: train"]);
        assert_eq!(chart.panels[0].series[2].points[3], [300.0, 2.3 / 4.0]);
        assert_eq!(chart.panels[1].series[2].points[3], [3.0, 2.3 / 4.0]);
        assert_eq!(chart.panels[4].y.scale, Scale::Log);
        assert_eq!(
            (chart.panels[0].y.scale, chart.panels[1].x.label.as_str()),
            (Scale::Linear, "seconds")
        );
    }

    #[test]
    fn what_is_asked_for_is_drawn_or_named() {
        let runs = [run("a", 700, |_| 0.01)];
        let options = |outputs: &[&str]| Options {
            outputs: outputs.iter().map(|o| (*o).to_owned()).collect(),
            over: vec![Over::Seconds],
            log: true,
        };
        let drawn = chart(&runs, &options(&["lr", "loss"])).unwrap();
        let titles: Vec<&str> = drawn.panels.iter().map(|p| p.title.as_str()).collect();
        assert_eq!((titles, drawn.title.as_str()), (vec![RATE, "loss"], "a"));
        assert_eq!(
            (drawn.panels[1].y.scale, drawn.panels[1].x.label.as_str()),
            (Scale::Log, "minutes")
        );
        let error = chart(&runs, &options(&["acuracy"])).unwrap_err().to_string();
        assert!(error.contains("`acuracy`; there are loss, accuracy and lr"), "{error}");
        let empty = [Run { name: "x".into(), tables: parse("hello") }];
        assert!(chart(&empty, &Options::default()).is_err());
    }
}
