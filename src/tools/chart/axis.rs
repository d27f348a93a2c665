//! From values to places on an axis, and where its ticks stand.

use super::{Axis, Scale};

/// A tick: where, and what is written there.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    pub value: f64,
    pub label: String,
}

/// The values that an axis spans.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Span {
    scale: Scale,
    /// On the scale: logarithms for [`Scale::Log`].
    low: f64,
    high: f64,
}

impl Span {
    /// The span of `values`; `tight` leaves no room at the ends, `zero` takes 0 in.
    pub fn of(axis: &Axis, values: impl Iterator<Item = f64>, tight: bool, zero: bool) -> Span {
        let scale = axis.scale;
        let values = values.filter_map(|v| on_scale(scale, v));
        let names = [-0.5, axis.names.len() as f64 - 0.5];
        let values = values.chain(names.into_iter().filter(|_| !axis.names.is_empty()));
        let values = values.chain((zero && scale == Scale::Linear).then_some(0.0));
        let (mut low, mut high) = values
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        // What begins just behind 0 (seconds, iterations) is shown from 0 on.
        if tight && scale == Scale::Linear && low > 0.0 && low < 0.1 * high {
            low = 0.0;
        }
        let width = high - low;
        // All values are one: a span as wide as the value is large.
        let least = low.abs().max(high.abs()).max(1e-12) * 1e-9;
        if width <= least {
            let half = if scale == Scale::Log { 0.5 } else { 0.5 * low.abs().max(1e-3) };
            (low, high) = (low - half, high + half);
        } else if !tight && axis.names.is_empty() {
            let room = 0.05 * width;
            // 0 is an end of its own: bars and errors do not float above it.
            low = if low == 0.0 && scale == Scale::Linear { 0.0 } else { low - room };
            high += room;
        }
        Span { scale, low, high }
    }

    /// Where a value lies: 0 at the lower end, 1 at the upper one; `None` where it has no place.
    pub fn place(&self, value: f64) -> Option<f64> {
        on_scale(self.scale, value).map(|v| (v - self.low) / (self.high - self.low))
    }

    /// About `wanted` ticks.
    pub fn ticks(&self, axis: &Axis, wanted: usize) -> Vec<Tick> {
        if !axis.names.is_empty() {
            let named = axis.names.iter().enumerate();
            return named.map(|(i, n)| Tick { value: i as f64, label: n.clone() }).collect();
        }
        match self.scale {
            Scale::Linear => linear(self.low, self.high, wanted),
            Scale::Log => logarithmic(self.low, self.high, wanted),
        }
    }
}

fn on_scale(scale: Scale, value: f64) -> Option<f64> {
    let value = match scale {
        Scale::Linear => value,
        Scale::Log if value > 0.0 => value.log10(),
        Scale::Log => return None,
    };
    value.is_finite().then_some(value)
}

/// Multiples of 1, 2 or 5 times a power of ten.
fn linear(low: f64, high: f64, wanted: usize) -> Vec<Tick> {
    let rough = (high - low) / wanted.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= rough * 0.999);
    let step = step.unwrap_or(10.0 * power);
    let (first, last) = ((low / step - 1e-6).ceil(), (high / step + 1e-6).floor());
    let largest = low.abs().max(high.abs());
    // Whatever the span, no more than a page holds.
    let count = ((last - first).max(0.0) as usize).min(100);
    let values = (0..=count).map(|i| (first + i as f64) * step);
    values.map(|value| Tick { value, label: written(value, step, largest) }).collect()
}

/// Powers of ten, with 2 and 5 between them where there are few, or linear ticks where there are
/// none.
fn logarithmic(low: f64, high: f64, wanted: usize) -> Vec<Tick> {
    let decades = high - low;
    if decades < 0.7 {
        return linear(10f64.powf(low), 10f64.powf(high), wanted);
    }
    let marks: &[f64] =
        if decades * 3.0 <= 1.5 * wanted as f64 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let every = (decades / wanted.max(1) as f64).ceil().max(1.0) as i32;
    let (first, last) = (low.floor() as i32, high.ceil() as i32);
    let powers = (first..=last).filter(|p| marks.len() > 1 || p.rem_euclid(every) == 0);
    let values = powers.flat_map(|p| marks.iter().map(move |m| m * 10f64.powi(p)));
    let inside = values.filter(|v| (low - 1e-6..=high + 1e-6).contains(&v.log10()));
    inside.map(|value| Tick { value, label: written(value, value, value) }).collect()
}

/// A number as ticks show it, exact to the digit of `step`, where the axis goes up to `largest`.
fn written(value: f64, step: f64, largest: f64) -> String {
    if value.abs() < step * 1e-6 {
        return "0".to_owned();
    }
    // The digit of the step: its power of ten; logarithms of 0.001 and the like fall a hair short.
    let digit = (step.abs().log10() + 1e-9).floor();
    match largest {
        l if !(1e-3..1e15).contains(&l) => {
            let digits = (value.abs().log10() + 1e-9).floor() - digit;
            format!("{value:.*e}", digits.clamp(0.0, 9.0) as usize)
        }
        l if l >= 1e9 => scaled(value, 1e9, digit - 9.0, "G"),
        l if l >= 1e6 => scaled(value, 1e6, digit - 6.0, "M"),
        l if l >= 1e4 => scaled(value, 1e3, digit - 3.0, "k"),
        _ => scaled(value, 1.0, digit, ""),
    }
}

fn scaled(value: f64, unit: f64, digit: f64, suffix: &str) -> String {
    format!("{:.*}{suffix}", (-digit).clamp(0.0, 9.0) as usize, value / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis, values: &[f64], wanted: usize) -> Vec<String> {
        let span = Span::of(axis, values.iter().copied(), true, false);
        span.ticks(axis, wanted).into_iter().map(|tick| tick.label).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        let line = Axis::linear("");
        assert_eq!(labels(&line, &[0.0, 5000.0], 5), ["0", "1000", "2000", "3000", "4000", "5000"]);
        assert_eq!(labels(&line, &[0.0, 60_000.0], 3), ["0", "20k", "40k", "60k"]);
        assert_eq!(labels(&line, &[0.12, 0.71], 4), ["0.2", "0.4", "0.6"]);
        assert_eq!(labels(&line, &[-1.0, 1.0], 2), ["-1", "0", "1"]);
        assert_eq!(labels(&line, &[1e-5, 3e-5], 2), ["1e-5", "2e-5", "3e-5"]);
        let millions = ["0", "0.5M", "1.0M", "1.5M", "2.0M", "2.5M"];
        assert_eq!(labels(&line, &[0.0, 2.5e6], 5), millions);
        let decades = ["1e-4", "0.001", "0.01", "0.1", "1"];
        assert_eq!(labels(&Axis::log(""), &[1e-4, 1.0], 5), decades);
        assert_eq!(labels(&Axis::log(""), &[1.0, 10.0], 5), ["1", "2", "5", "10"]);
    }

    #[test]
    fn any_values_give_an_axis() {
        let odd = [f64::NAN, f64::INFINITY, 0.0, -1.0, 1e300, -1e300, 1e-300, 5.0];
        for axis in [Axis::linear(""), Axis::log("")] {
            for a in odd {
                for b in odd {
                    let span = Span::of(&axis, [a, b].into_iter(), false, false);
                    let ticks = span.ticks(&axis, 5);
                    assert!(ticks.len() <= 101, "{a} {b}");
                    for tick in ticks {
                        let place = span.place(tick.value).unwrap();
                        assert!((-0.01..=1.01).contains(&place), "{a} {b} {tick:?} {place}");
                    }
                }
            }
        }
    }
}
