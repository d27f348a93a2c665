//! [`Kind`]: what a device stores numbers as; [`Math`]: what it computes products with.

use serde::{Deserialize, Serialize};

use super::order::Order;

/// A format of floating-point numbers in device memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// 32 bits.
    #[default]
    F32,
    /// bfloat16: 8 significant bits, the range of f32.
    Bf16,
    /// IEEE half precision: 11 significant bits, at most 65504.
    F16,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::F32, Kind::Bf16, Kind::F16];

    /// Its name in file names and messages.
    pub fn name(self) -> &'static str {
        match self {
            Kind::F32 => "f32",
            Kind::Bf16 => "bf16",
            Kind::F16 => "fp16",
        }
    }

    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        if self == Kind::F32 { 4 } else { 2 }
    }

    /// Floats of device memory that `n` numbers need.
    pub fn floats(self, n: usize) -> usize {
        if self == Kind::F32 { n } else { n.div_ceil(2) }
    }

    /// The number of this kind that is nearest to `x`; of two, the even one.
    pub fn round(self, x: f32) -> f32 {
        match self {
            Kind::F32 => x,
            Kind::Bf16 => half::bf16::from_f32(x).to_f32(),
            Kind::F16 => half::f16::from_f32(x).to_f32(),
        }
    }
}

/// What a device computes with: `--precision`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Math {
    /// 32 bits all the way.
    #[default]
    F32,
    /// Factors of products are rounded to TF32 (11 significant bits) where that is faster.
    Tf32,
    /// Activations, their gradients and the factors of products in bfloat16; weights, sums and
    /// statistics in 32 bits.
    Bf16,
    /// The same in half precision.
    F16,
}

impl Math {
    /// What activations are stored as.
    pub fn kind(self) -> Kind {
        match self {
            Math::F32 | Math::Tf32 => Kind::F32,
            Math::Bf16 => Kind::Bf16,
            Math::F16 => Kind::F16,
        }
    }

    /// How activations lie best: tensor cores' convolutions are made for channels last.
    pub fn order(self) -> Order {
        if self == Math::F32 { Order::Plain } else { Order::ChannelsLast }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Math::Tf32 => "tf32",
            other => other.kind().name(),
        }
    }
}
