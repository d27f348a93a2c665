//! A lane over MPI: operations in order, cut into 1 MiB chunks, a few of them in flight.
//!
//! Measured with Open MPI 4: one all-reduce of 28 MB blocks its caller for 12 to 22 ms inside
//! single calls; chunks of 1 MiB with four in flight keep every call under 1 ms and finish
//! sooner. All ranks cut alike and post in the same order, as collectives need.
//!
//! A rounded sum takes two calls a chunk, see [`wire`](crate::wire): pieces to those who add them,
//! sums to all. The second ones have a communicator of their own: there they are posted in the
//! order of the chunks, whenever the first ones end.

use std::collections::VecDeque;

use super::calls::{Comm, Request};
use crate::transport::{Done, Op};
use crate::wire::{self, CHUNK, Pieces, Wire};

/// Chunks in flight.
const WINDOW: usize = 4;

/// What is done with a flight's data.
#[derive(Clone, Copy)]
enum Course {
    Sum,
    Rounded(Wire),
    Broadcast,
    SendToRoot,
    ReceiveFrom(usize),
}

/// Where a chunk is on its way.
enum Stage {
    /// Its only call.
    Plain,
    /// Its pieces go to those who add them.
    Spreading(Packed),
    /// The sums go to all.
    Collecting(Packed),
}

/// Buffers of a rounded chunk.
#[derive(Default)]
struct Packed {
    /// What this rank sends.
    own: Vec<u16>,
    /// What comes.
    all: Vec<u16>,
    /// Working memory.
    sum: Vec<f32>,
}

/// Part of an operation, in flight.
struct Chunk {
    request: Request,
    from: usize,
    len: usize,
    stage: Stage,
}

/// An operation under way.
struct Flight {
    course: Course,
    /// The operation, without its data.
    op: Op,
    data: Vec<f32>,
    /// What rounding takes away; empty if there is none.
    rest: Vec<f32>,
    /// Floats whose chunks have been started.
    started: usize,
    open: VecDeque<Chunk>,
}

/// The operations of one pair of communicators.
pub(super) struct MpiLane {
    comm: Comm,
    /// For the second calls of rounded sums.
    second: Comm,
    rank: usize,
    nodes: usize,
    flights: VecDeque<Flight>,
    /// Buffers that no chunk uses.
    spare: Vec<Packed>,
    /// Windows that no flight uses.
    windows: Vec<VecDeque<Chunk>>,
}

impl MpiLane {
    pub(super) fn new([comm, second]: [Comm; 2], rank: usize, nodes: usize) -> Self {
        let (flights, spare, windows) = (VecDeque::new(), Vec::new(), Vec::new());
        MpiLane { comm, second, rank, nodes, flights, spare, windows }
    }

    pub(super) fn open(&self) -> bool {
        !self.flights.is_empty()
    }

    pub(super) fn post(&mut self, op: Op) -> Result<(), String> {
        let none = Vec::new;
        let (course, op, data, rest) = match op {
            Op::Sum { lane, id, data, wire, rest } => {
                if wire.rounds() && rest.len() != data.len() {
                    return Err("a rounded sum needs as many rests as values".into());
                }
                let course = if wire.rounds() { Course::Rounded(wire) } else { Course::Sum };
                (course, Op::Sum { lane, id, data: none(), wire, rest: none() }, data, rest)
            }
            Op::Broadcast { id, data } => {
                (Course::Broadcast, Op::Broadcast { id, data: none() }, data, none())
            }
            Op::Collect { from, data } => {
                let send = from == self.rank;
                let course = if send { Course::SendToRoot } else { Course::ReceiveFrom(from) };
                (course, Op::Collect { from, data: none() }, data, none())
            }
            Op::Header { .. } => return Err("a header has a lane of its own".into()),
        };
        let open = self.windows.pop().unwrap_or_else(|| VecDeque::with_capacity(WINDOW));
        self.flights.push_back(Flight { course, op, data, rest, started: 0, open });
        self.fill_window()
    }

