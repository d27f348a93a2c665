//! What a sum between nodes looks like on the wire: [`Wire`], and the arithmetic of rounded sums.
//!
//! A rounded sum of a run of floats, cut into one piece per node:
//!
//! 1. every node rounds its values to 16 bits and sends piece p to node p ([`spread`]);
//! 2. node p adds the pieces it got, in rank order and in f32, rounds the sum to 16 bits and sends
//!    it to all ([`combine`]);
//! 3. everybody unpacks the same bits ([`collect`]).
//!
//! What rounding takes from a value stays in `rest` on the node that rounded, in both steps, so
//! over all nodes sum + rests = values (within the rounding of f32). It travels with the node's
//! next sum of the same bucket. Bytes on the wire: half of what a sum in f32 takes.
//!
//! No transport here: in-process nodes and MPI ranks call the same functions, so they get the same
//! bits.

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

/// Floats that travel as one: 1 MiB in f32. Part of the arithmetic, as it decides who adds what.
pub(crate) const CHUNK: usize = 1 << 18;

/// Floats rounded at a time: they stay in the first-level cache.
const BLOCK: usize = 512;

/// Number format of values on their way between nodes. What rounding takes away is sent with the
/// next round, and the last round before a test, a snapshot or the end is always in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Wire {
    /// 32 bits: nothing is rounded.
    #[default]
    F32,
    /// bfloat16: the range of f32 with 8 significant bits.
    Bf16,
    /// IEEE half precision, 11 significant bits; each piece is scaled by a power of two, so that
    /// its largest value fits.
    Fp16,
}

impl Wire {
    /// Bytes of one number on the way.
    pub(crate) fn bytes(self) -> usize {
        if self.rounds() { size_of::<u16>() } else { size_of::<f32>() }
    }

    /// Whether values are rounded.
    pub fn rounds(self) -> bool {
        self != Wire::F32
    }
}

impl std::fmt::Display for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Wire::F32 => "f32",
            Wire::Bf16 => "bf16",
            Wire::Fp16 => "fp16",
        })
    }
}

/// How `len` floats are shared out among `nodes` nodes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pieces {
    pub(crate) len: usize,
    pub(crate) nodes: usize,
}

impl Pieces {
    /// Words of a packed piece: the scale, then the values. Equal for all, as collectives want.
    pub(crate) fn words(self) -> usize {
        1 + self.len.div_ceil(self.nodes)
    }

    /// Words of all pieces.
    pub(crate) fn all_words(self) -> usize {
        self.nodes * self.words()
    }

    /// The floats that node `node` adds up; the last ones may be fewer, or none.
    pub(crate) fn of(self, node: usize) -> std::ops::Range<usize> {
        let each = self.len.div_ceil(self.nodes);
        (node * each).min(self.len)..((node + 1) * each).min(self.len)
    }
}

/// Step 1: rounds `data` + `rest` into `out`, piece after piece; `rest` keeps what is left.
pub(crate) fn spread(wire: Wire, data: &[f32], rest: &mut [f32], nodes: usize, out: &mut [u16]) {
    let pieces = Pieces { len: data.len(), nodes };
    for (node, out) in out.chunks_exact_mut(pieces.words()).enumerate() {
        let range = pieces.of(node);
        pack(wire, &data[range.clone()], &mut rest[range], out);
    }
}

/// Step 2: the sum of one piece as all nodes sent it (`received`, in rank order), with this node's
/// `rest` of it, rounded into `out`. `sum` is working memory.
pub(crate) fn combine(
    wire: Wire,
    received: &[u16],
    rest: &mut [f32],
    sum: &mut Vec<f32>,
    out: &mut [u16],
) {
    sum.clear();
    sum.resize(rest.len(), 0.0);
    for packed in received.chunks_exact(out.len()) {
        unpack(wire, packed, sum, |sum, value| *sum += value);
    }
    pack(wire, sum, rest, out);
}

