//! Decoded images: interleaved bytes.

use super::resize::resize;

/// Pixels row by row, the channels of a pixel side by side: one (grey), three (blue, green, red) or
/// four (and opacity).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raster {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Bytes of a pixel.
    pub channels: usize,
    /// height · width · channels values.
    pub pixels: Vec<u8>,
}

impl Raster {
    /// (channels, height, width).
    pub fn shape(&self) -> [usize; 3] {
        [self.channels, self.height, self.width]
    }

    /// The part of `height` × `width` pixels whose first row and column are `top` and `left`; all of
    /// it must lie inside.
    pub fn crop(&self, [top, left]: [usize; 2], [height, width]: [usize; 2]) -> Self {
        let rows = self.pixels.chunks_exact(self.width * self.channels).skip(top).take(height);
        let span = left * self.channels..(left + width) * self.channels;
        let pixels = rows.flat_map(|row| &row[span.clone()]).copied().collect();
        Self { height, width, channels: self.channels, pixels }
    }

    /// The image with `height` rows and `width` columns, by bilinear interpolation.
    pub fn resize(self, height: usize, width: usize) -> Self {
        match (self.height, self.width) == (height, width) {
            true => self,
            false => resize(&self, height, width),
        }
    }

    /// The values channel by channel, as in a blob.
    pub fn planes(&self) -> Vec<u8> {
        let plane = self.height * self.width;
        let mut out = vec![0; self.channels * plane];
        match self.channels {
            1 => out.copy_from_slice(&self.pixels),
            3 => {
                let (blue, rest) = out.split_at_mut(plane);
                let (green, red) = rest.split_at_mut(plane);
                let planes = blue.iter_mut().zip(green).zip(red);
                for (((b, g), r), pixel) in planes.zip(self.pixels.chunks_exact(3)) {
                    (*b, *g, *r) = (pixel[0], pixel[1], pixel[2]);
                }
            }
            n => {
                for (channel, out) in out.chunks_exact_mut(plane.max(1)).enumerate() {
                    let values = self.pixels.iter().skip(channel).step_by(n);
                    out.iter_mut().zip(values).for_each(|(out, value)| *out = *value);
                }
            }
        }
        out
    }
}
