//! One fast, stable 64-bit hash for plans, configurations and weights: [`Digest`].
//!
//! Not cryptographic: it finds differences, it does not resist an attacker. Stable between
//! processes of one build, which is all that comparing ranks needs (ranks run one binary; the
//! standard library's default hasher is seeded per process).

use std::hash::Hasher;

const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

/// A running 64-bit hash: four lanes for bulk data so that it keeps up with memory.
#[derive(Clone, Debug)]
pub struct Digest {
    state: u64,
}

impl Default for Digest {
    fn default() -> Self {
        Digest { state: 0x243F_6A88_85A3_08D3 }
    }
}

fn mix(state: u64, word: u64) -> u64 {
    let product = u128::from(state ^ word) * u128::from(MULTIPLIER | 1);
    (product as u64) ^ ((product >> 64) as u64).rotate_left(23) ^ word.rotate_left(41)
}

impl Digest {
    /// Adds the bits of floats: `-0.0` differs from `0.0`, and every NaN from every other.
    pub fn floats(&mut self, data: &[f32]) {
        let mut lanes = [self.state, !self.state, self.state.rotate_left(17), data.len() as u64];
        let groups = data.chunks_exact(8);
        let rest = groups.remainder();
        for group in groups {
            for (lane, pair) in lanes.iter_mut().zip(group.chunks_exact(2)) {
                let word = u64::from(pair[0].to_bits()) | u64::from(pair[1].to_bits()) << 32;
                *lane = mix(*lane, word);
            }
        }
        for value in rest {
            lanes[0] = mix(lanes[0], u64::from(value.to_bits()));
        }
        self.state = lanes.into_iter().fold(self.state, mix);
    }
}

impl Hasher for Digest {
    fn finish(&self) -> u64 {
        mix(self.state, MULTIPLIER)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.state = mix(self.state, u64::from_le_bytes(word) ^ (chunk.len() as u64) << 56);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(data: &[f32]) -> u64 {
        let mut digest = Digest::default();
        digest.floats(data);
        digest.finish()
    }

    #[test]
    fn sees_every_bit_and_every_place() {
        let base: Vec<f32> = (0..1003).map(|i| i as f32 * 0.37).collect();
        let reference = of(&base);
        assert_eq!(reference, of(&base));
        for place in [0, 1, 7, 8, 500, 1000, 1002] {
            let mut changed = base.clone();
            changed[place] = f32::from_bits(changed[place].to_bits() ^ 1);
            assert_ne!(reference, of(&changed), "place {place}");
        }
        let mut swapped = base.clone();
        swapped.swap(8, 16);
        assert_ne!(reference, of(&swapped));
        assert_ne!(of(&[0.0]), of(&[-0.0]));
    }
}
