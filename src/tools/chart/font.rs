//! DejaVu Sans, compiled in: how wide words are, and where their glyphs stand.

use ab_glyph::{Font as _, FontRef, Glyph, PxScale, ScaleFont as _};

/// The typeface, if its data can be read (they are compiled in, so they can).
pub(super) struct Font(Option<FontRef<'static>>);

impl Font {
    pub fn new() -> Font {
        Font(FontRef::try_from_slice(dejavu::sans::regular()).ok())
    }

    /// The typeface itself.
    pub fn face(&self) -> Option<&FontRef<'static>> {
        self.0.as_ref()
    }

    /// Width of `words` with letters of `size` units to the em.
    pub fn width(&self, size: f32, words: &str) -> f32 {
        let Some(face) = &self.0 else { return 0.0 };
        let scaled = face.as_scaled(scale(face, size));
        words.chars().map(|c| scaled.h_advance(face.glyph_id(c))).sum()
    }

    /// The glyphs of `words`, the first at `start`.
    pub fn glyphs(&self, size: f32, start: [f32; 2], words: &str) -> Vec<Glyph> {
        let Some(face) = &self.0 else { return Vec::new() };
        let scale = scale(face, size);
        let scaled = face.as_scaled(scale);
        let mut x = start[0];
        let place = |c: char| {
            let id = face.glyph_id(c);
            let glyph = id.with_scale_and_position(scale, ab_glyph::point(x, start[1]));
            x += scaled.h_advance(id);
            glyph
        };
        words.chars().map(place).collect()
    }
}

/// Letters are measured by the em; the library measures by the height of a line.
fn scale(face: &FontRef<'_>, size: f32) -> PxScale {
    let em = face.units_per_em().unwrap_or(2048.0);
    PxScale::from(size * face.height_unscaled() / em)
}
