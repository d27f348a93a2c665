//! Charts: lines, dots and bars over linear or logarithmic axes, in one or several panels under one
//! legend, as SVG or PNG.
//!
//! A [`Chart`] is plain data; [`Chart::save`] lays it out once (`layout`) and draws the same strokes
//! and words to either form (`canvas`). `tiny-skia` rasterises, `ab_glyph` sets the words in DejaVu
//! Sans, which comes as a crate: no font, program or library of the system takes part.
//!
//! Not here: what is worth drawing ([`plot`](super::plot) for training logs), and nothing that moves.
//!
//! ```
//! use caffe::tools::chart::{Axis, Chart, Panel, Series};
//! let points = (1..=100).map(|i| [f64::from(i), 1.0 / f64::from(i)]).collect();
//! let panel = Panel {
//!     title: "loss".into(),
//!     x: Axis::linear("iterations"),
//!     y: Axis::log(""),
//!     series: vec![Series::line("run 1", points)],
//! };
//! let chart = Chart { title: "a run".into(), columns: 1, panels: vec![panel] };
//! assert!(chart.svg().contains("run 1"));
//! ```

mod axis;
mod canvas;
mod font;
mod layout;
mod panel;
mod raster;
mod svg;

pub(in crate::tools) use canvas::{Anchor, Area, Canvas, Stroke, Text};

use std::path::Path;

use caffe_proto::write_file_atomic;

use crate::{Error, Result, bail};

/// Pixels of a PNG for each unit of an SVG, so that words stay sharp on dense displays.
const PNG_SCALE: f32 = 2.0;

/// Panels beside and below each other, with one legend above.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chart {
    /// Above everything; may be empty.
    pub title: String,
    /// Panels in a row.
    pub columns: usize,
    /// Row by row.
    pub panels: Vec<Panel>,
}

/// One pair of axes with what is drawn between them.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// Above the axes, at the left: usually what y is.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis; its label stands behind the title.
    pub y: Axis,
    /// Drawn in this order.
    pub series: Vec<Series>,
}

/// An axis; its range is that of the points.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// What is measured, with its unit; may be empty.
    pub label: String,
    /// How values lie on it.
    pub scale: Scale,
    /// Names of the values 0, 1, 2, …, for bars; empty for numbers.
    pub names: Vec<String>,
}

/// How values lie on an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// By their logarithm; values that are not positive are left out.
    Log,
}

/// Points that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// In the legend, once for all series of this name; an empty one is not in it.
    pub name: String,
    /// x and y. Points that are not finite are left out, and a line has a gap there.
    pub points: Vec<[f64; 2]>,
    /// What is drawn at the points.
    pub mark: Mark,
    /// Colour and dashes.
    pub style: Style,
}

/// What is drawn at the points of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// A line from point to point; a dot where a point stands alone.
    Line,
    /// A dot at each.
    Dots,
    /// A bar from 0 to each; bars of several series at the same x stand beside each other.
    Bars,
}

/// Colour and dashes by number. Colours are those of Okabe and Ito, which readers with any common
/// colour blindness tell apart; dashes tell more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// One of seven, then again from the first.
    pub colour: usize,
    /// One of four, then again from the first: whole, dashed, dotted, dash-dotted.
    pub dash: usize,
}

impl Style {
    /// The style of the `i`-th of several series that have nothing in common.
    pub fn nth(i: usize) -> Style {
        // 28 styles until one comes again.
        Style { colour: i, dash: i + i / canvas::COLOURS.len() }
    }
}

impl Axis {
    /// An axis of numbers, evenly.
    pub fn linear(label: impl Into<String>) -> Axis {
        Axis { label: label.into(), scale: Scale::Linear, names: Vec::new() }
    }

    /// An axis of positive numbers, by their logarithm.
    pub fn log(label: impl Into<String>) -> Axis {
        Axis { scale: Scale::Log, ..Axis::linear(label) }
    }

    /// An axis on which 0, 1, 2, … have names.
    pub fn named(names: impl IntoIterator<Item = String>) -> Axis {
        Axis { names: names.into_iter().collect(), ..Axis::linear("") }
    }
}

impl Series {
    /// A line in the first style.
    pub fn line(name: impl Into<String>, points: Vec<[f64; 2]>) -> Series {
        Series { name: name.into(), points, mark: Mark::Line, style: Style::default() }
    }

    /// The same points with another mark.
    pub fn marked(self, mark: Mark) -> Series {
        Series { mark, ..self }
    }

    /// The same points in another style.
    pub fn styled(self, style: Style) -> Series {
        Series { style, ..self }
    }
}

impl Chart {
    /// The chart as SVG.
    pub fn svg(&self) -> String {
        let page = layout::Page::of(self);
        let mut canvas = svg::Svg::new(page.width, page.height);
        page.draw(&mut canvas);
        canvas.finish()
    }

    /// The chart as PNG, in two pixels for each unit of the SVG.
    ///
    /// # Errors
    /// A chart that is larger than memory or the format holds.
    pub fn png(&self) -> Result<Vec<u8>> {
        let page = layout::Page::of(self);
        let mut canvas = raster::Raster::new(page.width, page.height, PNG_SCALE)?;
        page.draw(&mut canvas);
        canvas.finish()
    }

    /// Writes the form that the path's name ends with: `.svg` or `.png`.
    ///
    /// # Errors
    /// Another ending, a file that cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        check_name(path)?;
        let page = layout::Page::of(self);
        save(path, [page.width, page.height], &|canvas| page.draw(canvas))
    }
}

/// Writes what `draw` draws on so many units of width and height, in the form that the path's name
/// ends with: for pictures that are no charts.
///
/// # Errors
/// As [`Chart::save`].
pub(in crate::tools) fn save(
    path: &Path,
    [width, height]: [f32; 2],
    draw: &dyn Fn(&mut dyn Canvas),
) -> Result<()> {
    check_name(path)?;
    let bytes = match path.extension().is_some_and(|end| end.eq_ignore_ascii_case("png")) {
        true => {
            let mut canvas = raster::Raster::new(width, height, PNG_SCALE)?;
            draw(&mut canvas);
            canvas.finish()?
        }
        false => {
            let mut canvas = svg::Svg::new(width, height);
            draw(&mut canvas);
            canvas.finish().into_bytes()
        }
    };
    Ok(write_file_atomic(path, &bytes)?)
}

/// Whether [`Chart::save`] knows the form that `path` names, to be asked before the work is done.
///
/// # Errors
/// An ending that is not `.svg` or `.png`.
pub fn check_name(path: &Path) -> Result<()> {
    let ending = path.extension().unwrap_or_default();
    if ["png", "svg"].iter().any(|known| ending.eq_ignore_ascii_case(known)) {
        return Ok(());
    }
    bail!("`{}`: pictures are .svg or .png; end the name with one of them", path.display())
}

/// An error of the libraries beneath.
fn cannot_draw(why: impl std::fmt::Display) -> Error {
    Error::Invalid(format!("the chart cannot be drawn: {why}"))
}

#[cfg(test)]
mod tests;
