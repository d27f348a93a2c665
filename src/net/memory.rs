//! The memory plan: which blobs share a slab because their lifetimes never meet, and whether there
//! is enough for all of it.

use crate::blob::{Shape, Store};
use crate::{Result, ensure};

/// When the memory of one alias group is needed, in layer numbers, and how much.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime {
    /// First step that uses it.
    pub from: usize,
    /// Last step that uses it.
    pub to: usize,
    /// Floats.
    pub len: usize,
    /// Never shared: net inputs and outputs, and everything a caller asked to keep.
    pub keep: bool,
}

impl Lifetime {
    /// Extends the lifetime to a step at which `len` floats are used.
    pub fn touch(&mut self, step: usize, len: usize) {
        self.from = self.from.min(step);
        self.to = self.to.max(step);
        self.len = self.len.max(len);
    }
}

/// Gives every lifetime a slab number such that overlapping ones differ; returns the numbers and
/// the size of each slab. Larger groups choose first, and take the free slab nearest in size.
pub fn assign(lifetimes: &[Lifetime]) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<usize> = (0..lifetimes.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(lifetimes[i].len), i));
    let mut slab_of = vec![0; lifetimes.len()];
    let mut slabs: Vec<(usize, Vec<usize>)> = Vec::new();
    for i in order {
        let wanted = lifetimes[i];
        let fits = |members: &[usize]| {
            !wanted.keep
                && members.iter().all(|&m| {
                    let other = lifetimes[m];
                    !other.keep && (other.to < wanted.from || wanted.to < other.from)
                })
        };
        let free = (0..slabs.len()).filter(|&s| fits(&slabs[s].1)).min_by_key(|&s| slabs[s].0);
        let slab = free.unwrap_or_else(|| {
            slabs.push((wanted.len, Vec::new()));
            slabs.len() - 1
        });
        slabs[slab].1.push(i);
        slab_of[i] = slab;
    }
    (slab_of, slabs.into_iter().map(|(len, _)| len).collect())
}

/// Floats of all slabs together, in one representation.
pub fn floats(store: &Store) -> u128 {
    store.slabs.iter().map(|s| s.capacity() as u128).sum()
}

/// Refuses a net that needs more memory than `limit` bytes for so many floats of blobs, parameters and
/// the gradients of both, before any of it is touched.
///
/// # Errors
/// When it does; the message says how much it needs.
pub fn check(net: &str, floats: u128, limit: u64) -> Result<()> {
    let needed = floats * size_of::<f32>() as u128;
    ensure!(
        needed <= u128::from(limit),
        "net `{net}` needs {:.1} GiB for blobs, gradients and parameters, but there are {:.1} GiB; \
         lower batch_size",
        gib(needed),
        gib(limit.into())
    );
    Ok(())
}

/// Refuses a single blob that does not fit into `limit` bytes, before a layer needs memory in
/// proportion to it.
///
/// # Errors
/// When it does not.
pub fn check_blob(shape: &Shape, limit: u64) -> Result<()> {
    shape.check_size()?;
    let needed = (shape.count() * size_of::<f32>()) as u128;
    ensure!(
        needed <= u128::from(limit),
        "a blob of shape {shape} needs {:.1} GiB, but there are {:.1} GiB",
        gib(needed),
        gib(limit.into())
    );
    Ok(())
}

fn gib(bytes: u128) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::Slab;

    #[test]
    fn more_than_there_is_is_refused() {
        let store = Store { blobs: Vec::new(), slabs: vec![Slab::with_capacity(1 << 28)] };
        assert!(check("small", floats(&store) + (1 << 28), 2 << 30).is_ok());
        let message = check("large", floats(&store) + (1 << 29), 2 << 30).unwrap_err().to_string();
        assert!(message.contains("`large` needs 3.0 GiB"), "{message}");
        assert!(message.contains("there are 2.0 GiB"), "{message}");
        let message = check_blob(&Shape::from([1 << 30]), 2 << 30).unwrap_err().to_string();
        assert!(message.contains("(1073741824) needs 4.0 GiB"), "{message}");
    }

    fn life(from: usize, to: usize, len: usize) -> Lifetime {
        Lifetime { from, to, len, keep: false }
    }

    #[test]
    fn a_chain_needs_two_slabs() {
        let chain: Vec<_> = (0..10).map(|i| life(i, i + 1, 100)).collect();
        let (of, slabs) = assign(&chain);
        assert_eq!(slabs.len(), 2);
        assert!(of.windows(2).all(|w| w[0] != w[1]));
    }

    #[test]
    fn kept_memory_is_not_shared() {
        let mut a = vec![life(0, 1, 10), life(5, 6, 10), life(8, 9, 10)];
        a[1].keep = true;
        let (of, slabs) = assign(&a);
        assert_eq!(slabs.len(), 2);
        assert_eq!(of[0], of[2]);
        assert_ne!(of[0], of[1]);
    }

    #[test]
    fn overlapping_lifetimes_never_meet() {
        let mut state = 1u64;
        let mut next = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 33) % n) as usize
        };
        let lives: Vec<_> = (0..200)
            .map(|_| {
                let from = next(50);
                life(from, from + next(10), 1 + next(1000))
            })
            .collect();
        let (of, slabs) = assign(&lives);
        for i in 0..lives.len() {
            assert!(lives[i].len <= slabs[of[i]]);
            for j in 0..i {
                let apart = lives[i].to < lives[j].from || lives[j].to < lives[i].from;
                assert!(of[i] != of[j] || apart);
            }
        }
    }
}
