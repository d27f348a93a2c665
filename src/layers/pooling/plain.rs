//! The plain path: window by window, planes in parallel.

use super::Windows;
use super::window::Window;
use crate::device::cpu::threads::Threads;

/// Place of an output whose window holds no element.
pub const NOWHERE: u32 = u32::MAX;

/// The windows of a plane.
#[derive(Clone, Debug, Default)]
pub struct Planes {
    rows: Windows,
    columns: Windows,
}

impl Planes {
    /// Windows that stand in these rows and columns.
    pub fn new(rows: Windows, columns: Windows) -> Self {
        Planes { rows, columns }
    }

    /// Rows and columns of windows.
    pub fn positions(&self) -> (usize, usize) {
        (self.rows.each.len(), self.columns.each.len())
    }

    /// Whether some window holds no element.
    pub fn any_empty(&self) -> bool {
        let empty = |windows: &Windows| windows.each.iter().any(|w| w.start == w.end);
        empty(&self.rows) || empty(&self.columns)
    }

    /// Elements of a plane of the bottom and of the top.
    pub(super) fn lens(&self) -> (usize, usize) {
        let (h, w) = self.positions();
        (self.rows.image * self.columns.image, h * w)
    }

    /// Every window of a plane, in order of the outputs.
    pub(super) fn windows(&self) -> impl Iterator<Item = (Window, Window)> + '_ {
        self.rows.each.iter().flat_map(|r| self.columns.each.iter().map(|c| (*r, *c)))
    }

    /// Places in the plane of a window's elements.
    pub(super) fn places(&self, (rows, columns): (Window, Window)) -> impl Iterator<Item = usize> {
        let width = self.columns.image;
        (rows.start..rows.end)
            .flat_map(move |r| (r * width + columns.start)..(r * width + columns.end))
    }

    /// Runs `f(place in the output, plane, window) -> (value, place)` for every output.
    fn choose(
        &self,
        threads: Threads,
        x: &[f32],
        y: &mut [f32],
        places: &mut [u32],
        f: impl Fn(usize, &[f32], (Window, Window)) -> (f32, u32) + Sync,
    ) {
        let (area, len) = self.lens();
        threads.par_zip2_mut((y, len), (places, len), |p, y, places| {
            let plane = &x[p * area..][..area];
            for (i, window) in self.windows().enumerate() {
                (y[i], places[i]) = f(p * len + i, plane, window);
            }
        });
    }

    /// The first of the largest elements, and its place.
    pub fn max(&self, threads: Threads, x: &[f32], y: &mut [f32], places: &mut [u32]) {
        self.choose(threads, x, y, places, |_, plane, window| {
            let mut best = (-f32::MAX, NOWHERE);
            for at in self.places(window) {
                if plane[at] > best.0 {
                    best = (plane[at], at as u32);
                }
            }
            best
        });
    }

    /// An element drawn in proportion to its value, by a uniform number per output.
    pub fn draw(
        &self,
        threads: Threads,
        x: &[f32],
        y: &mut [f32],
        places: &mut [u32],
        uniform: impl Fn(usize) -> f32 + Sync,
    ) {
        self.choose(threads, x, y, places, |i, plane, window| {
            let sum: f32 = self.places(window).map(|at| plane[at]).sum();
            let (threshold, mut passed) = (uniform(i) * sum, 0.0);
            let mut chosen = (0.0, NOWHERE);
            for at in self.places(window) {
                passed += plane[at];
                chosen = (plane[at], at as u32);
                if passed > threshold {
                    break;
                }
            }
            chosen
        });
    }

    /// The mean weighted with the values themselves: what `draw` gives on average.
    pub fn expect(&self, threads: Threads, x: &[f32], y: &mut [f32]) {
        self.fold(threads, x, y, |plane, window| {
            let (mut sum, mut squares) = (0.0, 0.0);
            for at in self.places(window) {
                sum += plane[at];
                squares += plane[at] * plane[at];
            }
            if sum == 0.0 { 0.0 } else { squares / sum }
        });
    }

    /// The mean over the window's part inside the padded image.
    pub fn mean(&self, threads: Threads, x: &[f32], y: &mut [f32]) {
        self.fold(threads, x, y, |plane, window| {
            let sum: f32 = self.places(window).map(|at| plane[at]).sum();
            sum / divisor(window)
        });
    }

    fn fold(
        &self,
        threads: Threads,
        x: &[f32],
        y: &mut [f32],
        f: impl Fn(&[f32], (Window, Window)) -> f32 + Sync,
    ) {
        let (area, len) = self.lens();
        threads.par_chunks_mut(y, len, |p, y| {
            let plane = &x[p * area..][..area];
            y.iter_mut().zip(self.windows()).for_each(|(y, window)| *y = f(plane, window));
        });
    }

    /// dx ← every output's gradient at the place it was taken from.
    pub fn to_places(&self, threads: Threads, dy: &[f32], places: &[u32], dx: &mut [f32]) {
        let (area, len) = self.lens();
        threads.par_chunks_mut(dx, area, |p, dx| {
            dx.fill(0.0);
            let outputs = p * len..(p + 1) * len;
            for (dy, &place) in dy[outputs.clone()].iter().zip(&places[outputs]) {
                if place != NOWHERE {
                    dx[place as usize] += dy;
                }
            }
        });
    }

    /// dx ← every output's gradient in equal shares over its window.
    pub fn spread(&self, threads: Threads, dy: &[f32], dx: &mut [f32]) {
        let (area, len) = self.lens();
        threads.par_chunks_mut(dx, area, |p, dx| {
            dx.fill(0.0);
            for (dy, window) in dy[p * len..][..len].iter().zip(self.windows()) {
                let share = dy / divisor(window);
                self.places(window).for_each(|at| dx[at] += share);
            }
        });
    }
}

/// What a window's mean divides by; 1 for a window behind the image, whose sum is 0.
pub(super) fn divisor((rows, columns): (Window, Window)) -> f32 {
    (rows.padded * columns.padded).max(1) as f32
}
