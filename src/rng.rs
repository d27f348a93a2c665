//! Random numbers that are a function of what they are for: Philox-4x32-10.
//!
//! A counter-based generator has no state to carry along: the numbers at counter n are computed
//! from n. So what a record meets (crop, mirror, dropout mask) depends on the seed, the layer and
//! the record's position, and on nothing else: not on threads, replicas or the order of work.
//!
//! Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011);
//! checked against the known answers published with their Random123 library. Not for cryptography.
//!
//! ```
//! use caffe::rng::{Philox, stream_id};
//!
//! let mask = Philox::new(1701, stream_id("drop6"));
//! assert_eq!(mask.at(12), Philox::new(1701, stream_id("drop6")).at(12));
//!
//! let mut weights = Philox::new(1701, stream_id("conv1/0")).sequence();
//! let w = weights.normal();
//! assert!(w.abs() < 10.0);
//! ```

const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
const ROUNDS: usize = 10;

/// 2⁶⁴ streams for each seed, each with 2⁶⁴ blocks of four 32-bit numbers that can be computed in
/// any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Philox {
    key: [u32; 2],
    stream: [u32; 2],
}

impl Philox {
    /// The generator of `stream` (see [`stream_id`]) under `seed`.
    pub const fn new(seed: u64, stream: u64) -> Self {
        Self { key: halves(seed), stream: halves(stream) }
    }

    /// The four numbers of block `counter`, each uniform over all 32-bit values.
    #[inline]
    pub const fn at(&self, counter: u64) -> [u32; 4] {
        let [low, high] = halves(counter);
        philox([low, high, self.stream[0], self.stream[1]], self.key)
    }

    /// Key and stream, as [`philox_cuda`] takes them.
    pub(crate) const fn words(&self) -> [u32; 4] {
        [self.key[0], self.key[1], self.stream[0], self.stream[1]]
    }

    /// A number in [0, 1) from block `counter`.
    #[inline]
    pub fn uniform(&self, counter: u64) -> f32 {
        unit_f32(self.at(counter)[0])
    }

    /// The numbers of all blocks in order, from block 0.
    pub const fn sequence(self) -> Sequence {
        Sequence { philox: self, counter: 0, block: [0; 4], left: 0, spare: None }
    }
}

