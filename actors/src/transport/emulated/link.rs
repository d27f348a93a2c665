//! What an emulated link is: [`Link`], plain data, and the times it gives to operations.
//!
//! The α–β model of a ring: a message costs α and its bytes over β; a sum over n nodes sends
//! 2(n − 1)/n of its bytes over every node's link, in 2(n − 1) messages one after the other
//! (Thakur, Rabenseifner, Gropp, *Optimization of Collective Communication Operations in MPICH*,
//! 2005). Not here: routes, switches, and several links of one node.

use std::time::Duration;

/// The network between emulated nodes: each has one link, which carries one thing at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// α: of each message.
    pub latency: Duration,
    /// β: bytes per second and direction. Infinite is fine.
    pub bandwidth: f64,
    /// Standard deviation of an operation's time, as a part of it.
    pub jitter: f64,
    /// A rank that goes silent.
    pub lose: Option<Loss>,
    /// Of the jitter.
    pub seed: u64,
}

/// A rank that neither posts nor beats any more from some moment on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Which.
    pub rank: usize,
    /// When, after it has connected.
    pub at: Duration,
}

impl Default for Link {
    /// A link that costs nothing.
    fn default() -> Self {
        Link { latency: Duration::ZERO, bandwidth: f64::INFINITY, jitter: 0.0, lose: None, seed: 0 }
    }
}

impl Link {
    /// Seconds of a sum of `bytes` over `nodes` nodes: 2(n − 1)·(α + bytes/(n·β)).
    pub fn sum(&self, bytes: usize, nodes: usize) -> f64 {
        let steps = 2.0 * nodes.saturating_sub(1) as f64;
        steps * (self.alpha() + bytes as f64 / (nodes.max(1) as f64 * self.bandwidth))
    }

    /// Seconds of a broadcast, in pieces that follow each other: α·⌈log₂ n⌉ + bytes/β.
    pub fn broadcast(&self, bytes: usize, nodes: usize) -> f64 {
        if nodes < 2 { 0.0 } else { self.header(nodes) + bytes as f64 / self.bandwidth }
    }

    /// Seconds until every node has all nodes' headers, which are small: α·⌈log₂ n⌉.
    pub fn header(&self, nodes: usize) -> f64 {
        self.alpha() * f64::from(nodes.max(1).next_power_of_two().trailing_zeros())
    }

    /// Seconds of one message: α + bytes/β.
    pub fn message(&self, bytes: usize) -> f64 {
        self.alpha() + bytes as f64 / self.bandwidth
    }

    /// The same link, slower by `factor`. A loss stays where it is.
    #[must_use]
    pub fn dilated(&self, factor: f64) -> Link {
        Link {
            latency: self.latency.mul_f64(factor),
            bandwidth: self.bandwidth / factor,
            ..self.clone()
        }
    }

    fn alpha(&self) -> f64 {
        self.latency.as_secs_f64()
    }
}

impl std::fmt::Display for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (latency, bandwidth) = (self.alpha() * 1e6, self.bandwidth * 8e-9);
        write!(f, "latency {latency:.3} us, bandwidth {bandwidth:.3} Gb/s")?;
        if self.jitter > 0.0 {
            write!(f, ", jitter {:.1} %", 100.0 * self.jitter)?;
        }
        if let Some(Loss { rank, at }) = self.lose {
            write!(f, ", rank {rank} lost after {} s", at.as_secs_f64())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10 µs and 1 GB/s.
    fn link() -> Link {
        Link { latency: Duration::from_micros(10), bandwidth: 1e9, ..Link::default() }
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-12 + 1e-9 * b.abs()
    }

    #[test]
    fn times_are_those_of_a_ring() {
        let link = link();
        // 2·3 messages of 10 µs; 1.5 MB of every MB go over each link.
        assert!(near(link.sum(1_000_000, 4), 6.0 * 10e-6 + 1.5e-3));
        assert!(near(link.sum(1_000_000, 1), 0.0));
        assert!(near(link.header(2), 10e-6) && near(link.header(5), 30e-6));
        assert!(near(link.header(1), 0.0) && near(link.broadcast(1000, 1), 0.0));
        assert!(near(link.broadcast(1_000_000, 8), 30e-6 + 1e-3));
        assert!(near(link.message(1_000_000), 1.01e-3));
        assert_eq!(Link::default().sum(1 << 30, 16), 0.0);
    }

    #[test]
    fn a_dilated_link_is_slower_in_everything() {
        let (link, slow) = (link(), link().dilated(3.0));
        for nodes in [1, 2, 7] {
            assert!(near(slow.sum(12345, nodes), 3.0 * link.sum(12345, nodes)));
            assert!(near(slow.header(nodes), 3.0 * link.header(nodes)));
        }
    }
}
