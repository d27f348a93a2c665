//! [`Pool`]: places in one block of memory, by length. No memory is touched here.
//!
//! The memory of a job is forecast by asking a pool without end for everything that the job will ask
//! for ([`Meter`](super::meter::Meter)); a device's pool, asked for the same in the same order, then
//! needs no more than that.

use std::collections::BTreeMap;

/// Bytes to which places are aligned: what the driver's own allocations have.
const ALIGNED: u64 = 256;

/// Places in a block: taken, given back, never moved.
#[derive(Debug)]
pub struct Pool {
    size: u64,
    /// Where the part begins that is free to the block's end.
    end: u64,
    /// Free places before `end`, by start, with their lengths; neighbours are joined.
    gaps: BTreeMap<u64, u64>,
    taken: BTreeMap<u64, u64>,
    /// The largest `end` there was.
    high: u64,
}

impl Pool {
    /// All free, in a block of so many bytes.
    pub fn new(size: u64) -> Pool {
        Pool { size, end: 0, gaps: BTreeMap::new(), taken: BTreeMap::new(), high: 0 }
    }

    /// Where so many bytes are free from now on somebody's; `None` where there is no room.
    pub fn take(&mut self, bytes: usize) -> Option<u64> {
        let length = (bytes.max(1) as u64).checked_next_multiple_of(ALIGNED)?;
        // The smallest gap that is large enough leaves the large ones whole.
        let fits = self.gaps.iter().filter(|(_, gap)| **gap >= length);
        let at = match fits.min_by_key(|(_, gap)| **gap).map(|(at, gap)| (*at, *gap)) {
            Some((at, gap)) => {
                self.gaps.remove(&at);
                if gap > length {
                    self.gaps.insert(at + length, gap - length);
                }
                at
            }
            None if length <= self.size - self.end => {
                self.end += length;
                self.high = self.high.max(self.end);
                self.end - length
            }
            None => return None,
        };
        self.taken.insert(at, length);
        Some(at)
    }

    /// Takes a place back; whether it was one that `take` gave.
    pub fn give(&mut self, at: u64) -> bool {
        let Some(mut length) = self.taken.remove(&at) else { return false };
        let mut start = at;
        if let Some((&before, &gap)) = self.gaps.range(..at).next_back()
            && before + gap == at
        {
            self.gaps.remove(&before);
            (start, length) = (before, length + gap);
        }
        if let Some(gap) = self.gaps.remove(&(start + length)) {
            length += gap;
        }
        match start + length == self.end {
            true => self.end = start,
            false => drop(self.gaps.insert(start, length)),
        }
        true
    }

    /// Bytes that are somebody's now.
    pub fn held(&self) -> u64 {
        self.taken.values().sum()
    }

    /// Bytes that are free, in whatever pieces.
    pub fn left(&self) -> u64 {
        self.size - self.held()
    }

    /// Bytes of a block that would have been large enough so far.
    pub fn high(&self) -> u64 {
        self.high
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_that_are_given_back_become_one() {
        let mut pool = Pool::new(1024);
        let places: Vec<u64> = (0..4).map(|_| pool.take(200).unwrap()).collect();
        assert_eq!(places, [0, 256, 512, 768]);
        assert_eq!((pool.take(1), pool.left()), (None, 0));
        assert!(pool.give(256) && pool.give(512) && !pool.give(512) && !pool.give(1));
        assert_eq!(pool.take(512), Some(256));
        assert_eq!((pool.held(), pool.left(), pool.high()), (1024, 0, 1024));
    }

    #[test]
    fn the_tightest_gap_is_taken_and_the_end_moves_back() {
        let mut pool = Pool::new(u64::MAX);
        let [a, b, c, d] = [512, 256, 256, 256].map(|bytes| pool.take(bytes).unwrap());
        assert!(pool.give(a) && pool.give(c));
        assert_eq!(pool.take(256), Some(c));
        assert!(pool.give(d) && pool.give(c));
        assert_eq!(pool.take(4096), Some(c), "where c and d were is the end");
        assert_eq!(pool.held(), 256 + 4096);
        assert!(pool.give(b));
    }

    #[test]
    fn the_same_requests_need_what_was_forecast() {
        let mut state = 7u64;
        let mut next = |n: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        // Sizes to take; 0 gives the oldest back.
        let requests: Vec<u64> = (0..2000).map(|_| next(3) * next(100_000)).collect();
        let run = |pool: &mut Pool| {
            let mut held = std::collections::VecDeque::new();
            for &request in &requests {
                match request {
                    0 => drop(held.pop_front().map(|at| assert!(pool.give(at)))),
                    bytes => {
                        let at = pool.take(bytes as usize)?;
                        let apart = |&other: &u64| {
                            let (length, own) = (pool.taken[&other], pool.taken[&at]);
                            other + length <= at || at + own <= other
                        };
                        assert!(held.iter().all(apart));
                        held.push_back(at);
                    }
                }
            }
            Some(())
        };
        let mut forecast = Pool::new(u64::MAX);
        run(&mut forecast).unwrap();
        assert!(run(&mut Pool::new(forecast.high())).is_some());
        assert!(run(&mut Pool::new(forecast.high() - ALIGNED)).is_none());
    }
}
