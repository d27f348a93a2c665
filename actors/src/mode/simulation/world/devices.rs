//! Fake devices: they draw tickets, take their time, and push names instead of numbers.

use std::collections::BTreeSet;

use super::{Due, World};
use crate::config::Mode;
use crate::header::Sample;
use crate::mode::{Event, Then};

impl World {
    pub(super) fn draw(&mut self, node: usize, device: usize) {
        if !self.nodes[node].idle[device] {
            return;
        }
        let one = &mut self.nodes[node];
        if let Some(ticket) = one.tickets.pop_front_if(|ticket| *ticket < one.open) {
            self.check_bound(node, ticket);
            self.nodes[node].idle[device] = false;
            self.nodes[node].steps[device] += 1;
            let time = self.step_time(node, device);
            self.later(time, Due::Push { node, device, ticket, nth: 0 });
        }
    }

    pub(super) fn push(&mut self, node: usize, device: usize, ticket: u64, nth: usize) {
        let buckets = self.setup.buckets;
        let alone = self.nodes.len() == 1;
        let one = &mut self.nodes[node];
        let bucket = (device + nth) % buckets;
        let rho = one.rho;
        let to = if alone { &mut one.z } else { &mut one.a };
        to[bucket].push((ticket, rho));
        if nth + 1 < buckets {
            let gap = self.rng.below(self.setup.delay / 4 + 1);
            self.later(gap, Due::Push { node, device, ticket, nth: nth + 1 });
            return;
        }
        one.idle[device] = true;
        let sample = Some(Sample { loss: 1.0, outputs: Vec::new() });
        let mail = self.rng.below(self.setup.delay / 10 + 1);
        self.later(mail, Due::Machine(node, Event::Finished { ticket, sample }));
        self.later(0, Due::Draw { node, device });
    }

    pub(super) fn iterate(&mut self, node: usize, device: usize) {
        self.nodes[node].steps[device] += 1;
        let mut at = self.step_time(node, device);
        for bucket in 0..self.setup.buckets {
            self.later(at, Due::Machine(node, Event::Gradient { bucket }));
            at += self.rng.below(self.setup.delay / 4 + 1);
        }
        let iter = self.nodes[node].iter;
        let sample = Some(Sample { loss: 1.0, outputs: Vec::new() });
        self.later(at, Due::Machine(node, Event::Computed { local: device, iter, sample }));
    }

    pub(super) fn next(&mut self, node: usize, then: Then) {
        let one = &mut self.nodes[node];
        assert_eq!(one.means, self.setup.buckets, "an iteration ended without all buckets");
        one.means = 0;
        if !std::mem::replace(&mut one.averaging, then == Then::Merge) {
            one.iter += 1;
        }
        if then == Then::Merge {
            for bucket in 0..self.setup.buckets {
                let delay = self.delay() / 10;
                self.later(delay, Due::Machine(node, Event::Gradient { bucket }));
            }
            return;
        }
        for device in 0..self.setup.workers[node] {
            let delay = self.delay() / 10;
            if then == Then::GoOn {
                self.later(delay, Due::Iterate { node, device });
            } else {
                self.later(delay, Due::Machine(node, Event::Parked { iter: 0 }));
            }
        }
    }

    /// More tickets may start: every free device looks.
    pub(super) fn open(&mut self, node: usize, below: u64) {
        assert!(below > self.nodes[node].open);
        self.nodes[node].open = below;
        for device in 0..self.setup.workers[node] {
            let delay = self.delay() / 10;
            self.later(delay, Due::Draw { node, device });
        }
    }

    /// Before a ticket starts in ssp: all tickets that must be are finished and seen here.
    fn check_bound(&self, node: usize, ticket: u64) {
        let Mode::Ssp { staleness } = self.setup.mode else { return };
        let reach = self.replicas() * (staleness + 1);
        let Some(last) = (ticket + 1).checked_sub(reach) else { return };
        let one = &self.nodes[node];
        for bucket in 0..self.setup.buckets {
            let seen: BTreeSet<u64> = one.z[bucket]
                .iter()
                .chain(&one.f[bucket])
                .chain(&one.a[bucket])
                .map(|u| u.0)
                .collect();
            // Of what has been exchanged, rounding may have left a part behind.
            let rounded = |ticket: u64| self.kept.contains(&(bucket, ticket));
            let missing = (0..last).find(|ticket| !seen.contains(ticket) && !rounded(*ticket));
            assert_eq!(missing, None, "ticket {ticket} started too early: {:?}", self.setup);
        }
    }
}