/// [`Philox::at`] and [`unit_f32`] for kernels, to be put before their text.
macro_rules! philox_cuda {
    () => {
        r#"
static __device__ __forceinline__ void philox(uint64 counter, uint32 key0, uint32 key1,
                                              uint32 stream0, uint32 stream1, uint32* out) {
  uint32 c0 = (uint32)counter, c1 = (uint32)(counter >> 32), c2 = stream0, c3 = stream1;
  for (int round = 0; round < 10; ++round) {
    uint64 p0 = 0xd2511f53ull * c0, p1 = 0xcd9e8d57ull * c2;
    uint32 n0 = (uint32)(p1 >> 32) ^ c1 ^ key0, n2 = (uint32)(p0 >> 32) ^ c3 ^ key1;
    c1 = (uint32)p1;
    c3 = (uint32)p0;
    c0 = n0;
    c2 = n2;
    key0 += 0x9e3779b9u;
    key1 += 0xbb67ae85u;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

// A number in [0, 1).
static __device__ __forceinline__ float unit(uint32 word) { return (word >> 8) * (1.0f / 16777216.0f); }
"#
    };
}
pub(crate) use philox_cuda;

/// A stream number for a name, such as a layer's; equal on all machines (64-bit FNV-1a).
pub fn stream_id(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// `word` as a number in [0, 1), a multiple of 2⁻²⁴.
#[inline]
pub fn unit_f32(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / (1 << 24) as f32)
}

/// `word` as a number in 0..n (0 when `n` is 0). Uniform up to n/2³².
#[inline]
pub fn below(word: u32, n: u32) -> u32 {
    ((u64::from(word) * u64::from(n)) >> 32) as u32
}

/// One stream read from its start.
#[derive(Debug, Clone)]
pub struct Sequence {
    philox: Philox,
    counter: u64,
    block: [u32; 4],
    left: usize,
    spare: Option<f64>,
}

impl Sequence {
    /// Uniform over all 32-bit values.
    pub fn next_u32(&mut self) -> u32 {
        if self.left == 0 {
            self.block = self.philox.at(self.counter);
            self.counter += 1;
            self.left = 4;
        }
        self.left -= 1;
        self.block[3 - self.left]
    }

    /// Uniform over all 64-bit values.
    pub fn next_u64(&mut self) -> u64 {
        let low = self.next_u32();
        u64::from(self.next_u32()) << 32 | u64::from(low)
    }

    /// Uniform in [0, 1), a multiple of 2⁻²⁴.
    pub fn uniform_f32(&mut self) -> f32 {
        unit_f32(self.next_u32())
    }

    /// Uniform in [0, 1), a multiple of 2⁻⁵³.
    pub fn uniform_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in 0..n (0 when `n` is 0), up to n/2⁶⁴.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Gaussian with mean 0 and deviation 1 (Box–Muller).
    pub fn normal(&mut self) -> f64 {
        if let Some(value) = self.spare.take() {
            return value;
        }
        // 1 − u lies in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.uniform_f64()).ln()).sqrt();
        let (sine, cosine) = (std::f64::consts::TAU * self.uniform_f64()).sin_cos();
        self.spare = Some(radius * sine);
        radius * cosine
    }
}

const fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

#[inline]
const fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let mut round = 0;
    while round < ROUNDS {
        let [low0, high0] = halves(MULTIPLIERS[0] as u64 * counter[0] as u64);
        let [low1, high1] = halves(MULTIPLIERS[1] as u64 * counter[2] as u64);
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        round += 1;
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_answers_come_out() {
        // `philox4x32 10` in the kat_vectors of Random123.
        let ones = u32::MAX;
        let cases = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([ones; 4], [ones; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, wanted) in cases {
            assert_eq!(philox(counter, key), wanted);
            let join = |[low, high]: [u32; 2]| u64::from(high) << 32 | u64::from(low);
            let [a, b, c, d] = counter;
            assert_eq!(Philox::new(join(key), join([c, d])).at(join([a, b])), wanted);
        }
    }

    #[test]
    fn a_sequence_is_the_blocks_in_order() {
        let philox = Philox::new(3, 4);
        let mut sequence = philox.sequence();
        for counter in 0..5 {
            for word in philox.at(counter) {
                assert_eq!(sequence.next_u32(), word);
            }
        }
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let n = 200_000;
        let mut sequence = Philox::new(1, stream_id("moments")).sequence();
        let moments = |values: &mut dyn FnMut() -> f64| {
            let (mut sum, mut squares) = (0.0, 0.0);
            for _ in 0..n {
                let value = values();
                sum += value;
                squares += value * value;
            }
            let mean = sum / f64::from(n);
            (mean, squares / f64::from(n) - mean * mean)
        };
        let near = |(mean, variance): (f64, f64), wanted: (f64, f64)| {
            assert!((mean - wanted.0).abs() < 0.01 && (variance - wanted.1).abs() < 0.02);
        };
        near(moments(&mut || sequence.normal()), (0.0, 1.0));
        near(moments(&mut || sequence.uniform_f64()), (0.5, 1.0 / 12.0));
        near(moments(&mut || sequence.uniform_f32().into()), (0.5, 1.0 / 12.0));
        near(moments(&mut || sequence.below(2) as f64), (0.5, 0.25));
        near(moments(&mut || below(sequence.next_u32(), 3).into()), (1.0, 2.0 / 3.0));
    }

    #[test]
    fn streams_and_seeds_differ() {
        let block = |seed, name| Philox::new(seed, stream_id(name)).at(0);
        assert_ne!(block(1, "a"), block(1, "b"));
        assert_ne!(block(1, "a"), block(2, "a"));
        assert_eq!(below(u32::MAX, 5), 4);
        assert_eq!(below(u32::MAX, 0), 0);
        assert!(unit_f32(u32::MAX) < 1.0);
    }
}
