//! One panel: axes, grid, ticks, and the series between them.

use super::axis::{Span, Tick};
use super::canvas::{Anchor, Area, Canvas, GRID, INK, Point, Stroke, Text};
use super::font::Font;
use super::layout::{SMALL, stroke};
use super::{Mark, Panel, Series};

/// Radius of a dot.
pub(super) const DOT: f32 = 2.4;
/// Height of the title's line, and of the ticks' and the label's below.
const TITLE: f32 = 22.0;
const BELOW: f32 = 38.0;
/// Between a tick's number and the axis.
const GAP: f32 = 6.0;
/// Least width and height for a tick.
const TICK: [f32; 2] = [70.0, 34.0];
/// Size of a panel's title.
const MIDDLE: f32 = 13.0;

const LABEL: Text = Text { size: SMALL, colour: INK, anchor: Anchor::Middle };

/// What a panel's values map to.
struct Frame {
    x: Span,
    y: Span,
    area: Area,
}

impl Frame {
    fn place(&self, [x, y]: [f64; 2]) -> Option<Point> {
        Some([self.across(self.x.place(x)?), self.down(self.y.place(y)?)])
    }

    fn across(&self, place: f64) -> f32 {
        self.area.left + place as f32 * self.area.width
    }

    fn down(&self, place: f64) -> f32 {
        self.area.top + (1.0 - place as f32) * self.area.height
    }
}

/// Draws `panel` into `area`.
pub(super) fn draw(canvas: &mut dyn Canvas, font: &Font, panel: &Panel, area: Area) {
    let points = || panel.series.iter().flat_map(|s| &s.points);
    let bars = panel.series.iter().any(|s| s.mark == Mark::Bars);
    let x = Span::of(&panel.x, points().map(|p| p[0]), !bars, false);
    let y = Span::of(&panel.y, points().map(|p| p[1]), false, bars);
    let rows = y.ticks(&panel.y, ((area.height - TITLE - BELOW) / TICK[1]) as usize);
    let widest = rows.iter().map(|t| font.width(SMALL, &t.label)).fold(0.0, f32::max);
    let inner = Area {
        left: area.left + widest + GAP,
        top: area.top + TITLE,
        // The last number of the x axis stands half outside.
        width: (area.width - widest - GAP - 12.0).max(1.0),
        height: area.height - TITLE - BELOW,
    };
    let frame = Frame { x, y, area: inner };
    let columns = frame.x.ticks(&panel.x, (inner.width / TICK[0]) as usize);
    grid(canvas, font, &frame, &columns, &rows);
    for (i, series) in panel.series.iter().enumerate() {
        match series.mark {
            Mark::Line => line(canvas, &frame, series),
            Mark::Dots => dots(canvas, &frame, series),
            Mark::Bars => bar(canvas, &frame, panel, i),
        }
    }
    words(canvas, panel, area, inner);
}

/// Ticks, and lines from them through the panel.
fn grid(canvas: &mut dyn Canvas, font: &Font, frame: &Frame, columns: &[Tick], rows: &[Tick]) {
    let Area { left, top, width, height } = frame.area;
    let thin = |colour| Stroke { colour, width: 1.0, dash: &[] };
    for tick in rows {
        let Some(place) = frame.y.place(tick.value) else { continue };
        let y = frame.down(place);
        canvas.line(&[[left, y], [left + width, y]], thin(GRID));
        let right = Text { anchor: Anchor::End, ..LABEL };
        canvas.text([left - GAP, y + 0.35 * SMALL], right, &tick.label);
    }
    let mut free = f32::NEG_INFINITY;
    for tick in columns {
        let Some(place) = frame.x.place(tick.value) else { continue };
        let x = frame.across(place);
        canvas.line(&[[x, top], [x, top + height]], thin(GRID));
        // Where names are long, some stay away rather than run into each other.
        let half = font.width(SMALL, &tick.label) / 2.0;
        if x - half >= free {
            canvas.text([x, top + height + GAP + SMALL], LABEL, &tick.label);
            free = x + half + GAP;
        }
    }
    let corner = [left, top + height];
    canvas.line(&[[left, top], corner, [left + width, top + height]], thin(INK));
}

