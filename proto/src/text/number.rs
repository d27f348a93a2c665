//! Floats as C's `printf` writes them with `%g`, with the fewest digits that read back equal.

use std::fmt;

/// Shortest text that parses back to `value`: `0.1`, `1e-05`, `inf`, `nan`.
pub(super) fn float(value: f32) -> String {
    shortest(format!("{value:e}"), f64::from(value), 6, 9)
}

/// Shortest text that parses back to `value`.
pub(super) fn double(value: f64) -> String {
    shortest(format!("{value:e}"), value, 15, 17)
}

/// `scientific` is Rust's shortest form, like `1.25e-3`. As with `%g`, an exponent is written where
/// it is below -4 or has no place in `usual` digits (`most` if more digits than that are needed).
fn shortest(scientific: String, value: f64, usual: usize, most: usize) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value < 0.0 { "-inf" } else { "inf" }.to_owned();
    }
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count();
    let precision = if digits <= usual { usual } else { most };
    if exponent < -4 || exponent >= precision as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs());
    }
    let plain = Plain { mantissa, exponent };
    plain.to_string()
}

/// A mantissa like `-1.25` and its exponent, shown without one.
struct Plain<'a> {
    mantissa: &'a str,
    exponent: i32,
}

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unsigned = self.mantissa.trim_start_matches('-');
        if unsigned.len() < self.mantissa.len() {
            f.write_str("-")?;
        }
        let digits: String = unsigned.chars().filter(|&c| c != '.').collect();
        let Ok(exponent) = usize::try_from(self.exponent) else {
            let zeros = self.exponent.unsigned_abs() as usize - 1;
            return write!(f, "0.{}{digits}", "0".repeat(zeros));
        };
        let whole = exponent + 1;
        match digits.len().checked_sub(whole) {
            None | Some(0) => write!(f, "{digits}{}", "0".repeat(whole - digits.len())),
            Some(_) => write!(f, "{}.{}", &digits[..whole], &digits[whole..]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_look_as_in_c() {
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.0, "-1"),
            (0.1, "0.1"),
            (0.01, "0.01"),
            (0.0001, "0.0001"),
            (1e-5, "1e-05"),
            (-2.5e-7, "-2.5e-07"),
            (0.00390625, "0.00390625"),
            (100.0, "100"),
            (117.5, "117.5"),
            (100000.0, "100000"),
            (1e6, "1e+06"),
            (1234567.0, "1234567"),
            (16777216.0, "16777216"),
            (f32::MAX, "3.4028235e+38"),
            (f32::INFINITY, "inf"),
            (f32::NEG_INFINITY, "-inf"),
            (f32::NAN, "nan"),
        ];
        for (value, text) in cases {
            assert_eq!(float(value), text);
        }
        assert_eq!(double(1e-5), "1e-05");
        assert_eq!(double(123456789.0), "123456789");
        assert_eq!(double(1e15), "1e+15");
        assert_eq!(double(0.1), "0.1");
    }

    #[test]
    fn every_float_reads_back() {
        // A walk over all exponents and many mantissas.
        let mut bits = 1_u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = f32::from_bits(bits);
            let back: f32 = float(value).parse().unwrap();
            assert!(back.to_bits() == bits || value.is_nan() && back.is_nan(), "{value:e}");
        }
    }
}
