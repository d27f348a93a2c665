//! The numbers in a training log: outputs of train and test nets by iteration, with time and
//! learning rate.
//!
//! Rows and columns are those of Caffe's `parse_log.py`, so that what people plot and compare with
//! stays the same: a row begins with the first output of an iteration, its learning rate is the last
//! one told before it, and the first row, told before any, takes the second one's.
//!
//! ```
//! use caffe::tools::parse_log::parse;
//! let log = "\
//! I1122 23:11:18.000000 1 solver.cpp:289] Solving net
//! I1122 23:11:20.500000 1 solver.cpp:239] Iteration 0 (0 iter/s, 1s/1 iters), loss = 2.5
//! I1122 23:11:20.500000 1 solver.cpp:258]     Train net output #0: loss = 2.5 (* 1 = 2.5 loss)
//! ";
//! let tables = parse(log);
//! assert_eq!(tables.train.rows[0].seconds, 2.5);
//! assert_eq!(tables.train.columns, ["loss"]);
//! ```

use std::fmt::Write;

const DAY: f64 = 86_400.0;

/// What a log tells of the train net and of the test nets.
#[derive(Debug, Default, PartialEq)]
pub struct Tables {
    /// `Train net output` lines.
    pub train: Table,
    /// `Test net output` lines.
    pub test: Table,
    /// `Speed` lines: records per second, and percentages of what device time went into. Logs of
    /// other programs have none.
    pub speed: Table,
}

/// Rows of equal columns.
#[derive(Debug, Default, PartialEq)]
pub struct Table {
    /// Names of the outputs, as they first appear.
    pub columns: Vec<String>,
    /// In the log's order.
    pub rows: Vec<Row>,
}

/// The outputs of one iteration.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Iteration.
    pub iter: u64,
    /// Seconds since the solver began.
    pub seconds: f64,
    /// Learning rate; NaN where the log has not told any.
    pub rate: f64,
    /// One per column; NaN where this row has none.
    pub values: Vec<f64>,
}

/// Reads a log; lines it does not know are passed over.
pub fn parse(log: &str) -> Tables {
    let mut tables = Tables::default();
    let mut clock = Clock::default();
    let (mut iter, mut rate) = (None, f64::NAN);
    // Several test nets may say the same iteration twice: a new announcement is a new row.
    let mut fresh = [true; 2];
    for line in log.lines() {
        let seconds = clock.read(line);
        if let Some(number) = after(line, "Iteration ").and_then(leading_integer) {
            iter = Some(number);
            fresh = [true; 2];
        }
        let Some(iter) = iter else { continue };
        if let Some(told) = after(line, "lr = ").and_then(leading_number) {
            rate = told;
        }
        if let Some(told) = after(line, "] Speed: ") {
            tables.speed.rows.push(Row { iter, seconds, rate, values: Vec::new() });
            for (name, value) in speeds(told) {
                tables.speed.put(name, value);
            }
        }
        for (side, mark) in ["Train net output #", "Test net output #"].into_iter().enumerate() {
            let Some((name, value)) = after(line, mark).and_then(output) else { continue };
            let table = if side == 0 { &mut tables.train } else { &mut tables.test };
            if std::mem::take(&mut fresh[side]) || table.rows.is_empty() {
                table.rows.push(Row { iter, seconds, rate, values: Vec::new() });
            }
            table.put(name, value);
        }
    }
    for table in [&mut tables.train, &mut tables.test, &mut tables.speed] {
        table.complete();
    }
    tables
}

impl Table {
    fn put(&mut self, name: &str, value: f64) {
        let known = self.columns.iter().position(|column| column == name);
        let at = known.unwrap_or_else(|| {
            self.columns.push(name.to_owned());
            self.columns.len() - 1
        });
        if let Some(row) = self.rows.last_mut() {
            row.values.resize(row.values.len().max(at + 1), f64::NAN);
            row.values[at] = value;
        }
    }

    fn complete(&mut self) {
        for row in &mut self.rows {
            row.values.resize(self.columns.len(), f64::NAN);
        }
        if let [first, second, ..] = &mut self.rows[..] {
            first.rate = second.rate;
        }
    }

    /// The table as `parse_log.py` writes it: NumIters, Seconds, LearningRate, outputs; numbers
    /// always with a point or exponent.
    pub fn csv(&self, delimiter: char) -> String {
        let mut text = String::from("NumIters");
        for column in
            ["Seconds", "LearningRate"].into_iter().chain(self.columns.iter().map(|c| &**c))
        {
            text.push(delimiter);
            text.push_str(&cell(column, delimiter));
        }
        text.push_str("\r\n");
        for row in &self.rows {
            let _ = write!(text, "{:?}", row.iter as f64);
            for value in [row.seconds, row.rate].iter().chain(&row.values) {
                let _ = match value.is_nan() {
                    true => write!(text, "{delimiter}nan"),
                    false => write!(text, "{delimiter}{value:?}"),
                };
            }
            text.push_str("\r\n");
        }
        text
    }
}

/// A name, in quotes where CSV needs them.
fn cell(name: &str, delimiter: char) -> String {
    match name.contains([delimiter, '"']) {
        true => format!("\"{}\"", name.replace('"', "\"\"")),
        false => name.to_owned(),
    }
}