fn words(canvas: &mut dyn Canvas, panel: &Panel, area: Area, inner: Area) {
    let title = match panel.y.label.as_str() {
        "" => panel.title.clone(),
        label if panel.title.is_empty() => label.to_owned(),
        label => format!("{}, {label}", panel.title),
    };
    let text = Text { size: MIDDLE, colour: INK, anchor: Anchor::Start };
    canvas.text([inner.left, area.top + TITLE - 8.0], text, &title);
    let x = inner.left + inner.width / 2.0;
    canvas.text([x, area.top + area.height - 4.0], LABEL, &panel.x.label);
}

/// A line with gaps where points have no place.
fn line(canvas: &mut dyn Canvas, frame: &Frame, series: &Series) {
    let stroke = stroke(series);
    let places: Vec<Option<Point>> = series.points.iter().map(|p| frame.place(*p)).collect();
    for piece in places.split(Option::is_none) {
        let piece: Vec<Point> = piece.iter().copied().flatten().collect();
        match &piece[..] {
            [] => {}
            [alone] => canvas.dot(*alone, DOT, stroke.colour),
            _ => canvas.line(&thinned(piece), stroke),
        }
    }
}

fn dots(canvas: &mut dyn Canvas, frame: &Frame, series: &Series) {
    for place in series.points.iter().filter_map(|p| frame.place(*p)) {
        canvas.dot(place, DOT, stroke(series).colour);
    }
}

/// The bars of series `i`, beside those of the others.
fn bar(canvas: &mut dyn Canvas, frame: &Frame, panel: &Panel, i: usize) {
    let barred: Vec<usize> =
        (0..panel.series.len()).filter(|&j| panel.series[j].mark == Mark::Bars).collect();
    let turn = barred.iter().position(|&j| j == i).unwrap_or(0);
    let xs = panel.series.iter().filter(|s| s.mark == Mark::Bars).flat_map(|s| &s.points);
    let mut xs: Vec<f32> =
        xs.filter_map(|p| frame.x.place(p[0])).map(|place| frame.across(place)).collect();
    xs.sort_by(f32::total_cmp);
    let apart = xs.windows(2).map(|w| w[1] - w[0]).filter(|d| *d > 0.5);
    let group = 0.8 * apart.fold(frame.area.width / 8.0, f32::min);
    let width = group / barred.len().max(1) as f32;
    let floor = frame.y.place(0.0).map_or(0.0, |place| place.clamp(0.0, 1.0));
    let floor = frame.down(floor);
    for [x, y] in panel.series[i].points.iter().filter_map(|p| frame.place(*p)) {
        let left = x - group / 2.0 + turn as f32 * width;
        let area = Area { left, top: y.min(floor), width, height: (y - floor).abs() };
        canvas.fill(area, stroke(&panel.series[i]).colour);
    }
}

/// A line without the points that nobody could see: of those within half a unit of x the first, the
/// lowest, the highest and the last are kept.
fn thinned(points: Vec<Point>) -> Vec<Point> {
    let column = |p: &Point| (p[0] * 2.0).floor();
    let mut kept = Vec::new();
    for group in points.chunk_by(|a, b| column(a) == column(b)) {
        if group.len() <= 4 {
            kept.extend_from_slice(group);
            continue;
        }
        let by_y = |a: &&Point, b: &&Point| a[1].total_cmp(&b[1]);
        let ends =
            [group.first(), group.iter().min_by(by_y), group.iter().max_by(by_y), group.last()];
        kept.extend(ends.into_iter().flatten());
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thinned_line_keeps_its_ends_and_extremes() {
        let points: Vec<Point> =
            (0..10_000).map(|i| [i as f32 / 1000.0, (i as f32 * 0.37).sin()]).collect();
        let thin = thinned(points.clone());
        assert!(thin.len() <= 4 * 21, "{}", thin.len());
        assert_eq!((thin.first(), thin.last()), (points.first(), points.last()));
        let highest = |p: &[Point]| p.iter().map(|p| p[1]).fold(f32::MIN, f32::max);
        assert_eq!(highest(&thin), highest(&points));
    }
}
