//! Where numbers stop being numbers: a fast check, and the search for the first layer that has some.

use super::Net;
use crate::Result;
use crate::data::Batch;

/// Exponent bits of an f32: all set in NaN and infinity, and only there.
const EXPONENT: u32 = 0x7f80_0000;
/// Values looked at before the loop may end: a cache-sized piece, so that the loop has no branches.
const PIECE: usize = 4096;

/// Whether all values are finite. Runs at the speed of memory.
pub fn all_finite(values: &[f32]) -> bool {
    values.chunks(PIECE).all(|piece| {
        let odd = |v: &f32| u32::from(v.to_bits() & EXPONENT == EXPONENT);
        piece.iter().fold(0, |any, v| any | odd(v)) == 0
    })
}

impl Net {
    /// After a forward pass: the first layer with an output that is not finite, in words, with what
    /// is wrong with its weights and, for a layer that reads records, with its records.
    ///
    /// # Errors
    /// A conversion that fails.
    pub fn first_not_finite(&mut self) -> Result<Option<String>> {
        for index in 0..self.nodes.len() {
            for top in self.nodes[index].top.clone() {
                if all_finite(self.data(top)?) {
                    continue;
                }
                let node = &self.nodes[index];
                let place = node.place.as_ref().map_or(String::new(), |p| format!(" at {p}"));
                let mut text = format!("layer `{}` ({}){place}", node.name(), node.def.type_name);
                let params = node.params.clone();
                for id in params {
                    if !all_finite(self.params.values(id)?) {
                        text.push_str(", whose weights are not finite");
                        break;
                    }
                }
                let odd = self.odd_records(index, top)?;
                if !odd.is_empty() {
                    text.push_str(&format!(", in record {}", odd.join(", ")));
                }
                return Ok(Some(text));
            }
        }
        Ok(None)
    }

    /// After a backward pass: the layer nearest to the loss with a gradient that is not finite.
    ///
    /// # Errors
    /// A device that has the gradients and failed.
    pub fn last_gradient_not_finite(&mut self) -> Result<Option<String>> {
        for node in self.nodes.iter().rev() {
            for &id in &node.params {
                if !all_finite(self.params.gradient(id)?) {
                    let name = format!("layer `{}` ({})", node.name(), node.def.type_name);
                    return Ok(Some(name));
                }
            }
        }
        Ok(None)
    }

    /// The batches that the data layers were fed last.
    pub fn fed(&self) -> impl Iterator<Item = &Batch> {
        self.nodes.iter().filter_map(|node| node.layer.fed())
    }

    /// Keys of the records in whose values a data layer's output is not finite.
    fn odd_records(&mut self, index: usize, top: usize) -> Result<Vec<String>> {
        let Some(keys) = self.nodes[index].layer.fed().map(|batch| batch.keys.clone()) else {
            return Ok(Vec::new());
        };
        let values = self.data(top)?;
        let each = values.len() / keys.len().max(1);
        let rows = values.chunks(each.max(1)).zip(&keys);
        Ok(rows.filter(|(row, _)| !all_finite(row)).map(|(_, key)| key_text(key)).collect())
    }
}

/// A record's key as people write it.
pub fn key_text(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::all_finite;

    #[test]
    fn one_odd_value_anywhere_is_seen() {
        let mut values = vec![f32::MAX; 10_001];
        values[17] = f32::MIN_POSITIVE / 2.0;
        assert!(all_finite(&values) && all_finite(&[]));
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
            for at in [0, 4095, 4096, 10_000] {
                let before = std::mem::replace(&mut values[at], odd);
                assert!(!all_finite(&values), "{odd} at {at}");
                values[at] = before;
            }
        }
    }

    #[test]
    fn a_gradient_of_googlenet_is_looked_at_in_milliseconds() {
        // 53.5 MB, of an iteration that takes 310 ms.
        let values = vec![1.0f32; 13_378_280];
        let start = std::time::Instant::now();
        assert!((0..10).all(|_| all_finite(&values)));
        let each = start.elapsed() / 10;
        println!("{each:?} for {} MB", values.len() * 4 / 1_000_000);
        assert!(each < std::time::Duration::from_millis(200), "{each:?}");
    }
}
