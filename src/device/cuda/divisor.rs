//! [`Divisor`]: what a number has to be turned into so that kernels divide by it without a division.
//!
//! A GPU divides in dozens of instructions: more than everything else that an element of a blob takes.
//! By a number that is known beforehand it is a product, a sum and a shift (Granlund and Montgomery,
//! "Division by Invariant Integers using Multiplication", 1994).

use super::backend::Arg;

/// A number from 1 to 2³¹ − 1, as kernels' `Divisor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divisor(u64);

impl Divisor {
    /// Of a number; 0 counts as 1, since nobody divides an empty blob. Extents of blobs are below 2³¹.
    pub fn new(number: usize) -> Divisor {
        let d = number.max(1) as u64;
        debug_assert!(d < 1 << 31, "{number}");
        // The least power of two that is not below d.
        let power = d.next_power_of_two();
        let magic = ((power - d) << 32) / d + 1;
        Divisor((magic << 32) | d)
    }
}

impl From<Divisor> for Arg {
    fn from(divisor: Divisor) -> Arg {
        Arg::Long(divisor.0.cast_signed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the prelude's `over` does.
    fn over(n: u32, Divisor(d): Divisor) -> u32 {
        let (magic, number) = (d >> 32, d as u32);
        let shift = 32 - (number - 1).leading_zeros();
        let high = ((u64::from(n) * magic) >> 32) as u32;
        ((u64::from(high) + u64::from(n)) >> shift) as u32
    }

    #[test]
    fn quotients_are_exact() {
        let most = i32::MAX as u32;
        let numbers = (1..=300).chain([641, 4096, 50_176, 65_535, 65_537, 1 << 30, most - 1, most]);
        for d in numbers {
            let divisor = Divisor::new(d as usize);
            let near = |k: u64| (k * u64::from(d)).saturating_sub(2)..k * u64::from(d) + 3;
            let many = [0, 1, 2, 3, 1000, 12_345_678 / u64::from(d), u64::from(most / d)];
            for n in many.into_iter().flat_map(near).chain([u64::from(most)]) {
                let n = n.min(u64::from(most)) as u32;
                assert_eq!(over(n, divisor), n / d, "{n} / {d}");
            }
        }
    }
}
