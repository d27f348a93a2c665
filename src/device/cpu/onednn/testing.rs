//! Helpers of the bindings' tests.

use super::Context;
use crate::blob::layout::Layout;
use crate::device::cpu::threads::Threads;

/// A context, or `None` with a printed line where oneDNN is not installed.
pub(super) fn context(threads: usize) -> Option<Context> {
    Context::new(Threads::new(threads)).map_err(|e| println!("skipped: {e}")).ok()
}

/// Numbers in −1..1 that look random and are the same everywhere.
pub(super) fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Plain → `layout`, element by element, with zero padding.
pub(super) fn block(plain: &[f32], [n, c, h, w]: [usize; 4], layout: Layout) -> Vec<f32> {
    let (pixels, image) = (h * w, layout.padded_len(&[1, c, h, w]));
    let mut out = vec![0.0; n * image];
    assert_eq!(plain.len(), n * c * pixels);
    for (i, &value) in plain.iter().enumerate() {
        let (p, ch, b) = (i % pixels, i / pixels % c, i / pixels / c);
        out[b * image + layout.offset(ch, p, pixels)] = value;
    }
    out
}

/// `layout` → plain; fails the test where padding is not zero.
pub(super) fn unblock(data: &[f32], [n, c, h, w]: [usize; 4], layout: Layout) -> Vec<f32> {
    let (pixels, image) = (h * w, layout.padded_len(&[1, c, h, w]));
    let mut out = vec![0.0; n * c * pixels];
    for b in 0..n {
        for ch in 0..layout.padded_channels(c) {
            for p in 0..pixels {
                let value = data[b * image + layout.offset(ch, p, pixels)];
                if ch < c {
                    out[(b * c + ch) * pixels + p] = value;
                } else {
                    assert!(value == 0.0, "padding of image {b}, channel {ch} holds {value}");
                }
            }
        }
    }
    out
}

/// Fails where two buffers differ by more than `tolerance` of the larger one's greatest element.
pub(super) fn assert_close(what: &str, found: &[f32], wanted: &[f32], tolerance: f32) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    let scale = wanted.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    for (i, (f, w)) in found.iter().zip(wanted).enumerate() {
        let ok = (f - w).abs() <= tolerance * scale;
        assert!(ok, "{what}: element {i} is {f}, should be {w} (scale {scale})");
    }
}
