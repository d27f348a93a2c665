//! Tests of the store: alone, and between nodes whose rounds are rounded.

use super::*;
use crate::transport::{Done, InProcess, Lane, Node, Op, Transport};
use crate::wire::Wire;

const LEN: usize = 2 * CHUNK + 100;

#[test]
fn an_update_survives_swaps_and_rounds_exactly_once() {
    let store = Store::new(&[vec![1.0; LEN]], false);
    store.set_weight(0.5, 0.0);
    let (mut w, mut wire) = (vec![0.0; LEN], Vec::new());
    store.push(0, 0.7, &vec![1.0; LEN], &mut w);
    assert!(w.iter().all(|w| *w == 0.5));
    store.swap(0, &mut wire, &alone());
    assert!(wire.iter().all(|f| *f == -0.5));
    // Pushed while the first is in flight: waits for the next round.
    store.push(0, 0.0, &vec![0.5; LEN], &mut w);
    assert!(w.iter().all(|w| *w == 0.25));
    // Another node's −1 comes with the sum.
    wire.iter_mut().for_each(|f| *f -= 1.0);
    store.apply(0, &wire, &mut [], &alone());
    store.pull(0, &mut w);
    assert!(w.iter().all(|w| *w == -0.75));
    store.swap(0, &mut wire, &alone());
    assert!(wire.iter().all(|f| *f == -0.25));
    let before = store.hash(0);
    store.apply(0, &wire, &mut [], &alone());
    assert_ne!(before, store.hash(0));
    store.pull(0, &mut w);
    assert!(w.iter().all(|w| *w == -0.75));
}

#[test]
fn staleness_counts_what_others_merged() {
    let store = Store::new(&[vec![1.0; 3]], false);
    let a = store.pushed(0);
    // Another replica pulled at 0, too: the first one's update came between.
    store.pushed(0);
    store.merge(3);
    // The first one again: one local and three remote.
    store.pushed(a);
    assert_eq!(store.staleness(), [1, 1, 0, 0, 1]);
}

#[test]
fn alone_pushes_go_into_z() {
    let store = Store::new(&[vec![1.0; 3], vec![2.0; 5]], true);
    store.set_weight(1.0, 2.0);
    let mut w = vec![0.0; 5];
    store.push(1, 0.0, &[1.0, 2.0, 3.0, 4.0, 5.0], &mut w);
    // Two updates ahead of z = [1, 0, −1, −2, −3].
    assert_eq!(w, [-1.0, -4.0, -7.0, -10.0, -13.0]);
    store.pull(1, &mut w);
    assert_eq!(w, [1.0, 0.0, -1.0, -2.0, -3.0]);
    store.pull(0, &mut w[..3]);
    assert_eq!(w[..3], [1.0; 3]);
}

fn alone() -> Hands {
    Hands::new(1).unwrap()
}

/// A number in −1…1 that depends on all of these.
fn number(seed: u64, node: usize, step: u64, i: usize) -> f32 {
    let mixed = (seed << 40 ^ (node as u64) << 32 ^ step << 20 ^ i as u64)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .rotate_left(23)
        .wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (mixed >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// Nodes that push, and exchange what they pushed.
struct Nodes {
    stores: Vec<Store>,
    ends: Vec<Node>,
    rests: Vec<Vec<f32>>,
    len: usize,
}

impl Nodes {
    fn new(nodes: usize, len: usize) -> Self {
        let stores: Vec<Store> = (0..nodes).map(|_| Store::new(&[vec![1.0; len]], false)).collect();
        stores.iter().for_each(|store| store.set_weight(0.125, 0.0));
        let ends = InProcess::nodes(nodes).into_iter().map(InProcess::connect).collect();
        Nodes { stores, ends, rests: vec![vec![0.0; len]; nodes], len }
    }

    /// One round; `meanwhile` is called between swap and sum.
    fn round(&mut self, wire: Wire, meanwhile: impl FnOnce(&[Store])) {
        for (node, end) in self.ends.iter_mut().enumerate() {
            let mut data = Vec::new();
            self.stores[node].swap(0, &mut data, &alone());
            let rest = match wire {
                Wire::F32 => Vec::new(),
                _ => std::mem::take(&mut self.rests[node]),
            };
            end.post(Op::Sum { lane: Lane::Data, id: 0, data, wire, rest }).unwrap();
        }
        meanwhile(&self.stores);
        for (node, end) in self.ends.iter_mut().enumerate() {
            let mut done = Vec::new();
            end.poll(&mut done).unwrap();
            let Some(Done::Sum { data, mut rest, .. }) = done.pop() else { panic!("no sum") };
            self.stores[node].apply(0, &data, &mut rest, &alone());
            if wire.rounds() {
                assert!(rest.iter().all(|rest| *rest == 0.0));
                self.rests[node] = rest;
            }
        }
    }
}

/// Σ over everything pushed = z after the drain, within the rounding of f32; equal on all nodes.
#[test]
fn rounded_rounds_lose_nothing() {
    for (seed, wire) in (0..12).zip([Wire::F32, Wire::Bf16, Wire::Fp16].into_iter().cycle()) {
        let mut nodes = Nodes::new(2 + seed as usize % 3, LEN);
        let mut pushed = vec![0.0f64; LEN];
        for step in 0..20u64 {
            let mut push = |stores: &[Store], part: usize| {
                for (node, store) in stores.iter().enumerate() {
                    if !(step as usize + node + part).is_multiple_of(3) {
                        let update: Vec<f32> = (0..LEN)
                            .map(|i| number(seed, node, 2 * step + part as u64, i))
                            .collect();
                        store.push(0, 0.3, &update, &mut vec![0.0; LEN]);
                        pushed.iter_mut().zip(&update).for_each(|(sum, u)| *sum += f64::from(*u));
                    }
                }
            };
            push(&nodes.stores, 0);
            nodes.round(wire, |stores| push(stores, 1));
        }
        nodes.round(Wire::F32, |_| {});
        let mut weights = vec![vec![0.0; nodes.len]; nodes.stores.len()];
        for (store, weights) in nodes.stores.iter().zip(&mut weights) {
            assert_eq!(store.hash(0), nodes.stores[0].hash(0), "{wire}, seed {seed}");
            store.pull(0, weights);
        }
        for (i, sum) in pushed.iter().enumerate() {
            let expected = 1.0 - 0.125 * sum;
            for weights in &weights {
                let off = (f64::from(weights[i]) - expected).abs();
                assert!(off < 2e-6, "{wire}, seed {seed}, place {i}: off by {off}");
            }
        }
    }
}
