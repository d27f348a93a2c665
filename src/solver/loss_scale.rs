//! The factor on the loss with which a net of 16 bits is differentiated ([`Scaler`]), so that small
//! gradients do not become zeros. It is taken out of the parameters' gradients again, in f32, before
//! anybody looks at them.

use serde::{Deserialize, Serialize};

use crate::device::cuda::Kind;

/// Where a dynamic scale starts: below half precision's largest number.
const FIRST: f32 = 65536.0;
/// Where it ends: without a scale an overflow is the net's own.
const LEAST: f32 = 1.0;
/// Above it gradients that are all next to zero would let it grow for ever.
const MOST: f32 = 16_777_216.0;
/// Updates without an overflow after which it doubles. One that is too large costs one update: so at most
/// one in 2000 is lost to trying.
const PATIENCE: u64 = 2000;

/// `--loss-scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LossScale {
    /// This one, always.
    Fixed(f32),
    /// As large as goes without overflow.
    Dynamic,
}

impl LossScale {
    /// What activations of a kind need: bfloat16 has the range of f32.
    pub fn usual(kind: Kind) -> LossScale {
        match kind {
            Kind::F16 => LossScale::Dynamic,
            Kind::F32 | Kind::Bf16 => LossScale::Fixed(1.0),
        }
    }
}

impl std::fmt::Display for LossScale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LossScale::Fixed(scale) => write!(f, "{scale}"),
            LossScale::Dynamic => f.write_str("dynamic"),
        }
    }
}

impl std::str::FromStr for LossScale {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "dynamic" => Ok(LossScale::Dynamic),
            Ok(scale) if f32::is_finite(scale) && scale > 0.0 => Ok(LossScale::Fixed(scale)),
            _ => Err("use dynamic, or a number above 0".to_owned()),
        }
    }
}

/// Where a scale stands, as snapshots keep it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScaleState {
    /// The factor.
    pub scale: f32,
    /// Updates since it last changed.
    pub good: u64,
}

/// The scale of one replica.
#[derive(Clone, Debug)]
pub struct Scaler {
    dynamic: bool,
    state: ScaleState,
}

impl Scaler {
    /// At its start.
    pub fn new(wanted: LossScale) -> Scaler {
        let (dynamic, scale) = match wanted {
            LossScale::Fixed(scale) => (false, scale),
            LossScale::Dynamic => (true, FIRST),
        };
        Scaler { dynamic, state: ScaleState { scale, good: 0 } }
    }

    /// The present factor.
    pub fn scale(&self) -> f32 {
        self.state.scale
    }

    /// Whether it changes.
    pub fn is_dynamic(&self) -> bool {
        self.dynamic
    }

    /// Whether a gradient that is not finite may be its fault: it can become smaller.
    pub fn can_shrink(&self) -> bool {
        self.dynamic && self.state.scale > LEAST
    }

    /// An update was dropped because of a gradient that is not finite; whether the scale is smaller
    /// now.
    pub fn overflowed(&mut self) -> bool {
        let shrinks = self.can_shrink();
        if shrinks {
            self.state = ScaleState { scale: (self.state.scale / 2.0).max(LEAST), good: 0 };
        }
        shrinks
    }

    /// An update was made; whether the scale is larger now.
    pub fn went_well(&mut self) -> bool {
        self.state.good += 1;
        let grows = self.dynamic && self.state.good >= PATIENCE && self.state.scale < MOST;
        if grows {
            self.state = ScaleState { scale: self.state.scale * 2.0, good: 0 };
        }
        grows
    }

    /// For a snapshot; `None`: there is nothing to remember.
    pub fn state(&self) -> Option<ScaleState> {
        self.dynamic.then_some(self.state)
    }

    /// From a snapshot.
    pub fn restore(&mut self, state: ScaleState) {
        if self.dynamic {
            self.state = state;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_says() {
        for value in [LossScale::Dynamic, LossScale::Fixed(128.0), LossScale::Fixed(0.5)] {
            assert_eq!(value.to_string().parse(), Ok(value));
        }
        for bad in ["0", "-1", "inf", "NaN", "auto", ""] {
            assert!(bad.parse::<LossScale>().is_err(), "{bad}");
        }
    }

    #[test]
    fn it_halves_at_once_and_doubles_with_patience() {
        let mut scaler = Scaler::new(LossScale::Dynamic);
        assert!(scaler.overflowed());
        assert_eq!(scaler.scale(), FIRST / 2.0);
        assert!((1..PATIENCE).all(|_| !scaler.went_well()));
        assert!(scaler.went_well());
        assert_eq!(scaler.scale(), FIRST);
        while scaler.can_shrink() {
            assert!(scaler.overflowed());
        }
        assert!(!scaler.overflowed());
        assert_eq!(scaler.scale(), LEAST);
        assert!((0..100 * PATIENCE).filter(|_| scaler.went_well()).count() > 20);
        assert_eq!(scaler.scale(), MOST);
    }

    #[test]
    fn a_fixed_one_stays() {
        let mut scaler = Scaler::new(LossScale::Fixed(8.0));
        scaler.restore(ScaleState { scale: 2.0, good: 7 });
        assert!(!scaler.overflowed() && scaler.state().is_none());
        assert!((0..2 * PATIENCE).all(|_| !scaler.went_well()));
        assert_eq!(scaler.scale(), 8.0);
    }
}
