//! Arrays of device memory in the number formats that libraries compute with.

use half::{bf16, f16};

use crate::places::{get, put};
use crate::world::Fault;

/// A number format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 32 bits.
    Float,
    /// IEEE's 16 bits.
    Half,
    /// The upper 16 of 32 bits.
    Bfloat,
}

impl Kind {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Kind::Float => 4,
            Kind::Half | Kind::Bfloat => 2,
        }
    }

    /// The number at an index, of memory that was checked.
    pub fn read(self, at: u64, index: usize) -> Result<f32, Fault> {
        let place = at + (index * self.bytes()) as u64;
        Ok(match self {
            Kind::Float => get(place as *const f32)?,
            Kind::Half => f16::from_bits(get(place as *const u16)?).to_f32(),
            Kind::Bfloat => bf16::from_bits(get(place as *const u16)?).to_f32(),
        })
    }

    /// The nearest number of this kind.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Kind::Float => value,
            Kind::Half => f16::from_f32(value).to_f32(),
            Kind::Bfloat => bf16::from_f32(value).to_f32(),
        }
    }

    /// Writes a number, rounded, into memory that was checked.
    pub fn write(self, at: u64, index: usize, value: f32) -> Result<(), Fault> {
        let place = at + (index * self.bytes()) as u64;
        Ok(match self {
            Kind::Float => put(place as *mut f32, value),
            Kind::Half => put(place as *mut u16, f16::from_f32(value).to_bits()),
            Kind::Bfloat => put(place as *mut u16, bf16::from_f32(value).to_bits()),
        }?)
    }
}

/// Rounded to TF32, whose mantissa has 10 bits besides the leading one.
pub fn tf32(value: f32) -> f32 {
    if !value.is_finite() {
        return value;
    }
    let bits = value.to_bits();
    f32::from_bits(bits.wrapping_add(0xfff + (bits >> 13 & 1)) & !0x1fff)
}
