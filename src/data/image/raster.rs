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
        let mut out = vec![0; self.channels * self.height * self.width];
        self.write_planes([0; 2], [self.height, self.width], &mut out);
        out
    }

    /// The same of the part of `height` × `width` pixels whose first row and column are `top` and
    /// `left`, written to `out`; all of it must lie inside.
    pub fn write_planes(
        &self,
        [top, left]: [usize; 2],
        [height, width]: [usize; 2],
        out: &mut [u8],
    ) {
        let n = self.channels;
        let rows = self.pixels.chunks_exact((self.width * n).max(1)).skip(top).take(height);
        let rows = rows.map(|row| &row[left * n..(left + width) * n]).enumerate();
        let plane = height * width;
        match n {
            1 => rows.for_each(|(i, row)| out[i * width..][..width].copy_from_slice(row)),
            3 => {
                let (blue, rest) = out.split_at_mut(plane);
                let (green, red) = rest.split_at_mut(plane);
                for (i, row) in rows {
                    let own = i * width..(i + 1) * width;
                    let (green, red) = (&mut green[own.clone()], &mut red[own.clone()]);
                    let planes = blue[own].iter_mut().zip(green).zip(red);
                    for (((b, g), r), pixel) in planes.zip(row.chunks_exact(3)) {
                        (*b, *g, *r) = (pixel[0], pixel[1], pixel[2]);
                    }
                }
            }
            _ => {
                for (i, row) in rows {
                    for channel in 0..n {
                        let values = row.iter().skip(channel).step_by(n);
                        let out = &mut out[channel * plane + i * width..][..width];
                        out.iter_mut().zip(values).for_each(|(out, value)| *out = *value);
                    }
                }
            }
        }
    }
}
