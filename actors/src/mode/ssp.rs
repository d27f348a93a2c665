//! `ssp`: hogwild with a bound. No ticket q starts before all tickets ≤ q − R(s + 1) are finished
//! and visible on the node where it starts.
//!
//! Tickets are granted and read ahead as in hogwild; what is bounded is their start: the node
//! opens the tickets below *visible* + R(s + 1), where all tickets below *visible* have been
//! merged into its weights.
//!
//! A ticket that was finished when its node wrote header k has been pushed before that node's
//! swaps of round k, so its update is in every node's z when round k has been applied there. So
//! after round k, *visible* = the lowest ticket that any header k calls unfinished. A node without
//! others sees an update as soon as it is pushed.
//!
//! No deadlock: the lowest unfinished ticket of all lies below *visible* + R once the rounds have
//! told everybody, and rounds are paced by time, so it may start.

use super::hogwild::Hogwild;
use super::{Action, Event, Job, Machine, Moment};

/// The state of one node.
#[derive(Debug)]
pub(super) struct Ssp {
    tickets: Hogwild,
    alone: bool,
    replicas: u64,
    /// R(s + 1).
    reach: u64,
    /// All tickets below this one are visible when the round under way is over.
    coming: u64,
    /// Tickets below this one may start.
    open: u64,
}

impl Ssp {
    pub(super) fn new(job: Job, staleness: u64) -> Self {
        Ssp {
            alone: job.nodes() == 1,
            replicas: job.replicas(),
            reach: job.replicas().saturating_mul(staleness.saturating_add(1)),
            coming: 0,
            open: 0,
            tickets: Hogwild::new(job),
        }
    }

    fn open(&mut self, visible: u64, actions: &mut Vec<Action>) {
        let below = visible.saturating_add(self.reach);
        if below > self.open {
            self.open = below;
            actions.push(Action::Open { below });
        }
    }
}

impl Machine for Ssp {
    fn on(&mut self, moment: &Moment, event: Event, actions: &mut Vec<Action>) {
        match &event {
            // All that came before has drained.
            Event::Begin { from, .. } => self.open(from * self.replicas, actions),
            Event::Headers(headers) => {
                self.coming = headers.iter().map(|header| header.oldest).min().unwrap_or(0);
            }
            _ => {}
        }
        let round = self.tickets.round();
        self.tickets.on(moment, event, actions);
        if self.alone {
            self.open(self.tickets.oldest(), actions);
        } else if self.tickets.round() > round {
            self.open(self.coming, actions);
        }
    }

    fn visible_after(&self) -> [u64; 2] {
        self.tickets.visible_after()
    }

    fn round_iters(&self) -> f64 {
        self.tickets.round_iters()
    }
}