/// Step 3: the sums of all pieces (`all`, in rank order) into `data`.
pub(crate) fn collect(wire: Wire, all: &[u16], nodes: usize, data: &mut [f32]) {
    let pieces = Pieces { len: data.len(), nodes };
    for (node, packed) in all.chunks_exact(pieces.words()).enumerate() {
        unpack(wire, packed, &mut data[pieces.of(node)], |place, value| *place = value);
    }
}

/// Rounds `data` + `rest`; `rest` keeps the difference. What is not finite goes as it is: it must be
/// seen, and has no rest.
fn pack(wire: Wire, data: &[f32], rest: &mut [f32], out: &mut [u16]) {
    let Some((scale, codes)) = out.split_first_mut() else { return };
    let exponent = exponent(wire, data, rest);
    *scale = exponent as u16;
    let (down, up) = (power(-exponent), power(exponent));
    let mut back = [0.0f32; BLOCK];
    let blocks = data.chunks(BLOCK).zip(rest.chunks_mut(BLOCK)).zip(codes.chunks_mut(BLOCK));
    for ((data, rest), codes) in blocks {
        let back = &mut back[..data.len()];
        let codes = &mut codes[..data.len()];
        for ((scaled, value), rest) in back.iter_mut().zip(data).zip(rest.iter_mut()) {
            *rest += value;
            *scaled = *rest * down;
        }
        to_codes(wire, back, codes);
        from_codes(wire, codes, back);
        for (rest, rounded) in rest.iter_mut().zip(back.iter()) {
            let left = *rest - rounded * up;
            *rest = if left.is_finite() { left } else { 0.0 };
        }
    }
}

/// Hands every value of a packed piece to `take`.
fn unpack(wire: Wire, packed: &[u16], places: &mut [f32], take: impl Fn(&mut f32, f32)) {
    let Some((scale, codes)) = packed.split_first() else { return };
    let up = power(*scale as i16);
    let mut values = [0.0f32; BLOCK];
    for (places, codes) in places.chunks_mut(BLOCK).zip(codes.chunks(BLOCK)) {
        let values = &mut values[..places.len()];
        from_codes(wire, &codes[..places.len()], values);
        for (place, value) in places.iter_mut().zip(values.iter()) {
            take(place, value * up);
        }
    }
}

/// The power of two that brings the largest value to 2¹⁴…2¹⁵, of 2¹⁶ that half precision has.
fn exponent(wire: Wire, data: &[f32], rest: &[f32]) -> i16 {
    if wire != Wire::Fp16 {
        return 0;
    }
    let largest =
        data.iter().zip(rest).fold(0.0f32, |most, (value, rest)| most.max((value + rest).abs()));
    if largest == 0.0 || !largest.is_finite() {
        return 0;
    }
    let exponent = (largest.to_bits() >> 23) as i16 - 127;
    (exponent - 14).clamp(-100, 120)
}

/// 2 to the `exponent`, −126…127.
fn power(exponent: i16) -> f32 {
    f32::from_bits(((i32::from(exponent) + 127) as u32) << 23)
}

fn to_codes(wire: Wire, values: &[f32], codes: &mut [u16]) {
    if wire == Wire::Fp16 {
        return codes.reinterpret_cast_mut::<f16>().convert_from_f32_slice(values);
    }
    for (code, value) in codes.iter_mut().zip(values) {
        // To the nearest, ties to even; without a branch, so that it is done side by side.
        let bits = value.to_bits();
        let nearest = bits.wrapping_add(0x7FFF + (bits >> 16 & 1));
        let kept = if value.is_nan() { bits | 0x40_0000 } else { nearest };
        *code = (kept >> 16) as u16;
    }
}

