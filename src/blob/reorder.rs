//! Conversions between plain and channel-blocked memory.

use super::{Layout, Shape};
use crate::device::cpu::threads::Threads;

/// Blocked → plain. Padding channels are dropped.
pub fn to_plain(from: Layout, shape: &Shape, src: &[f32], dst: &mut [f32], threads: Threads) {
    let (c, area, block) = (shape[1], shape.count_from(2), from.block());
    let groups = c.div_ceil(block);
    // One task: the up to `block` planes of one group; uneven when C is not a multiple.
    let per_image = c * area;
    threads.par_chunks_mut(dst, per_image, |n, image| {
        for (g, planes) in image.chunks_mut(block * area).enumerate() {
            let tile = &src[(n * groups + g) * area * block..][..area * block];
            for (j, plane) in planes.chunks_mut(area).enumerate() {
                for (v, pixel) in plane.iter_mut().zip(tile.chunks_exact(block)) {
                    *v = pixel[j];
                }
            }
        }
    });
}

/// Plain → blocked. Padding channels become zero.
pub fn to_blocked(to: Layout, shape: &Shape, src: &[f32], dst: &mut [f32], threads: Threads) {
    let (c, area, block) = (shape[1], shape.count_from(2), to.block());
    let groups = c.div_ceil(block);
    threads.par_chunks_mut(dst, area * block, |tile_index, tile| {
        let (n, g) = (tile_index / groups, tile_index % groups);
        let real = block.min(c - g * block);
        let planes = &src[(n * c + g * block) * area..][..real * area];
        for (at, pixel) in tile.chunks_exact_mut(block).enumerate() {
            for j in 0..real {
                pixel[j] = planes[j * area + at];
            }
            pixel[real..].fill(0.0);
        }
    });
}
