//! Buckets: runs of parameters that travel together, in the order in which backward completes them.

use std::ops::Range;

use crate::net::Net;

/// Floats in a bucket at least, if there are so many: 1 MiB, one chunk of the transport. Smaller
/// ones cost latency each; larger ones start later.
const FLOATS: usize = 256 * 1024;

/// A run of the learnable part of the arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Where it lies in the arena.
    pub range: Range<usize>,
    /// Its gradient is complete when backward has passed this layer (the first that uses any of
    /// its parameters).
    pub layer: usize,
}

/// Cuts the learnable parameters of a net into buckets, last layers first.
pub fn cut(net: &Net) -> Vec<Bucket> {
    let params = net.arena().params();
    // The first layer that uses a parameter: backward reaches it last.
    let mut first_user = vec![usize::MAX; params.len()];
    for (layer, node) in net.layers().iter().enumerate() {
        for &p in &node.params {
            first_user[p] = first_user[p].min(layer);
        }
    }
    let learnable = (0..params.len()).filter(|&p| !params[p].statistic);
    let pieces = learnable.map(|p| (params[p].range.clone(), first_user[p]));
    gather(pieces.collect(), FLOATS)
}

/// Joins neighbouring ranges from the end of the arena until each bucket has `least` floats.
fn gather(pieces: Vec<(Range<usize>, usize)>, least: usize) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = Vec::new();
    for (range, layer) in pieces.into_iter().rev() {
        match buckets.last_mut() {
            Some(last) if last.range.len() < least => {
                last.range.start = range.start;
                last.layer = last.layer.min(layer);
            }
            _ => buckets.push(Bucket { range, layer }),
        }
    }
    // A shared parameter may be complete later than buckets behind it: keep the order of completion.
    buckets.sort_by_key(|b| std::cmp::Reverse((b.layer, b.range.start)));
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined_from_the_end() {
        let pieces = vec![(0..10, 1), (16..20, 1), (32..132, 3), (144..150, 5)];
        let buckets = gather(pieces, 50);
        assert_eq!(
            buckets,
            [Bucket { range: 32..150, layer: 3 }, Bucket { range: 0..20, layer: 1 }]
        );
    }

    #[test]
    fn a_parameter_shared_with_an_early_layer_goes_last() {
        let pieces = vec![(0..100, 2), (112..212, 0)];
        let order: Vec<usize> = gather(pieces, 50).iter().map(|b| b.layer).collect();
        assert_eq!(order, [2, 0]);
    }
}
