//! The largest of n normal numbers: how long the slowest of n equal replicas takes.

/// Mean and standard deviation of the largest of some independent standard normal numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Largest {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub deviation: f64,
}

/// Where the density is integrated, and in what steps.
const FROM: f64 = -9.0;
const STEP: f64 = 1e-3;

impl Largest {
    /// Of so many, at least one. The density n·φ(x)·Φ(x)ⁿ⁻¹ is integrated.
    pub fn of(count: usize) -> Largest {
        let n = count.max(1) as f64;
        let density = |x: f64| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
        let (mut below, mut mean, mut square) = (0.0f64, 0.0, 0.0);
        for step in 0..(-2.0 * FROM / STEP) as usize {
            let x = FROM + (step as f64 + 0.5) * STEP;
            let part = density(x) * STEP;
            let weight = n * part * (below + 0.5 * part).powf(n - 1.0);
            below += part;
            mean += x * weight;
            square += x * x * weight;
        }
        Largest { mean, deviation: (square - mean * mean).max(0.0).sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_tables() {
        // Tippett, 1925, and Teichroew, 1956: means; for two, deviation √(1 − 1/π).
        for (n, mean) in [(1, 0.0), (2, 0.56419), (4, 1.02938), (16, 1.76599), (100, 2.50759)] {
            assert!((Largest::of(n).mean - mean).abs() < 1e-4, "{n}: {:?}", Largest::of(n));
        }
        assert!((Largest::of(1).deviation - 1.0).abs() < 1e-4);
        let two = (1.0 - std::f64::consts::FRAC_1_PI).sqrt();
        assert!((Largest::of(2).deviation - two).abs() < 1e-4);
    }
}
