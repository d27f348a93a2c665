//! What must hold when a world has come to its end.

use super::world::{Update, World};

impl World {
    /// All nodes drained at the same points, and every loss has been told.
    fn check_common(&self) -> u64 {
        let first = &self.nodes[0];
        let replicas = self.replicas();
        let last = first.drained.last().unwrap().0;
        let stopped = self.setup.wishes.iter().any(|wish| wish.2);
        assert!(stopped || last == self.setup.iters, "{:?}", self.setup);
        for node in &self.nodes {
            assert_eq!(node.drained, first.drained, "{:?}", self.setup);
            assert_eq!(node.losses.len() as u64, last);
            assert!(node.losses.values().all(|count| *count == replicas));
        }
        last
    }

    pub(super) fn check_sync(&self) {
        let last = self.check_common();
        let expected: Vec<Update> = (0..last * self.replicas()).map(|t| (t, 1.0)).collect();
        for node in &self.nodes {
            for bucket in &node.z {
                // What was left behind comes later.
                let mut bucket = bucket.clone();
                if self.setup.rounded {
                    bucket.sort_unstable_by_key(|update| update.0);
                }
                assert_eq!(bucket, expected, "{:?}", self.setup);
            }
            assert!(node.steps.iter().all(|steps| *steps == last));
        }
    }

    /// Every node has every ticket once in every bucket, in the same order.
    fn check_once_everywhere(&self, tickets: u64) {
        for node in &self.nodes {
            for (bucket, updates) in node.z.iter().enumerate() {
                assert_eq!(updates, &self.nodes[0].z[bucket], "{:?}", self.setup);
                let mut seen: Vec<u64> = updates.iter().map(|update| update.0).collect();
                seen.sort_unstable();
                assert!(seen.iter().copied().eq(0..tickets), "{:?}", self.setup);
            }
        }
    }

    /// Of `local-sgd`: every ticket once, with weight 1 (its part of the average is the device's
    /// arithmetic), in the same order everywhere.
    pub(super) fn check_local_sgd(&self) {
        let last = self.check_common();
        self.check_once_everywhere(last * self.replicas());
        for node in &self.nodes {
            assert!(node.steps.iter().all(|steps| *steps == last));
        }
    }

    /// Of `hogwild` and `ssp`. The bound of the latter is checked whenever a ticket starts.
    pub(super) fn check_hogwild(&self) {
        let tickets = self.check_common() * self.replicas();
        self.check_once_everywhere(tickets);
        let most = 1.0 / self.replicas() as f32;
        for node in &self.nodes {
            assert!(node.z.iter().flatten().all(|(_, rho)| *rho > 0.0 && *rho <= most));
            assert_eq!(node.steps.len(), node.idle.len());
        }
        let steps: u64 = self.nodes.iter().flat_map(|node| &node.steps).sum();
        assert_eq!(steps, tickets);
    }
}
