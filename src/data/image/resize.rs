//! Bilinear interpolation as in OpenCV's `resize` (INTER_LINEAR) for bytes.
//!
//! Pixel centres lie at half numbers: column x of the result is at (x + ½) · scale − ½ in the
//! source, clamped to it, and its value is the mix of the two neighbours there. Nothing is smoothed
//! when shrinking. Weights are multiples of 1/2048, as OpenCV's are for bytes; rounding happens once,
//! after both directions. `tests/images.rs` holds it to OpenCV's own results.

use super::Raster;

/// The weights of a pair of neighbours add up to this.
const ONE: i32 = 1 << BITS;
const BITS: i32 = 11;

/// Where a row or column of the result lies: the first neighbour, the second, its weight.
#[derive(Clone, Copy)]
struct Tap {
    first: usize,
    second: usize,
    weight: i32,
}

pub(super) fn resize(source: &Raster, height: usize, width: usize) -> Raster {
    let n = source.channels;
    let (rows, columns) = (taps(source.height, height), taps(source.width, width));
    let mut pixels = Vec::with_capacity(height * width * n);
    // The two source rows in use, interpolated sideways; they serve several rows when enlarging.
    let mut above = Line::default();
    let mut below = Line::default();
    for row in rows {
        if below.row == Some(row.first) {
            std::mem::swap(&mut above, &mut below);
        }
        above.fill(source, row.first, &columns);
        below.fill(source, row.second, &columns);
        let half = 1 << (2 * BITS - 1);
        pixels.extend(above.values.iter().zip(&below.values).map(|(&a, &b)| {
            ((a * (ONE - row.weight) + b * row.weight + half) >> (2 * BITS)) as u8
        }));
    }
    Raster { height, width, channels: n, pixels }
}

/// A source row interpolated sideways, in units of 1/2048.
#[derive(Default)]
struct Line {
    row: Option<usize>,
    values: Vec<i32>,
}

impl Line {
    fn fill(&mut self, source: &Raster, row: usize, columns: &[Tap]) {
        if self.row.replace(row) == Some(row) {
            return;
        }
        let n = source.channels;
        let pixels = &source.pixels[row * source.width * n..][..source.width * n];
        self.values.clear();
        for tap in columns {
            let [first, second] = [tap.first, tap.second].map(|x| &pixels[x * n..][..n]);
            self.values.extend(
                first
                    .iter()
                    .zip(second)
                    .map(|(&a, &b)| i32::from(a) * (ONE - tap.weight) + i32::from(b) * tap.weight),
            );
        }
    }
}

fn taps(from: usize, to: usize) -> Vec<Tap> {
    let scale = from as f64 / to as f64;
    let last = from - 1;
    let tap = |i: usize| {
        let place = (((i as f64 + 0.5) * scale - 0.5) as f32).clamp(0.0, last as f32);
        let first = (place as usize).min(last);
        let weight = ((place - first as f32) * ONE as f32).round_ties_even() as i32;
        Tap { first, second: (first + 1).min(last), weight }
    };
    (0..to).map(tap).collect()
}
