//! Heartbeats over MPI: point to point, on their own communicator, messages of fixed size.
//!
//! Small jobs beat all to all; in large ones each rank beats to its two neighbours and to rank 0,
//! so that rank 0 still hears everybody.

use std::time::{Duration, Instant};

use super::calls::{Comm, Request};
use crate::fault::{Fault, Origin};
use crate::transport::Beat;

/// Bytes of a beat; the texts of a fault are cut to fit.
const SIZE: usize = 1024;
/// Up to so many ranks everybody beats to everybody.
const ALL_TO_ALL: usize = 16;
/// How often receives are looked after.
const LISTEN: Duration = Duration::from_millis(5);
const SEPARATOR: char = '\u{1f}';

/// Ranks that exchange beats with `rank`.
pub(super) fn peers(rank: usize, size: usize) -> Vec<usize> {
    let near = |other: usize| {
        let apart = other.abs_diff(rank);
        apart == 1 || apart == size - 1 || other == 0 || rank == 0
    };
    (0..size).filter(|other| *other != rank && (size <= ALL_TO_ALL || near(*other))).collect()
}

fn encode(beat: &Beat) -> Box<[u8; SIZE]> {
    let text = match beat {
        Beat::Alive => String::new(),
        Beat::Fault(fault) => {
            let iter = fault.iter.map_or(String::new(), |iter| iter.to_string());
            let rank = fault.rank.to_string();
            [&*rank, &*fault.host, &*fault.actor, &*iter, &*fault.doing, &*fault.cause]
                .map(|part| part.replace(SEPARATOR, " "))
                .join(&SEPARATOR.to_string())
        }
    };
    let mut bytes = Box::new([0; SIZE]);
    let mut end = text.len().min(SIZE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    bytes[..end].copy_from_slice(&text.as_bytes()[..end]);
    bytes
}

fn decode(bytes: &[u8; SIZE]) -> Beat {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(SIZE);
    let text = String::from_utf8_lossy(&bytes[..end]);
    let mut parts = text.splitn(6, SEPARATOR);
    let Some(rank) = parts.next().and_then(|rank| rank.parse().ok()) else { return Beat::Alive };
    let mut next = || parts.next().unwrap_or_default();
    Beat::Fault(Fault {
        rank,
        host: next().into(),
        actor: next().into(),
        iter: next().parse().ok(),
        doing: next().into(),
        cause: next().into(),
        origin: Origin::Remote,
    })
}

struct Peer {
    rank: usize,
    inbox: Box<[u8; SIZE]>,
    receive: Option<Request>,
    /// Sends under way, with the bytes lent to MPI.
    sends: Vec<(Request, Box<[u8; SIZE]>)>,
}

/// All beats of this rank.
pub(super) struct Beats {
    comm: Comm,
    peers: Vec<Peer>,
    looked: Instant,
}

impl Beats {
    pub(super) fn start(comm: Comm, rank: usize, size: usize) -> Result<Self, String> {
        let peers = peers(rank, size).into_iter().map(|rank| Peer {
            rank,
            inbox: Box::new([0; SIZE]),
            receive: None,
            sends: Vec::new(),
        });
        let mut beats = Beats { comm, peers: peers.collect(), looked: Instant::now() };
        for peer in &mut beats.peers {
            peer.listen(&comm)?;
        }
        Ok(beats)
    }

    /// A fault is sent in any case; a beat only when the last one has gone.
    pub(super) fn send(&mut self, beat: &Beat) -> Result<(), String> {
        for peer in &mut self.peers {
            peer.forget_sent()?;
            if peer.sends.is_empty() || matches!(beat, Beat::Fault(_)) {
                let bytes = encode(beat);
                // SAFETY: the box's contents stay where they are, untouched, in `sends` until
                // the request is done.
                let request = unsafe { self.comm.send(bytes.as_ptr(), SIZE, peer.rank)? };
                peer.sends.push((request, bytes));
            }
        }
        Ok(())
    }

    pub(super) fn heard(&mut self, beats: &mut Vec<(usize, Beat)>) -> Result<(), String> {
        if self.looked.elapsed() < LISTEN {
            return Ok(());
        }
        self.looked = Instant::now();
        for peer in &mut self.peers {
            peer.forget_sent()?;
            let Some(receive) = &mut peer.receive else { continue };
            if receive.test()? {
                beats.push((peer.rank, decode(&peer.inbox)));
                peer.listen(&self.comm)?;
            }
        }
        Ok(())
    }

    /// When no peer sends any more.
    pub(super) fn finish(self) -> Result<(), String> {
        let until = Instant::now() + Duration::from_millis(200);
        for mut peer in self.peers {
            while !peer.sends.is_empty() && Instant::now() < until {
                peer.forget_sent()?;
            }
            // What is still lent stays lent.
            std::mem::forget(std::mem::take(&mut peer.sends));
            if let Some(mut receive) = peer.receive.take()
                && !receive.test()?
            {
                receive.cancel()?;
            }
        }
        Ok(())
    }
}

impl Peer {
    fn listen(&mut self, comm: &Comm) -> Result<(), String> {
        // SAFETY: the inbox is boxed, so it stays where it is, and is read only after the
        // request has tested true.
        let request = unsafe { comm.receive(self.inbox.as_mut_ptr(), SIZE, self.rank)? };
        self.receive = Some(request);
        Ok(())
    }

    fn forget_sent(&mut self) -> Result<(), String> {
        let mut place = 0;
        while place < self.sends.len() {
            if self.sends[place].0.test()? {
                self.sends.swap_remove(place);
            } else {
                place += 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_survives_the_wire_and_a_long_one_is_cut() {
        let fault = Fault {
            rank: 3,
            host: "node7".into(),
            actor: "device 1".into(),
            iter: Some(120),
            doing: "forward".into(),
            cause: "layer conv1: ü".into(),
            origin: Origin::Remote,
        };
        assert_eq!(decode(&encode(&Beat::Fault(fault.clone()))), Beat::Fault(fault.clone()));
        assert_eq!(decode(&encode(&Beat::Alive)), Beat::Alive);
        let long = Fault { cause: "ü".repeat(2000).into(), iter: None, ..fault };
        let Beat::Fault(cut) = decode(&encode(&Beat::Fault(long))) else { panic!("not a fault") };
        assert!(cut.iter.is_none() && cut.cause.len() > 900 && cut.cause.ends_with('ü'));
    }

    #[test]
    fn beating_is_mutual_and_rank_0_hears_all() {
        for size in [1, 2, 16, 17, 40] {
            for rank in 0..size {
                let own = peers(rank, size);
                assert!(own.iter().all(|other| peers(*other, size).contains(&rank)));
                assert!(rank == 0 || own.contains(&0));
            }
        }
        assert_eq!(peers(20, 40), [0, 19, 21]);
    }
}
