//! The first exchange of a job: who is there, with how many device actors, and whether all want
//! the same.

use std::time::Instant;

use super::clocks::{Alignment, ClockOffset};
use super::{Done, Op, Transport, pause};
use crate::clock::{Clock, SystemClock};
use crate::config::{Identity, MAX_IDENTITIES};
use crate::fault::{Fault, Halt, Origin, Post};
use crate::trace::Tracer;

/// Words of a host name.
const HOST_WORDS: usize = 8;
const FIXED: usize = 3;
const WORDS: usize = FIXED + MAX_IDENTITIES + HOST_WORDS;

/// What a node says first.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    /// Device actors of this node.
    pub(crate) workers: usize,
    /// Hash of mode and schedule.
    pub(crate) config: u64,
    /// What else must be equal.
    pub(crate) identities: Vec<Identity>,
    /// Name of this host.
    pub(crate) host: String,
}

/// What all nodes know afterwards.
#[derive(Clone, Debug)]
pub(crate) struct Meeting {
    /// This node's rank.
    pub(crate) rank: usize,
    /// Host of each rank.
    pub(crate) hosts: Vec<String>,
    /// Device actors of each rank.
    pub(crate) workers: Vec<usize>,
    /// Name of the transport.
    pub(crate) transport: String,
    /// Each rank's clock beside rank 0's.
    pub(crate) clocks: Vec<ClockOffset>,
}

impl Meeting {
    /// Number of nodes.
    pub(crate) fn nodes(&self) -> usize {
        self.workers.len()
    }

    /// R, the number of replicas in the job.
    pub(crate) fn replicas(&self) -> usize {
        self.workers.iter().sum()
    }

    /// Index in the job of a rank's first replica.
    pub(crate) fn first_replica(&self, rank: usize) -> usize {
        self.workers[..rank].iter().sum()
    }
}

impl Hello {
    fn encode(&self) -> Vec<u64> {
        let mut words = vec![self.workers as u64, self.config, self.identities.len() as u64];
        words.extend(self.identities.iter().take(MAX_IDENTITIES).map(|identity| identity.hash));
        words.resize(FIXED + MAX_IDENTITIES, 0);
        let mut name = [0u8; 8 * HOST_WORDS];
        for (to, from) in name.iter_mut().zip(self.host.bytes()) {
            *to = from;
        }
        let mut word = [0; 8];
        for bytes in name.chunks_exact(8) {
            word.copy_from_slice(bytes);
            words.push(u64::from_le_bytes(word));
        }
        words
    }

    /// What rank `rank`'s words differ in from rank 0's, in words.
    fn difference(&self, first: &[u64], other: &[u64]) -> Option<String> {
        if first[2] != other[2] {
            return Some("the number of files and settings compared".into());
        }
        let pairs = first[FIXED..].iter().zip(&other[FIXED..]).take(MAX_IDENTITIES);
        // Files first: a schedule differs where they do.
        if let Some((place, _)) = pairs.enumerate().find(|(_, (a, b))| a != b) {
            let what = self.identities.get(place).map(|identity| identity.what.clone());
            return Some(what.unwrap_or_else(|| format!("setting {place}")));
        }
        let differs = first[1] != other[1];
        differs.then(|| "the mode or the schedule (max_iter, display, test, snapshot)".into())
    }
}

fn host_of(words: &[u64]) -> String {
    let bytes: Vec<u8> = words[FIXED + MAX_IDENTITIES..]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .take_while(|byte| *byte != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Posts a header and waits for those of all nodes.
fn exchange(transport: &mut dyn Transport, op: Op, post: &Post) -> Result<Vec<u64>, Halt> {
    transport.post(op)?;
    let (start, mut done) = (Instant::now(), Vec::new());
    loop {
        transport.poll(&mut done)?;
        if let Some(Done::Headers { words }) = done.pop() {
            return Ok(words);
        }
        if post.alarm.raised() {
            return Err(Halt::Stopped);
        }
        pause(start);
    }
}

/// Meets the other nodes without training: only to look at them.
pub(in crate::transport) fn introduce(transport: &mut dyn Transport) -> Result<Meeting, String> {
    let host = crate::run::host_name();
    let post = Post {
        rank: transport.rank(),
        host: host.as_str().into(),
        actor: "process".into(),
        alarm: Default::default(),
        tracer: Tracer::detached("process"),
        inject: None,
    };
    let hello = Hello { workers: 1, config: 0, identities: Vec::new(), host };
    meet(transport, &hello, &SystemClock::default(), &post).map_err(|halt| match halt {
        Halt::Stopped => "stopped".into(),
        Halt::Cause(cause) => cause.to_string(),
        Halt::Fault(fault) => fault.to_string(),
    })
}

/// Exchanges hellos, compares them, and measures the clocks.
pub(super) fn meet(
    transport: &mut dyn Transport,
    hello: &Hello,
    clock: &dyn Clock,
    post: &Post,
) -> Result<Meeting, Halt> {
    let words = exchange(transport, Op::Header { words: hello.encode() }, post)?;
    let all: Vec<&[u64]> = words.chunks_exact(WORDS).collect();
    let hosts: Vec<String> = all.iter().map(|words| host_of(words)).collect();
    for (rank, other) in all.iter().enumerate() {
        if let Some(what) = hello.difference(all[0], other) {
            let cause = format!(
                "differs from rank 0 (host {}) in {what}; all ranks must be given the same",
                hosts[0]
            );
            let (host, origin) = (hosts[rank].as_str().into(), Origin::Agreed);
            return Err(Halt::Fault(Fault { rank, host, origin, ..post.fault(cause) }));
        }
    }
    let mut alignment = Alignment::new(transport.size());
    while let Some(op) = alignment.next(clock) {
        let words = exchange(transport, op, post)?;
        alignment.arrived(clock, &words);
    }
    Ok(Meeting {
        rank: transport.rank(),
        workers: all.iter().map(|words| words[0] as usize).collect(),
        hosts,
        transport: transport.describe(),
        clocks: alignment.offsets(clock),
    })
}
