//! The canvas that is pixels: drawn by `tiny-skia`, words by `ab_glyph`, written as PNG.

use ab_glyph::Font as _;
use tiny_skia::{
    Color, FillRule, LineCap, LineJoin, Paint, PathBuilder, Pixmap, PremultipliedColorU8, Rect,
    StrokeDash, Transform,
};

use super::cannot_draw;
use super::canvas::{Anchor, Area, Canvas, Point, Stroke, Text};
use super::font::Font;
use crate::Result;

pub(super) struct Raster {
    pixels: Pixmap,
    /// Pixels to a unit.
    scale: f32,
    font: Font,
}

impl Raster {
    pub fn new(width: f32, height: f32, scale: f32) -> Result<Raster> {
        let [w, h] = [width, height].map(|side| (side * scale).ceil() as u32);
        let Some(mut pixels) = Pixmap::new(w, h) else {
            return Err(cannot_draw(format!("{w} x {h} pixels are too many")));
        };
        pixels.fill(Color::WHITE);
        Ok(Raster { pixels, scale, font: Font::new() })
    }

    pub fn finish(self) -> Result<Vec<u8>> {
        self.pixels.encode_png().map_err(cannot_draw)
    }

    fn transform(&self) -> Transform {
        Transform::from_scale(self.scale, self.scale)
    }
}

fn paint([r, g, b]: [u8; 3]) -> Paint<'static> {
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color_rgba8(r, g, b, 255);
    paint
}

impl Canvas for Raster {
    fn line(&mut self, points: &[Point], Stroke { colour, width, dash }: Stroke) {
        let mut path = PathBuilder::new();
        for (i, [x, y]) in points.iter().enumerate() {
            if i == 0 { path.move_to(*x, *y) } else { path.line_to(*x, *y) }
        }
        let Some(path) = path.finish() else { return };
        let stroke = tiny_skia::Stroke {
            width,
            line_cap: LineCap::Butt,
            line_join: LineJoin::Round,
            dash: if dash.is_empty() { None } else { StrokeDash::new(dash.to_vec(), 0.0) },
            ..tiny_skia::Stroke::default()
        };
        self.pixels.stroke_path(&path, &paint(colour), &stroke, self.transform(), None);
    }

    fn fill(&mut self, Area { left, top, width, height }: Area, colour: [u8; 3]) {
        let Some(rect) = Rect::from_xywh(left, top, width, height) else { return };
        self.pixels.fill_rect(rect, &paint(colour), self.transform(), None);
    }

    fn dot(&mut self, [x, y]: Point, radius: f32, colour: [u8; 3]) {
        let Some(path) = PathBuilder::from_circle(x, y, radius) else { return };
        self.pixels.fill_path(&path, &paint(colour), FillRule::Winding, self.transform(), None);
    }

    fn text(&mut self, [x, y]: Point, Text { size, colour, anchor }: Text, words: &str) {
        let size = size * self.scale;
        let width = self.font.width(size, words);
        let left = match anchor {
            Anchor::Start => 0.0,
            Anchor::Middle => width / 2.0,
            Anchor::End => width,
        };
        let start = [(x * self.scale - left).round(), (y * self.scale).round()];
        let Some(face) = self.font.face() else { return };
        let (columns, rows) = (self.pixels.width() as i32, self.pixels.height() as i32);
        for glyph in self.font.glyphs(size, start, words) {
            let Some(outline) = face.outline_glyph(glyph) else { continue };
            let corner = outline.px_bounds().min;
            let pixels = self.pixels.pixels_mut();
            outline.draw(|dx, dy, covered| {
                let (px, py) = (corner.x as i32 + dx as i32, corner.y as i32 + dy as i32);
                if (0..columns).contains(&px) && (0..rows).contains(&py) {
                    let pixel = &mut pixels[(py * columns + px) as usize];
                    *pixel = mix(*pixel, colour, covered);
                }
            });
        }
    }
}

/// So much of `ink` over an opaque pixel.
fn mix(under: PremultipliedColorU8, ink: [u8; 3], covered: f32) -> PremultipliedColorU8 {
    let covered = covered.clamp(0.0, 1.0);
    let mix = |under: u8, ink: u8| {
        (f32::from(under) * (1.0 - covered) + f32::from(ink) * covered).round() as u8
    };
    let [r, g, b] = ink;
    let mixed = [mix(under.red(), r), mix(under.green(), g), mix(under.blue(), b)];
    PremultipliedColorU8::from_rgba(mixed[0], mixed[1], mixed[2], 255).unwrap_or(under)
}
