//! The few things that a chart is drawn with.

/// Okabe and Ito's colours without yellow (too light for a line on white) and with black for the
/// rest, in an order in which neighbours also differ in lightness.
pub(super) const COLOURS: [[u8; 3]; 7] = [
    [0x00, 0x72, 0xb2],
    [0xd5, 0x5e, 0x00],
    [0x00, 0x9e, 0x73],
    [0xcc, 0x79, 0xa7],
    [0x56, 0xb4, 0xe9],
    [0xe6, 0x9f, 0x00],
    [0x00, 0x00, 0x00],
];

/// Lengths of dash and gap, over and over; none for a whole line.
pub(super) const DASHES: [&[f32]; 4] = [&[], &[7.0, 3.5], &[1.8, 2.6], &[8.0, 3.0, 1.8, 3.0]];

/// Words and axes.
pub(super) const INK: [u8; 3] = [0x22, 0x22, 0x22];
/// Lines behind the data.
pub(super) const GRID: [u8; 3] = [0xe2, 0xe2, 0xe2];

/// A place: x to the right, y downwards, in units of the SVG.
pub(in crate::tools) type Point = [f32; 2];

/// How a line is drawn.
#[derive(Debug, Clone, Copy)]
pub(in crate::tools) struct Stroke {
    pub colour: [u8; 3],
    pub width: f32,
    pub dash: &'static [f32],
}

/// Which point of a word its place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tools) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a word is set; its place is on the line that letters stand on.
#[derive(Debug, Clone, Copy)]
pub(in crate::tools) struct Text {
    pub size: f32,
    pub colour: [u8; 3],
    pub anchor: Anchor,
}

/// A rectangle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::tools) struct Area {
    pub left: f32,
    pub top: f32,
    pub width: f32,
    pub height: f32,
}

/// What a chart is drawn on.
pub(in crate::tools) trait Canvas {
    /// A line through all points.
    fn line(&mut self, points: &[Point], stroke: Stroke);
    /// A filled rectangle.
    fn fill(&mut self, area: Area, colour: [u8; 3]);
    /// A filled circle.
    fn dot(&mut self, centre: Point, radius: f32, colour: [u8; 3]);
    /// A word.
    fn text(&mut self, at: Point, text: Text, words: &str);
}
