//! What can be ordered to go wrong.

/// What goes wrong, where.
#[derive(Clone, Debug, PartialEq)]
pub enum Trouble {
    Panic {
        rank: usize,
        iter: u64,
    },
    Error {
        rank: usize,
        iter: u64,
    },
    Build {
        rank: usize,
    },
    Reader {
        rank: usize,
        ticket: u64,
    },
    /// Compute of a replica takes so much longer, in milliseconds.
    Slow {
        replica: usize,
        millis: u64,
    },
    /// A batch of this rank's readers takes so many milliseconds.
    SlowReader {
        rank: usize,
        millis: u64,
    },
    /// Each update takes so many milliseconds.
    SlowUpdate {
        millis: u64,
    },
    /// Each snapshot takes so many milliseconds.
    SlowSnapshot {
        millis: u64,
    },
    /// The replica of this rank has another plan hash.
    OtherNet {
        rank: usize,
    },
    /// This replica has something to say about the first one's opening words.
    Differs {
        replica: usize,
    },
    /// One bit of the final weights of this rank is wrong.
    BitFlip {
        rank: usize,
    },
    /// A device never comes back from its compute.
    Stuck {
        rank: usize,
        iter: u64,
    },
    /// Once, from this iteration on, the gradient of a replica is NaN, and it may want the job to go
    /// back to a snapshot.
    NotFinite {
        replica: usize,
        iter: u64,
        back: bool,
    },
}