/// Time since the solver's beginning. Lines have month and day, but no year.
#[derive(Default)]
struct Clock {
    begun: bool,
    /// Of the line before.
    last: f64,
    elapsed: f64,
}

impl Clock {
    /// Seconds at this line; a line without a time has that of the one before.
    fn read(&mut self, line: &str) -> f64 {
        let Some((day, time)) = stamp(line) else { return self.elapsed };
        let now = f64::from(day) * DAY + time;
        // From December to January days count anew; what else runs backwards are threads that log
        // at once.
        let passed = match now - self.last {
            passed if passed < -300.0 * DAY => passed + 372.0 * DAY,
            passed => passed,
        };
        if self.begun {
            self.elapsed += passed;
        }
        self.last = now;
        // Where no line says `Solving`, time begins with the first iteration.
        self.begun |= line.contains("Solving") || line.contains("Iteration ");
        self.elapsed
    }
}

/// Day (31 to every month, which matters only in a run across the end of a shorter one) and second
/// of the day of `I1122 23:11:18.973840 …`.
fn stamp(line: &str) -> Option<(u32, f64)> {
    let mut words = line.split_ascii_whitespace();
    let (date, time) = (words.next()?, words.next()?);
    let digits = date.strip_prefix(['I', 'W', 'E', 'F'])?;
    if digits.len() != 4 {
        return None;
    }
    let month: u32 = digits.get(..2)?.parse().ok()?;
    let day: u32 = digits.get(2..)?.parse().ok()?;
    let mut parts = time.splitn(3, ':').map(|part| part.parse::<f64>().ok());
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    Some((month * 31 + day, (hours * 60.0 + minutes) * 60.0 + seconds))
}

fn after<'a>(line: &'a str, mark: &str) -> Option<&'a str> {
    line.split_once(mark).map(|(_, rest)| rest)
}

fn leading_integer(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

fn leading_number(text: &str) -> Option<f64> {
    text.split([' ', ',', '(']).next()?.parse().ok()
}

/// Name and value of `0: loss = 2.5 (* 1 = 2.5 loss)`.
fn output(text: &str) -> Option<(&str, f64)> {
    let (_, rest) = text.split_once(": ")?;
    let (name, value) = rest.split_once(" = ")?;
    Some((name, leading_number(value)?))
}

/// Names and values of `812.3 img/s on 4 replicas (…); data wait 0.4 %, compute 91.2 %, …`.
fn speeds(text: &str) -> impl Iterator<Item = (&str, f64)> {
    let (head, shares) =
        text.split_once("; data").map_or((text, ""), |(head, _)| (head, &text[head.len() + 2..]));
    let images = leading_number(head).map(|value| ("img/s", value));
    let share = |part: &'static str| {
        let value = after(shares, part)?.trim_start();
        Some((part, leading_number(value)?))
    };
    let names = ["data wait", "compute", "comm exposed", "update"];
    images.into_iter().chain(names.into_iter().filter_map(share))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
I1231 23:59:58.000000 7 solver.cpp:289] Solving net
I1231 23:59:58.500000 7 solver.cpp:347] Iteration 0, Testing net (#0)
I1231 23:59:59.000000 7 solver.cpp:414]     Test net output #0: accuracy = 0.1
I1231 23:59:59.000000 7 solver.cpp:414]     Test net output #1: loss = 2.3 (* 1 = 2.3 loss)
I0101 00:00:00.000000 7 solver.cpp:239] Iteration 0 (0 iter/s, 1s/10 iters), loss = 2.5
I0101 00:00:00.000000 7 solver.cpp:258]     Train net output #0: loss = 2.5 (* 1 = 2.5 loss)
I0101 00:00:00.000000 7 sgd_solver.cpp:112] Iteration 0, lr = 0.01
I0101 00:00:00.000000 7 trainer.cpp:1] Speed: 812.5 img/s on 2 replicas (406.2 each; slowest 400.0: rank 1 device 0); data wait 0.5 %, compute 90.0 %, comm exposed 5.5 %, update 4.0 %
something else
I0101 00:00:02.000000 7 solver.cpp:239] Iteration 10 (5 iter/s, 2s/10 iters), loss = 1e-05
I0101 00:00:02.000000 7 solver.cpp:258]     Train net output #0: loss = 1e-05 (* 1 = 1e-05 loss)
";

    #[test]
    fn rows_are_those_of_the_original_parser() {
        let tables = parse(LOG);
        assert_eq!(
            tables.test.csv(','),
            "NumIters,Seconds,LearningRate,accuracy,loss\r\n0.0,1.0,nan,0.1,2.3\r\n"
        );
        assert_eq!(
            tables.train.csv(','),
            "NumIters,Seconds,LearningRate,loss\r\n0.0,2.0,0.01,2.5\r\n10.0,4.0,0.01,1e-5\r\n"
        );
    }

    #[test]
    fn speeds_are_a_table_of_their_own() {
        assert_eq!(
            parse(LOG).speed.csv(','),
            "NumIters,Seconds,LearningRate,img/s,data wait,compute,comm exposed,update\r\n\
             0.0,2.0,0.01,812.5,0.5,90.0,5.5,4.0\r\n"
        );
    }

    #[test]
    fn a_log_without_numbers_is_empty() {
        assert_eq!(parse("").train.rows.len(), 0);
        assert_eq!(parse("Iteration x\nI12é4 a b\nTest net output #0: a = b").test.rows.len(), 0);
    }
}