    pub(super) fn poll(&mut self, done: &mut Vec<Done>) -> Result<(), String> {
        self.second_calls()?;
        // Each test of an unfinished request drives the whole library, so only the oldest is
        // tested: the others move on with it.
        'lane: for flight in &mut self.flights {
            while let Some(oldest) = flight.open.front_mut() {
                if matches!(oldest.stage, Stage::Spreading(_)) || !oldest.request.test()? {
                    break 'lane;
                }
                flight.land(self.nodes, &mut self.spare);
            }
        }
        self.fill_window()?;
        let landed =
            |flight: &mut Flight| flight.open.is_empty() && flight.started == flight.data.len();
        while let Some(flight) = self.flights.pop_front_if(landed) {
            let (data, rest) = (flight.data, flight.rest);
            self.windows.push(flight.open);
            done.push(match flight.op {
                Op::Sum { lane, id, .. } => Done::Sum { lane, id, data, rest },
                Op::Broadcast { id, .. } => Done::Broadcast { id, data },
                Op::Collect { from, .. } => Done::Collect { from, data },
                Op::Header { words } => Done::Headers { words },
            });
        }
        Ok(())
    }

    /// Starts the second calls of rounded chunks whose first ones are done, in order.
    fn second_calls(&mut self) -> Result<(), String> {
        for flight in &mut self.flights {
            for place in 0..flight.open.len() {
                if !flight.start_second(place, &self.second, self.rank, self.nodes)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Starts chunks, in order, while the window has room.
    fn fill_window(&mut self) -> Result<(), String> {
        let mut open: usize = self.flights.iter().map(|flight| flight.open.len()).sum();
        for flight in &mut self.flights {
            while flight.started < flight.data.len() {
                if open == WINDOW {
                    return Ok(());
                }
                match flight.course {
                    Course::Rounded(wire) => {
                        let packed = self.spare.pop().unwrap_or_default();
                        flight.start_rounded(wire, &self.comm, self.nodes, packed)?;
                    }
                    _ => flight.start_chunk(&self.comm)?,
                }
                open += 1;
            }
        }
        Ok(())
    }
}

impl Flight {
    fn start_chunk(&mut self, comm: &Comm) -> Result<(), String> {
        let (from, len) = (self.started, CHUNK.min(self.data.len() - self.started));
        let bytes = len * size_of::<f32>();
        // SAFETY: `started < data.len()`, so the pointer is inside the buffer, and `len` floats
        // follow it. The buffer is neither touched, grown nor dropped while `open` holds the
        // chunk's request: the flight owns it and gives it away only when `open` is empty. (When
        // the process ends by a fault the lane is leaked, not dropped.) Chunks do not overlap.
        let request = unsafe {
            let chunk = self.data.as_mut_ptr().add(from);
            match self.course {
                Course::Sum => comm.sum(chunk, len)?,
                Course::Broadcast => comm.broadcast(chunk, len)?,
                Course::SendToRoot => comm.send(chunk.cast(), bytes, 0)?,
                Course::ReceiveFrom(rank) => comm.receive(chunk.cast(), bytes, rank)?,
                Course::Rounded(_) => return Err("a rounded sum is not sent as it is".into()),
            }
        };
        self.started += len;
        self.open.push_back(Chunk { request, from, len, stage: Stage::Plain });
        Ok(())
    }

    /// Rounds the next chunk and sends its pieces to those who add them.
    fn start_rounded(
        &mut self,
        wire: Wire,
        comm: &Comm,
        nodes: usize,
        mut packed: Packed,
    ) -> Result<(), String> {
        let (from, len) = (self.started, CHUNK.min(self.data.len() - self.started));
        let pieces = Pieces { len, nodes };
        packed.own.resize(pieces.all_words(), 0);
        packed.all.resize(pieces.all_words(), 0);
        let range = from..from + len;
        let rest = &mut self.rest[range.clone()];
        wire::spread(wire, &self.data[range], rest, nodes, &mut packed.own);
        let (own, all) = (packed.own.as_ptr(), packed.all.as_mut_ptr());
        // SAFETY: both buffers have a block of `words` for each rank. They move into the chunk (their
        // contents stay where they are), which touches them only when the request is done.
        let request = unsafe { comm.exchange(own, all, pieces.words())? };
        self.started += len;
        self.open.push_back(Chunk { request, from, len, stage: Stage::Spreading(packed) });
        Ok(())
    }

    /// Whether chunk `place` is past its first call: if that has just ended, adds the pieces that
    /// came and sends their sum to all.
    fn start_second(
        &mut self,
        place: usize,
        comm: &Comm,
        rank: usize,
        nodes: usize,
    ) -> Result<bool, String> {
        let Some(chunk) = self.open.get_mut(place) else { return Ok(true) };
        let (Course::Rounded(wire), Stage::Spreading(packed)) = (self.course, &mut chunk.stage)
        else {
            return Ok(true);
        };
        if !chunk.request.test()? {
            return Ok(false);
        }
        let pieces = Pieces { len: chunk.len, nodes };
        let rest = &mut self.rest[chunk.from..chunk.from + chunk.len][pieces.of(rank)];
        let own = &mut packed.own[..pieces.words()];
        wire::combine(wire, &packed.all, rest, &mut packed.sum, own);
        let (own, all) = (packed.own.as_ptr(), packed.all.as_mut_ptr());
        // SAFETY: `own` has one block of `words`, `all` one for each rank; both stay in the chunk,
        // untouched until the request is done.
        chunk.request = unsafe { comm.gather(own, all, pieces.words())? };
        chunk.stage = Stage::Collecting(std::mem::take(packed));
        Ok(true)
    }

    /// The oldest chunk is done.
    fn land(&mut self, nodes: usize, spare: &mut Vec<Packed>) {
        let Some(chunk) = self.open.pop_front() else { return };
        if let (Course::Rounded(wire), Stage::Collecting(packed)) = (self.course, chunk.stage) {
            let data = &mut self.data[chunk.from..chunk.from + chunk.len];
            wire::collect(wire, &packed.all, nodes, data);
            spare.push(packed);
        }
    }
}
