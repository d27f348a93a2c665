//! Log lines in glog's format on standard error: `I1122 23:11:18.973840 13399 solver.cpp:239] …`.
//!
//! File names and sentences are Caffe's where Caffe has one, since people's parsers look for them.
//! A [`Log`] is handed to whoever reports; the engine itself never logs.

use std::fmt;
use std::io::Write;
use std::sync::Arc;

use indicatif::MultiProgress;

/// How serious a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Progress.
    Info,
    /// Something to look at; work goes on.
    Warning,
    /// The reason why work ends.
    Error,
}

/// Where log lines go. Clones write to the same place.
#[derive(Clone, Default)]
pub struct Log {
    /// Progress bars that a line must not cut through.
    bars: Option<Arc<MultiProgress>>,
    quiet: bool,
}

impl Log {
    /// A log on standard error.
    pub fn new() -> Self {
        Self::default()
    }

    /// A log that says nothing: for benchmarks and embedding.
    pub fn quiet() -> Self {
        Log { bars: None, quiet: true }
    }

    /// A log that makes way for these progress bars.
    pub fn beside(bars: MultiProgress) -> Self {
        Log { bars: Some(Arc::new(bars)), quiet: false }
    }

    /// Writes one record; `place` is a file and line such as `solver.cpp:239`.
    pub fn write(&self, level: Level, place: &str, text: impl fmt::Display) {
        if self.quiet {
            return;
        }
        let line = format!("{}{text}\n", head(level, place));
        // A log that cannot be written is no reason to end the work it is about.
        let write = || drop(std::io::stderr().lock().write_all(line.as_bytes()));
        match &self.bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }
    }

    /// An informational line.
    pub fn info(&self, place: &str, text: impl fmt::Display) {
        self.write(Level::Info, place, text);
    }

    /// A warning.
    pub fn warning(&self, place: &str, text: impl fmt::Display) {
        self.write(Level::Warning, place, text);
    }

    /// The reason why work ends.
    pub fn error(&self, place: &str, text: impl fmt::Display) {
        self.write(Level::Error, place, text);
    }
}

/// `I1122 23:11:18.973840 13399 solver.cpp:239] `: level, month and day, local time, thread, place.
fn head(level: Level, place: &str) -> String {
    let letter = match level {
        Level::Info => 'I',
        Level::Warning => 'W',
        Level::Error => 'E',
    };
    let now = jiff::Zoned::now();
    let thread = rustix::thread::gettid().as_raw_nonzero();
    format!("{letter}{} {thread:5} {place}] ", now.strftime("%m%d %H:%M:%S.%6f"))
}

/// A number as C++ streams print it: six significant digits, no trailing zeros.
pub struct G(pub f32);

impl fmt::Display for G {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let x = f64::from(self.0);
        if x == 0.0 || !x.is_finite() {
            return match x.is_nan() {
                true => f.write_str("nan"),
                false => write!(f, "{}", if x == 0.0 { "0".into() } else { x.to_string() }),
            };
        }
        // The exponent after rounding to six digits decides the form, as in C's %g.
        let scientific = format!("{x:.5e}");
        let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        if (-4..6).contains(&exponent) {
            let fixed = format!("{x:.*}", (5 - exponent).max(0) as usize);
            f.write_str(trimmed(&fixed))
        } else {
            let sign = if exponent < 0 { '-' } else { '+' };
            write!(f, "{}e{sign}{:02}", trimmed(digits), exponent.abs())
        }
    }
}

fn trimmed(digits: &str) -> &str {
    match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.'),
        false => digits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_look_as_in_cpp() {
        let g = |x: f32| G(x).to_string();
        assert_eq!(g(0.001), "0.001");
        assert_eq!(g(std::f32::consts::LN_10), "2.30259");
        assert_eq!(g(1e-5), "1e-05");
        assert_eq!(g(0.0), "0");
        assert_eq!(g(100.0), "100");
        assert_eq!(g(1_234_567.0), "1.23457e+06");
        assert_eq!(g(0.000_123_456), "0.000123456");
        assert_eq!(g(999_999.6), "1e+06");
        assert_eq!(g(-0.5), "-0.5");
        assert_eq!(g(f32::NAN), "nan");
        assert_eq!(g(f32::INFINITY), "inf");
    }

    #[test]
    fn lines_have_glogs_head() {
        let head = head(Level::Info, "solver.cpp:239");
        let parts: Vec<&str> = head.split_whitespace().collect();
        assert_eq!(parts.len(), 4, "{head}");
        assert!(parts[0].starts_with('I') && parts[0].len() == 5, "{head}");
        assert_eq!(parts[1].len(), "23:11:18.973840".len(), "{head}");
        assert!(parts[2].parse::<u32>().is_ok(), "{head}");
        assert_eq!(parts[3], "solver.cpp:239]");
    }
}
