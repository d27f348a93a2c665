//! A small seeded generator of Gaussian numbers for the jitter of a link.

/// SplitMix64 (Steele, Lea, Flood, 2014) and the Box–Muller transform.
#[derive(Clone, Debug)]
pub(super) struct Noise(u64);

impl Noise {
    /// Another sequence for every seed and rank.
    pub(super) fn new(seed: u64, rank: usize) -> Self {
        let mut noise = Noise(seed);
        Noise(noise.word() ^ rank as u64)
    }

    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In (0, 1].
    fn unit(&mut self) -> f64 {
        ((self.word() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Mean 0, deviation 1.
    pub(super) fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_moments_of_a_normal_distribution() {
        let mut noise = Noise::new(7, 3);
        let values: Vec<f64> = (0..20_000).map(|_| noise.normal()).collect();
        let mean = values.iter().sum::<f64>() / 2e4;
        let variance = values.iter().map(|v| v * v).sum::<f64>() / 2e4;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        assert_ne!(Noise::new(7, 3).normal(), Noise::new(7, 4).normal());
    }
}
