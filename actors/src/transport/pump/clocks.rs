//! How far the nodes' clocks are apart, from headers that say when they were sent.
//!
//! A gathered header ends on no node before all have posted theirs. With s the moment of posting
//! and e the moment of completion, each on its node's own clock, and θ = rank j's clock − rank 0's:
//!
//! ```text
//! e₀ ≥ sⱼ − θ   and   eⱼ − θ ≥ s₀   ⇒   sⱼ − e₀ ≤ θ ≤ eⱼ − s₀
//! ```
//!
//! Every round narrows this interval; its middle is the offset and half its width a bound of the
//! error that holds whatever the network did. A late node costs one round, not the result.

use std::time::{Duration, Instant};

use super::super::{Done, Op};
use super::{Running, pause};
use crate::clock::Clock;
use crate::fault::Halt;

/// Rounds of one measurement. The narrowest count, so a few good ones are enough.
const ROUNDS: usize = 16;
/// Words of one header: when it was sent, when the one before had come.
const WORDS: usize = 2;

/// A rank's clock beside rank 0's, and when that was so.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClockOffset {
    /// The rank's own time of the measurement.
    pub at: Duration,
    /// Its clock minus rank 0's, in nanoseconds.
    pub nanos: i64,
    /// By how many nanoseconds `nanos` may be wrong at most.
    pub error: u64,
}

/// One measurement in progress: call [`next`](Alignment::next), exchange, call
/// [`arrived`](Alignment::arrived), until there is no next.
#[derive(Debug)]
pub(super) struct Alignment {
    round: usize,
    sent: Vec<i64>,
    /// By rank: the interval that θ lies in.
    bounds: Vec<(i64, i64)>,
    received: i64,
}

impl Alignment {
    pub(super) fn new(ranks: usize) -> Self {
        Alignment {
            round: 0,
            sent: vec![0; ranks],
            bounds: vec![(i64::MIN, i64::MAX); ranks],
            received: 0,
        }
    }

    /// The next header, to be posted at once.
    pub(super) fn next(&mut self, clock: &dyn Clock) -> Option<Op> {
        // One more than there are rounds: the last says when the one before had come.
        if self.round > ROUNDS || self.sent.len() == 1 {
            return None;
        }
        Some(Op::Header { words: vec![nanos(clock) as u64, self.received as u64] })
    }

    /// The headers of all ranks have come, just now.
    pub(super) fn arrived(&mut self, clock: &dyn Clock, words: &[u64]) {
        self.received = nanos(clock);
        let root_received = words.get(1).map_or(0, |word| *word as i64);
        for (rank, header) in words.chunks_exact(WORDS).enumerate().take(self.sent.len()) {
            if self.round > 0 {
                let (low, high) = &mut self.bounds[rank];
                *low = (*low).max(self.sent[rank] - root_received);
                *high = (*high).min(header[1] as i64 - self.sent[0]);
            }
        }
        for (sent, header) in self.sent.iter_mut().zip(words.chunks_exact(WORDS)) {
            *sent = header[0] as i64;
        }
        self.round += 1;
    }

    /// What has been found, by rank.
    pub(super) fn offsets(&self, clock: &dyn Clock) -> Vec<ClockOffset> {
        let here = nanos(clock);
        let of = |(rank, (low, high)): (usize, &(i64, i64))| {
            if rank == 0 || self.round < 2 {
                return ClockOffset { at: duration(here), ..ClockOffset::default() };
            }
            let nanos = low + (high - low) / 2;
            ClockOffset { at: Duration::ZERO, nanos, error: (high - low).unsigned_abs() / 2 }
        };
        let mut all: Vec<ClockOffset> = self.bounds.iter().enumerate().map(of).collect();
        // Each rank's own time now: the last header was sent a moment ago.
        for (offset, sent) in all.iter_mut().zip(&self.sent).filter(|_| self.round > 1) {
            offset.at = duration(*sent);
        }
        all
    }
}

impl Running {
    /// One more measurement of the clocks.
    pub(super) fn align(&mut self) -> Result<Vec<ClockOffset>, Halt> {
        let mut alignment = Alignment::new(self.transport.size());
        while let Some(op) = alignment.next(self.clock.as_ref()) {
            self.transport.post(op)?;
            let start = Instant::now();
            let words = loop {
                self.transport.poll(&mut self.done)?;
                if let Some(Done::Headers { words }) = self.done.pop() {
                    break words;
                }
                self.keep_in_touch()?;
                if self.alarm.raised() {
                    return Err(Halt::Stopped);
                }
                pause(start);
            };
            alignment.arrived(self.clock.as_ref(), &words);
        }
        Ok(alignment.offsets(self.clock.as_ref()))
    }
}

fn nanos(clock: &dyn Clock) -> i64 {
    clock.now().as_nanos() as i64
}

fn duration(nanos: i64) -> Duration {
    Duration::from_nanos(nanos.max(0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Hand(u64);

    impl Clock for Hand {
        fn now(&self) -> Duration {
            Duration::from_nanos(self.0)
        }
    }

    /// True time passes as told; each clock is off by a constant; the exchange takes a while that
    /// differs from rank to rank and from round to round.
    #[test]
    fn the_truth_lies_within_the_bound() {
        let truth = [0i64, 700_000_000, -30_000, 5];
        let start = 1_000_000_000i64;
        let at = |time: i64, rank: usize| Hand((time + truth[rank]) as u64);
        let mut ranks: Vec<Alignment> = (0..4).map(|_| Alignment::new(4)).collect();
        let mut time = start;
        let mut noise = 12_345u64;
        let mut random = |below: i64| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (noise >> 33) as i64 % below
        };
        loop {
            let mut words = Vec::new();
            let mut latest = time;
            for (rank, one) in ranks.iter_mut().enumerate() {
                let sent = time + random(40_000);
                latest = latest.max(sent);
                match one.next(&at(sent, rank)) {
                    Some(Op::Header { words: own }) => words.extend(own),
                    _ => break,
                }
            }
            if words.is_empty() {
                break;
            }
            for (rank, one) in ranks.iter_mut().enumerate() {
                one.arrived(&at(latest + 3_000 + random(60_000), rank), &words);
            }
            time = latest + 70_000;
        }
        for (rank, one) in ranks.iter().enumerate() {
            let offsets = one.offsets(&at(time, rank));
            assert_eq!(offsets[0].error, 0);
            for (offset, truth) in offsets.iter().zip(truth) {
                assert!(offset.nanos.abs_diff(truth) <= offset.error, "{offset:?} {truth}");
                assert!(offset.error < 60_000, "{offset:?}");
            }
            assert_eq!(offsets[2].nanos, ranks[0].offsets(&at(time, 0))[2].nanos);
        }
    }

    #[test]
    fn alone_there_is_nothing_to_measure() {
        let mut one = Alignment::new(1);
        let clock = Hand(5);
        assert!(one.next(&clock).is_none());
        assert_eq!(one.offsets(&clock)[0].nanos, 0);
    }
}
