//! Where title, legend and panels of a chart stand.

use super::canvas::{Anchor, Area, COLOURS, Canvas, DASHES, INK, Stroke, Text};
use super::font::Font;
use super::{Chart, Mark, Series, panel};

/// Space at the edges and between panels.
const MARGIN: f32 = 16.0;
/// Size of one panel with its title and labels.
const PANEL: [f32; 2] = [520.0, 260.0];
/// Height of a line of the legend.
const LINE: f32 = 20.0;
/// Length of the sample in the legend, and the space around it.
const SAMPLE: f32 = 30.0;
const SPACE: f32 = 8.0;

/// Size of title, and of legend and labels.
const LARGE: f32 = 16.0;
pub(super) const SMALL: f32 = 12.0;

/// Width of a line that shows data.
pub(super) const LINE_WIDTH: f32 = 1.6;

/// A chart laid out.
pub(super) struct Page<'a> {
    pub width: f32,
    pub height: f32,
    chart: &'a Chart,
    /// Rows of the legend, each entry with its left edge.
    legend: Vec<Vec<(f32, &'a Series)>>,
    font: Font,
}

impl<'a> Page<'a> {
    pub fn of(chart: &'a Chart) -> Page<'a> {
        let font = Font::new();
        let columns = chart.columns.clamp(1, chart.panels.len().max(1));
        let rows = chart.panels.len().div_ceil(columns);
        let width = columns as f32 * (PANEL[0] + MARGIN) + MARGIN;
        let legend = legend(chart, &font, width);
        let mut page = Page { width, height: 0.0, chart, legend, font };
        page.height = page.top_of_panels() + rows as f32 * (PANEL[1] + MARGIN);
        page
    }

    /// Below title and legend.
    fn top_of_panels(&self) -> f32 {
        let title = if self.chart.title.is_empty() { 0.0 } else { LARGE + SPACE };
        MARGIN + title + self.legend.len() as f32 * LINE
    }

    pub fn draw(&self, canvas: &mut dyn Canvas) {
        let mut y = MARGIN;
        if !self.chart.title.is_empty() {
            y += LARGE;
            let text = Text { size: LARGE, colour: INK, anchor: Anchor::Middle };
            canvas.text([self.width / 2.0, y], text, &self.chart.title);
            y += SPACE;
        }
        for row in &self.legend {
            for (left, series) in row {
                sample(canvas, *left, y + LINE / 2.0, series);
                let text = Text { size: SMALL, colour: INK, anchor: Anchor::Start };
                let at = [left + SAMPLE + SPACE, y + LINE / 2.0 + 0.35 * SMALL];
                canvas.text(at, text, &series.name);
            }
            y += LINE;
        }
        let columns = self.chart.columns.clamp(1, self.chart.panels.len().max(1));
        for (i, panel) in self.chart.panels.iter().enumerate() {
            let area = Area {
                left: MARGIN + (i % columns) as f32 * (PANEL[0] + MARGIN),
                top: self.top_of_panels() + (i / columns) as f32 * (PANEL[1] + MARGIN),
                width: PANEL[0],
                height: PANEL[1],
            };
            panel::draw(canvas, &self.font, panel, area);
        }
    }
}

/// Colour and dashes of a series.
pub(super) fn stroke(series: &Series) -> Stroke {
    let colour = COLOURS[series.style.colour % COLOURS.len()];
    Stroke { colour, width: LINE_WIDTH, dash: DASHES[series.style.dash % DASHES.len()] }
}

fn sample(canvas: &mut dyn Canvas, left: f32, y: f32, series: &Series) {
    let stroke = stroke(series);
    match series.mark {
        Mark::Line => canvas.line(&[[left, y], [left + SAMPLE, y]], stroke),
        Mark::Dots => canvas.dot([left + SAMPLE / 2.0, y], panel::DOT, stroke.colour),
        Mark::Bars => {
            let box_ = Area { left: left + SAMPLE - 12.0, top: y - 5.0, width: 12.0, height: 10.0 };
            canvas.fill(box_, stroke.colour);
        }
    }
}

/// Every name once, in rows no wider than the page.
fn legend<'a>(chart: &'a Chart, font: &Font, width: f32) -> Vec<Vec<(f32, &'a Series)>> {
    let mut entries: Vec<&Series> = Vec::new();
    for series in chart.panels.iter().flat_map(|panel| &panel.series) {
        if !series.name.is_empty() && entries.iter().all(|known| known.name != series.name) {
            entries.push(series);
        }
    }
    let mut rows: Vec<Vec<(f32, &Series)>> = Vec::new();
    let mut left = f32::INFINITY;
    for series in entries {
        let wide = SAMPLE + SPACE + font.width(SMALL, &series.name) + 2.5 * SPACE;
        if left + wide > width - MARGIN {
            left = MARGIN + SPACE;
            rows.push(Vec::new());
        }
        if let Some(row) = rows.last_mut() {
            row.push((left, series));
        }
        left += wide;
    }
    rows
}