fn from_codes(wire: Wire, codes: &[u16], values: &mut [f32]) {
    if wire == Wire::Fp16 {
        return codes.reinterpret_cast::<f16>().convert_to_f32_slice(values);
    }
    for (value, code) in values.iter_mut().zip(codes) {
        *value = f32::from_bits(u32::from(*code) << 16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(seed: u32, len: usize) -> Vec<f32> {
        let mut state = seed.wrapping_mul(747_796_405) | 1;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        (0..len)
            .map(|_| (next() as f32 / (1 << 23) as f32 - 1.0) * power(-(next() as i16 & 15)))
            .collect()
    }

    /// All three steps for all nodes, by hand.
    fn sum(wire: Wire, data: &mut [Vec<f32>], rests: &mut [Vec<f32>]) {
        let nodes = data.len();
        let pieces = Pieces { len: data[0].len(), nodes };
        let (words, mut all) = (pieces.words(), Vec::new());
        let mut sent = vec![vec![0; pieces.all_words()]; nodes];
        for node in 0..nodes {
            spread(wire, &data[node], &mut rests[node], nodes, &mut sent[node]);
        }
        for node in 0..nodes {
            let received: Vec<u16> =
                sent.iter().flat_map(|s| s[node * words..][..words].to_vec()).collect();
            let mut out = vec![0; words];
            let rest = &mut rests[node][pieces.of(node)];
            combine(wire, &received, rest, &mut Vec::new(), &mut out);
            all.extend(out);
        }
        for data in data {
            collect(wire, &all, nodes, data);
        }
    }

    #[test]
    fn nothing_is_lost_and_all_get_the_same() {
        for wire in [Wire::Bf16, Wire::Fp16] {
            for (nodes, len) in [(2, 1000), (3, 1201), (4, 3), (3, 1), (2, 0)] {
                let start: Vec<Vec<f32>> = (0..nodes).map(|n| values(n as u32, len)).collect();
                let (mut data, mut rests) = (start.clone(), vec![vec![0.0; len]; nodes]);
                sum(wire, &mut data, &mut rests);
                for i in 0..len {
                    let given: f64 = start.iter().map(|v| f64::from(v[i])).sum();
                    let kept: f64 = rests.iter().map(|v| f64::from(v[i])).sum();
                    let sum = f64::from(data[0][i]);
                    assert!(data.iter().all(|d| d[i].to_bits() == data[0][i].to_bits()));
                    assert!((given - kept - sum).abs() < 1e-6, "{wire} {given} {kept} {sum}");
                    assert!(kept.abs() <= 0.05, "{wire} {kept}");
                }
            }
        }
    }

    #[test]
    fn what_is_left_is_sent_later() {
        // Each value is far below what 16 bits can say beside 1; a thousand of them are not.
        for wire in [Wire::Bf16, Wire::Fp16] {
            let mut rests = vec![vec![0.0; 2]; 2];
            let mut total = 0.0;
            for _ in 0..1000 {
                let mut data = vec![vec![1.0, 1e-3], vec![1.0, 1.0]];
                sum(wire, &mut data, &mut rests);
                total += f64::from(data[0][1]);
            }
            assert!((total - 1001.0).abs() < 0.1, "{wire} {total}");
        }
    }

    #[test]
    fn any_range_fits_and_trouble_is_seen() {
        for wire in [Wire::Bf16, Wire::Fp16] {
            for size in [1e-30f32, 1e-8, 1.0, 1e6, 1e30] {
                let mut data = vec![vec![size, -size / 3.0]; 2];
                let mut rests = vec![vec![0.0; 2]; 2];
                sum(wire, &mut data, &mut rests);
                assert!((data[0][1] / size + 2.0 / 3.0).abs() < 0.01, "{wire} {data:?}");
            }
            let mut data = vec![vec![f32::NAN, f32::INFINITY, 1.0]; 2];
            let mut rests = vec![vec![0.0; 3]; 2];
            sum(wire, &mut data, &mut rests);
            assert!(data[1][0].is_nan() && data[1][1] == f32::INFINITY && data[1][2] == 2.0);
            assert!(rests.iter().flatten().all(|rest| *rest == 0.0));
        }
    }
}
