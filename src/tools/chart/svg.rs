//! The canvas that is text: SVG 1.1.

use std::fmt::Write;

use super::canvas::{Anchor, Area, Canvas, Point, Stroke, Text};

pub(super) struct Svg {
    text: String,
}

impl Svg {
    pub fn new(width: f32, height: f32) -> Svg {
        let text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"'DejaVu Sans', Verdana, sans-serif\">\n"
        );
        let mut svg = Svg { text };
        svg.fill(Area { left: 0.0, top: 0.0, width, height }, [255; 3]);
        svg
    }

    pub fn finish(mut self) -> String {
        self.text.push_str("</svg>\n");
        self.text
    }

    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.text.write_fmt(element);
    }
}

fn hex([r, g, b]: [u8; 3]) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// A hundredth of a unit is finer than any screen.
fn short(number: f32) -> f32 {
    (number * 100.0).round() / 100.0
}

fn escape(words: &str) -> String {
    // A control character is not allowed in XML at all.
    let words = words.replace(|c: char| c.is_control(), " ");
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

impl Canvas for Svg {
    fn line(&mut self, points: &[Point], Stroke { colour, width, dash }: Stroke) {
        let path: Vec<String> =
            points.iter().map(|[x, y]| format!("{},{}", short(*x), short(*y))).collect();
        let dash: Vec<String> = dash.iter().map(f32::to_string).collect();
        let dash = match &dash[..] {
            [] => String::new(),
            all => format!(" stroke-dasharray=\"{}\"", all.join(" ")),
        };
        self.put(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\" \
             stroke-linejoin=\"round\"{dash}/>\n",
            path.join(" "),
            hex(colour)
        ));
    }

    fn fill(&mut self, Area { left, top, width, height }: Area, colour: [u8; 3]) {
        let [x, y, width, height] = [left, top, width, height].map(short);
        self.put(format_args!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{}\"/>\n",
            hex(colour)
        ));
    }

    fn dot(&mut self, [x, y]: Point, radius: f32, colour: [u8; 3]) {
        let (x, y, fill) = (short(x), short(y), hex(colour));
        self.put(format_args!("<circle cx=\"{x}\" cy=\"{y}\" r=\"{radius}\" fill=\"{fill}\"/>\n"));
    }

    fn text(&mut self, [x, y]: Point, Text { size, colour, anchor }: Text, words: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let (x, y, fill, words) = (short(x), short(y), hex(colour), escape(words));
        self.put(format_args!(
            "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\" text-anchor=\"{anchor}\" \
             fill=\"{fill}\">{words}</text>\n"
        ));
    }
}
