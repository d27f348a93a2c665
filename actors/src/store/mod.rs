//! A node's weights in `hogwild`: z, f and a of every bucket, in chunks under their own locks.
//!
//! Per element: z agreed weights, f in flight, a own updates since the last swap; replicas read
//! w = z + f + a. Alone in the job a node keeps z only. Replicas and communicator meet here and
//! nowhere else; a lock is held for 64 KiB of arithmetic, and replicas start at different chunks.

use std::hash::Hasher;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::digest::Digest;
use crate::hands::{CHUNK, Hands};

/// Staleness from here on is counted together.
const STALEST: usize = 63;

#[derive(Debug, Default)]
struct Chunk {
    z: Vec<f32>,
    /// Empty when the node is alone, as `a`.
    f: Vec<f32>,
    a: Vec<f32>,
}

/// All buckets of a node.
#[derive(Debug)]
pub(crate) struct Store {
    buckets: Vec<Vec<Mutex<Chunk>>>,
    rho: AtomicU32,
    ahead: AtomicU32,
    alone: bool,
    /// Steps whose updates are in w, of this node and of the others.
    merged: AtomicU64,
    /// How many updates had so many of others merged between their pull and their push; the last
    /// place stands for that many or more.
    staleness: [AtomicU64; STALEST + 1],
}

impl Store {
    /// From the start weights of each bucket.
    pub(crate) fn new(weights: &[Vec<f32>], alone: bool) -> Self {
        let chunk = |z: &[f32]| {
            let own = if alone { Vec::new() } else { vec![0.0; z.len()] };
            Mutex::new(Chunk { z: z.to_vec(), f: own.clone(), a: own })
        };
        let buckets =
            weights.iter().map(|bucket| bucket.chunks(CHUNK).map(chunk).collect()).collect();
        Store {
            buckets,
            rho: AtomicU32::new(0),
            ahead: AtomicU32::new(0),
            alone,
            merged: AtomicU64::new(0),
            staleness: [const { AtomicU64::new(0) }; STALEST + 1],
        }
    }

    /// Begins anew from other weights. Nothing is in flight and no replica pushes.
    pub(crate) fn restart(&self, weights: &[Vec<f32>]) {
        for (chunks, weights) in self.buckets.iter().zip(weights) {
            for (chunk, z) in chunks.iter().zip(weights.chunks(CHUNK)) {
                let mut chunk = chunk.lock();
                chunk.z.copy_from_slice(z);
                chunk.f.fill(0.0);
                chunk.a.fill(0.0);
            }
        }
    }

    /// Sets ρ and c of updates from now on.
    pub(crate) fn set_weight(&self, rho: f32, ahead: f32) {
        self.rho.store(rho.to_bits(), Ordering::Relaxed);
        self.ahead.store(ahead.to_bits(), Ordering::Relaxed);
    }

    /// a −= ρu (alone: z −= ρu), and the fresh w − cu into `weights`, chunk by chunk. `turn` in
    /// `0.0..1.0` says where in the bucket to start.
    pub(crate) fn push(&self, bucket: usize, turn: f64, update: &[f32], weights: &mut [f32]) {
        let rho = f32::from_bits(self.rho.load(Ordering::Relaxed));
        let ahead = f32::from_bits(self.ahead.load(Ordering::Relaxed));
        let chunks = &self.buckets[bucket];
        let first = (chunks.len() as f64 * turn) as usize;
        for place in 0..chunks.len() {
            let index = (first + place) % chunks.len();
            let from = index * CHUNK;
            let mut chunk = chunks[index].lock();
            let to = from + chunk.z.len();
            let own = if self.alone { &mut chunk.z } else { &mut chunk.a };
            for (value, u) in own.iter_mut().zip(&update[from..to]) {
                *value -= rho * u;
            }
            chunk.read(&mut weights[from..to]);
            drop(chunk);
            for (weight, u) in weights[from..to].iter_mut().zip(&update[from..to]) {
                *weight -= ahead * u;
            }
        }
    }

    /// All buckets of an update have been pushed, by a replica that pulled when `pulled` steps had
    /// been merged. Returns what it has pulled now.
    pub(crate) fn pushed(&self, pulled: u64) -> u64 {
        let merged = self.merged.fetch_add(1, Ordering::Relaxed);
        let others = usize::try_from(merged.saturating_sub(pulled)).unwrap_or(STALEST);
        self.staleness[others.min(STALEST)].fetch_add(1, Ordering::Relaxed);
        merged + 1
    }

    /// The updates of `steps` steps of other nodes have come.
    pub(crate) fn merge(&self, steps: u64) {
        self.merged.fetch_add(steps, Ordering::Relaxed);
    }

    /// Steps whose updates are in w.
    pub(crate) fn merged(&self) -> u64 {
        self.merged.load(Ordering::Relaxed)
    }

    /// Number of updates by staleness, without the zeros at the end.
    pub(crate) fn staleness(&self) -> Vec<u64> {
        let mut counts: Vec<u64> =
            self.staleness.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        while counts.last() == Some(&0) {
            counts.pop();
        }
        counts
    }

    /// w of a bucket.
    pub(crate) fn pull(&self, bucket: usize, weights: &mut [f32]) {
        for (chunk, out) in self.buckets[bucket].iter().zip(weights.chunks_mut(CHUNK)) {
            chunk.lock().read(out);
        }
    }

    /// f ← a, a ← 0; f into `out`.
    pub(crate) fn swap(&self, bucket: usize, out: &mut Vec<f32>, hands: &Hands) {
        let chunks = &self.buckets[bucket];
        let floats = chunks.iter().map(|chunk| chunk.lock().z.len()).sum();
        out.resize(floats, 0.0);
        hands.over(out, 4 * floats, |index, out| {
            let mut guard = chunks[index].lock();
            let Chunk { f, a, .. } = &mut *guard;
            std::mem::swap(f, a);
            a.fill(0.0);
            out.copy_from_slice(f);
        });
    }

    /// z += Σf, f ← 0, a += what rounding took from the round; `rest` ← 0 (empty if nothing was
    /// rounded).
    pub(crate) fn apply(&self, bucket: usize, sum: &[f32], rest: &mut [f32], hands: &Hands) {
        let chunks = &self.buckets[bucket];
        let add = |index: usize| {
            let mut guard = chunks[index].lock();
            let Chunk { z, f, .. } = &mut *guard;
            for (value, s) in z.iter_mut().zip(&sum[index * CHUNK..]) {
                *value += s;
            }
            f.fill(0.0);
            guard
        };
        if rest.is_empty() {
            return hands.times(chunks.len(), |index| drop(add(index)));
        }
        hands.over(rest, 4 * sum.len(), |index, rest| {
            let mut guard = add(index);
            for (own, rest) in guard.a.iter_mut().zip(rest) {
                *own += std::mem::take(rest);
            }
        });
    }

    /// Hash of a bucket's z, never 0. Equal on all nodes between two rounds.
    pub(crate) fn hash(&self, bucket: usize) -> u64 {
        let mut digest = Digest::default();
        for chunk in &self.buckets[bucket] {
            digest.floats(&chunk.lock().z);
        }
        digest.finish() | 1
    }
}

impl Chunk {
    fn read(&self, out: &mut [f32]) {
        if self.f.is_empty() {
            out.copy_from_slice(&self.z);
            return;
        }
        for (((w, z), f), a) in out.iter_mut().zip(&self.z).zip(&self.f).zip(&self.a) {
            *w = z + f + a;
        }
    }
}

#[cfg(test)]
mod tests;
