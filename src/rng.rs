//! Random numbers: the counter-based generator Philox-4x32-10 (Salmon et al., "Parallel random
//! numbers: as easy as 1, 2, 3", SC 2011). A number is a pure function of seed, stream and counter,
//! so what a record or a weight gets does not depend on threads, replicas or order of execution.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Ten rounds of Philox-4x32 over a 128-bit counter with a 64-bit key.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// A family of independent streams for one seed.
#[derive(Clone, Copy, Debug)]
pub struct Philox {
    key: [u32; 2],
    stream: [u32; 2],
}

impl Philox {
    /// The stream number `stream` of a seed.
    pub fn new(seed: u64, stream: u64) -> Self {
        Philox { key: halves(seed), stream: halves(stream) }
    }

    /// The four random words at a counter.
    pub fn at(&self, counter: u64) -> [u32; 4] {
        let c = halves(counter);
        philox([c[0], c[1], self.stream[0], self.stream[1]], self.key)
    }

    /// A uniform number in [0, 1) at a counter.
    pub fn uniform(&self, counter: u64) -> f32 {
        unit(self.at(counter)[0])
    }

    /// A uniform integer in 0..n at a counter; 0 for n = 0.
    pub fn below(&self, counter: u64, n: u32) -> u32 {
        ((u64::from(self.at(counter)[0]) * u64::from(n)) >> 32) as u32
    }

    /// The stream's numbers one after the other, from the beginning.
    pub fn sequence(self) -> Sequence {
        Sequence { philox: self, counter: 0, words: [0; 4], used: 4, spare: None }
    }
}

/// A stream read in order.
#[derive(Clone, Debug)]
pub struct Sequence {
    philox: Philox,
    counter: u64,
    words: [u32; 4],
    used: usize,
    spare: Option<f32>,
}

impl Sequence {
    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            self.words = self.philox.at(self.counter);
            self.counter += 1;
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f32 {
        unit(self.next_u32())
    }

    /// Standard normal (Box–Muller; both values of a pair are used).
    pub fn normal(&mut self) -> f32 {
        if let Some(z) = self.spare.take() {
            return z;
        }
        // 1 - u lies in (0, 1], so that the logarithm is finite.
        let radius = (-2.0 * (1.0 - f64::from(self.uniform())).ln()).sqrt();
        let angle = std::f64::consts::TAU * f64::from(self.uniform());
        self.spare = Some((radius * angle.sin()) as f32);
        (radius * angle.cos()) as f32
    }
}

fn halves(x: u64) -> [u32; 2] {
    [x as u32, (x >> 32) as u32]
}

/// The top 24 bits as a number in [0, 1): every value is exact in f32.
fn unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / (1 << 24) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers published with Random123.
    #[test]
    fn known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]
        );
        assert_eq!(
            philox(
                [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
                [0xa4093822, 0x299f31d0]
            ),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn moments_are_right() {
        let mut s = Philox::new(7, 3).sequence();
        let n = 100_000;
        let z: Vec<f64> = (0..n).map(|_| f64::from(s.normal())).collect();
        let mean = z.iter().sum::<f64>() / n as f64;
        let var = z.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.015 && (var - 1.0).abs() < 0.02, "mean {mean}, variance {var}");
        let u: f64 = (0..n).map(|_| f64::from(s.uniform())).sum::<f64>() / n as f64;
        assert!((u - 0.5).abs() < 0.005, "{u}");
    }

    #[test]
    fn streams_and_seeds_differ() {
        assert_ne!(Philox::new(1, 0).at(0), Philox::new(1, 1).at(0));
        assert_ne!(Philox::new(1, 0).at(0), Philox::new(2, 0).at(0));
        assert!((0..1000).all(|c| Philox::new(1, 0).below(c, 7) < 7));
    }
}
