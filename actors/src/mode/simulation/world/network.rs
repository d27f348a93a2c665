//! The network between the fake nodes: headers and sums that arrive after random delays, and sums
//! that leave something behind, as rounding does.

use std::sync::Arc;

use super::{Due, Update, World};
use crate::header::Header;
use crate::mode::Event;

impl World {
    pub(super) fn post_header(&mut self, node: usize, header: Header) {
        if header.snapshot {
            self.nodes[node].snapshot = false;
        }
        let nodes = self.nodes.len();
        let round = header.round;
        let slot = self.headers.entry(round).or_insert_with(|| vec![None; nodes]);
        slot[node] = Some(header);
        if slot.iter().all(Option::is_some) {
            let all: Vec<Header> =
                self.headers.remove(&round).unwrap().into_iter().flatten().collect();
            let all = Arc::new(all);
            for node in 0..nodes {
                let delay = self.delay();
                self.later(delay, Due::Machine(node, Event::Headers(all.clone())));
            }
        }
    }

    /// Some of the updates stay behind, as rounding leaves a part of each: at the node, and (of the
    /// sum) at the node that adds.
    fn keep_some(&mut self, node: usize, bucket: usize, load: &mut Vec<Update>) {
        let rng = &mut self.rng;
        let left = &mut self.nodes[node].left[bucket];
        for update in load.extract_if(.., |_| rng.chance(30)) {
            self.kept.insert((bucket, update.0));
            left.push(update);
        }
    }

    pub(super) fn post_sum(
        &mut self,
        node: usize,
        bucket: usize,
        mut load: Vec<Update>,
        exact: bool,
    ) {
        load.append(&mut self.nodes[node].left[bucket]);
        if !exact {
            self.keep_some(node, bucket, &mut load);
        }
        let nodes = self.nodes.len();
        let place = self.nodes[node].posted;
        self.nodes[node].posted += 1;
        let sum = self.sums.entry(place).or_insert_with(|| (bucket, vec![Vec::new(); nodes], 0));
        assert_eq!(sum.0, bucket, "nodes post buckets in different orders");
        sum.1[node] = load;
        sum.2 += 1;
        if sum.2 == nodes {
            let (bucket, loads, _) = self.sums.remove(&place).unwrap();
            let mut total: Vec<Update> = loads.concat();
            if !exact {
                self.keep_some(bucket % nodes, bucket, &mut total);
            }
            for node in 0..nodes {
                let delay = self.delay();
                assert!(self.nodes[node].incoming[bucket].is_none(), "two rounds at once");
                self.nodes[node].incoming[bucket] = Some(total.clone());
                self.later(delay, Due::Machine(node, Event::Summed { bucket }));
            }
        }
    }
}
