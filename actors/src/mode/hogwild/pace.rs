//! How fast rounds follow each other, how many tickets a node holds, the weight ρ, and how far
//! replicas look ahead.
//!
//! Rounds are paced by time: half an iteration of the job lies between two of them, so that an
//! update is old by about one iteration when it arrives and the exchange costs what it must.

use std::time::Duration;

/// Rest before the job's speed is known.
const FIRST: Duration = Duration::from_millis(5);
/// Rest while devices drain, and the shortest of all.
const SHORT: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_millis(500);
/// Part of an iteration that passes between two rounds.
const PART: f64 = 0.5;
/// How much of the past a round forgets.
const FORGET: f64 = 1.0 / 16.0;
/// The same for a node's own speed.
const FORGET_OWN: f64 = 0.25;

/// Running means. [`round_iters`](Pace::round_iters) depends on headers alone and is equal on
/// all nodes; the rest is a node's own.
#[derive(Debug)]
pub(super) struct Pace {
    replicas: f64,
    /// T: mean round length in iterations; 0 until a round has carried data.
    round_iters: f64,
    /// Decaying sums: tickets of all nodes, and the seconds they took.
    tickets: f64,
    seconds: f64,
    /// About the most tickets that this node finishes in a round.
    own: f64,
    last: Duration,
}

impl Pace {
    pub(super) fn new(replicas: u64) -> Self {
        Pace {
            replicas: replicas as f64,
            round_iters: 0.0,
            tickets: 0.0,
            seconds: 0.0,
            own: 0.0,
            last: Duration::ZERO,
        }
    }

    /// A segment begins: the time between segments is no training time.
    pub(super) fn begin(&mut self, now: Duration) {
        self.last = now;
    }

    /// This node has finished so many tickets in a round. Rises at once and falls slowly: a node
    /// that had too few tickets finished no more than those, and each round that follows at least
    /// doubles what it holds.
    pub(super) fn own(&mut self, finished: u64) {
        self.own += (finished as f64 - self.own) * FORGET_OWN;
        self.own = self.own.max(finished as f64);
    }

    /// A header is known: `finished` tickets on all nodes. True when ρ has changed.
    pub(super) fn round(&mut self, now: Duration, finished: u64, data: bool) -> bool {
        self.seconds =
            self.seconds * (1.0 - FORGET) + (now.saturating_sub(self.last)).as_secs_f64();
        self.tickets = self.tickets * (1.0 - FORGET) + finished as f64;
        self.last = now;
        if !data {
            return false;
        }
        let before = self.rho();
        let length = finished as f64 / self.replicas;
        if self.round_iters == 0.0 {
            self.round_iters = length;
        } else {
            self.round_iters += (length - self.round_iters) * FORGET;
        }
        self.rho() != before
    }

    /// T.
    pub(super) fn round_iters(&self) -> f64 {
        self.round_iters
    }

    /// ρ = 1/(R·max(1, T)).
    pub(super) fn rho(&self) -> f32 {
        (1.0 / (self.replicas * self.round_iters.max(1.0))) as f32
    }

    /// How many of its own updates the other replicas' unseen ones are worth, for a replica of a
    /// node with `local` devices: where its next update meets the weights, they have moved on by
    /// about that much. ρ·((K − 1) + (R − K)·D): the node's own replicas push once each while it
    /// computes; those of other nodes are seen after D iterations: it computes for one, half a
    /// round passes until the next swap, and the exchange takes what is no rest.
    pub(super) fn ahead(&self, local: usize) -> f32 {
        let near = local as f64 - 1.0;
        let far = self.replicas - local as f64;
        let round = self.round_iters;
        let delay = 1.0 + 0.5 * round + (round - PART).max(0.0);
        (f64::from(self.rho()) * (near + far * delay)) as f32
    }

    /// How long to rest before the next round.
    pub(super) fn rest(&self, draining: bool) -> Duration {
        if draining {
            return SHORT;
        }
        if self.tickets < 0.5 {
            return FIRST;
        }
        let iteration = self.seconds * self.replicas / self.tickets;
        Duration::from_secs_f64((iteration * PART).min(LONG.as_secs_f64())).max(SHORT)
    }

    /// How many tickets a node with `devices` devices should hold: one running and one being
    /// read for each, and what it uses up until the next two headers.
    pub(super) fn pool(&self, devices: usize) -> u64 {
        2 * devices as u64 + (2.0 * self.own).ceil() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rho_follows_long_rounds_only() {
        let mut pace = Pace::new(4);
        assert_eq!(pace.rho(), 0.25);
        assert!(!pace.round(Duration::from_millis(10), 2, true));
        assert_eq!(pace.rho(), 0.25);
        let mut pace = Pace::new(4);
        assert!(pace.round(Duration::from_millis(10), 8, true));
        assert_eq!(pace.rho(), 0.125);
        assert_eq!(pace.round_iters(), 2.0);
    }

    #[test]
    fn looks_ahead_as_far_as_others_are_out_of_sight() {
        // One node: R − 1 others push 1/R each.
        assert_eq!(Pace::new(4).ahead(4), 0.75);
        // Two nodes of one, rounds of one iteration: the other is seen 2 iterations late.
        let mut pace = Pace::new(2);
        pace.round(Duration::from_millis(10), 2, true);
        assert_eq!(pace.ahead(1), 1.0);
        // Long rounds weigh less and are seen later.
        let mut pace = Pace::new(2);
        pace.round(Duration::from_millis(10), 8, true);
        assert_eq!(pace.ahead(1), 0.125 * (1.0 + 2.0 + 3.5));
    }

    #[test]
    fn holds_enough_for_long_rounds_soon() {
        // A link so slow that a device could do 40 tickets in a round.
        let (mut pace, mut rounds) = (Pace::new(2), 0);
        while pace.pool(1) < 80 {
            pace.own(pace.pool(1).min(40));
            rounds += 1;
        }
        assert!(rounds <= 6, "{rounds}");
        for _ in 0..30 {
            pace.own(1);
        }
        assert_eq!(pace.pool(1), 5);
    }

    #[test]
    fn rests_half_an_iteration() {
        let mut pace = Pace::new(2);
        assert_eq!(pace.rest(false), FIRST);
        for step in 1..200 {
            pace.round(Duration::from_millis(20 * step), 1, true);
        }
        let rest = pace.rest(false).as_secs_f64();
        assert!((rest - 0.020).abs() < 0.001, "{rest}");
        assert_eq!(pace.rest(true), SHORT);
    }
}
