//! A lane over MPI: operations in order, cut into 1 MiB chunks, a few of them in flight.
//!
//! Measured with Open MPI 4: one all-reduce of 28 MB blocks its caller for 12 to 22 ms inside
//! single calls; chunks of 1 MiB with four in flight keep every call under 1 ms and finish
//! sooner. All ranks cut alike and post in the same order, as collectives need.

use std::collections::VecDeque;

use super::calls::{Comm, Request};
use crate::transport::{Done, Op};

/// Floats in a chunk: 1 MiB.
const CHUNK: usize = 1 << 18;
/// Chunks in flight.
const WINDOW: usize = 4;

/// What is done with a flight's data.
enum Course {
    Sum,
    Broadcast,
    SendToRoot,
    ReceiveFrom(usize),
}

/// An operation under way.
struct Flight {
    course: Course,
    /// The operation, without its data.
    op: Op,
    data: Vec<f32>,
    /// Floats whose chunks have been started.
    started: usize,
    open: VecDeque<Request>,
}

/// The operations of one communicator.
pub(super) struct MpiLane {
    comm: Comm,
    rank: usize,
    flights: VecDeque<Flight>,
}

impl MpiLane {
    pub(super) fn new(comm: Comm, rank: usize) -> Self {
        MpiLane { comm, rank, flights: VecDeque::new() }
    }

    pub(super) fn open(&self) -> bool {
        !self.flights.is_empty()
    }

    pub(super) fn post(&mut self, op: Op) -> Result<(), String> {
        let (course, op, data) = match op {
            Op::Sum { lane, id, data } => {
                (Course::Sum, Op::Sum { lane, id, data: Vec::new() }, data)
            }
            Op::Broadcast { id, data } => {
                (Course::Broadcast, Op::Broadcast { id, data: Vec::new() }, data)
            }
            Op::Collect { from, data } => {
                let send = from == self.rank;
                let course = if send { Course::SendToRoot } else { Course::ReceiveFrom(from) };
                (course, Op::Collect { from, data: Vec::new() }, data)
            }
            Op::Header { .. } => return Err("a header has a lane of its own".into()),
        };
        self.flights.push_back(Flight { course, op, data, started: 0, open: VecDeque::new() });
        self.fill_window()
    }

    pub(super) fn poll(&mut self, done: &mut Vec<Done>) -> Result<(), String> {
        // Each test of an unfinished request drives the whole library, so only the oldest is
        // tested: the others move on with it.
        'lane: for flight in &mut self.flights {
            while let Some(oldest) = flight.open.front_mut() {
                if !oldest.test()? {
                    break 'lane;
                }
                flight.open.pop_front();
            }
        }
        self.fill_window()?;
        let landed =
            |flight: &mut Flight| flight.open.is_empty() && flight.started == flight.data.len();
        while let Some(flight) = self.flights.pop_front_if(landed) {
            done.push(match flight.op {
                Op::Sum { lane, id, .. } => Done::Sum { lane, id, data: flight.data },
                Op::Broadcast { id, .. } => Done::Broadcast { id, data: flight.data },
                Op::Collect { from, .. } => Done::Collect { from, data: flight.data },
                Op::Header { words } => Done::Headers { words },
            });
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
                flight.start_chunk(&self.comm)?;
                open += 1;
            }
        }
        Ok(())
    }
}

impl Flight {
    fn start_chunk(&mut self, comm: &Comm) -> Result<(), String> {
        let len = CHUNK.min(self.data.len() - self.started);
        let bytes = len * size_of::<f32>();
        // SAFETY: `started < data.len()`, so the pointer is inside the buffer, and `len` floats
        // follow it. The buffer is neither touched, grown nor dropped while `open` holds the
        // chunk's request: the flight owns it and gives it away only when `open` is empty. (When
        // the process ends by a fault the lane is leaked, not dropped.) Chunks do not overlap.
        let request = unsafe {
            let chunk = self.data.as_mut_ptr().add(self.started);
            match self.course {
                Course::Sum => comm.sum(chunk, len)?,
                Course::Broadcast => comm.broadcast(chunk, len)?,
                Course::SendToRoot => comm.send(chunk.cast(), bytes, 0)?,
                Course::ReceiveFrom(rank) => comm.receive(chunk.cast(), bytes, rank)?,
            }
        };
        self.started += len;
        self.open.push_back(request);
        Ok(())
    }
}

/// Headers: one gather at a time.
pub(super) struct Headers {
    comm: Comm,
    size: usize,
    under_way: Option<Gather>,
}

struct Gather {
    request: Request,
    /// Lent to MPI until the request is done.
    _own: Vec<u64>,
    all: Vec<u64>,
}

impl Headers {
    pub(super) fn new(comm: Comm, size: usize) -> Self {
        Headers { comm, size, under_way: None }
    }

    pub(super) fn open(&self) -> bool {
        self.under_way.is_some()
    }

    pub(super) fn post(&mut self, words: Vec<u64>) -> Result<(), String> {
        if self.under_way.is_some() {
            return Err("a header was posted before the last had come".into());
        }
        let mut all = vec![0; words.len() * self.size];
        // SAFETY: both vectors are kept, untouched, in `under_way` until the request is done;
        // `all` has `size` times as many words.
        let request = unsafe { self.comm.gather(words.as_ptr(), words.len(), all.as_mut_ptr())? };
        self.under_way = Some(Gather { request, _own: words, all });
        Ok(())
    }

    pub(super) fn poll(&mut self, done: &mut Vec<Done>) -> Result<(), String> {
        if let Some(gather) = &mut self.under_way
            && gather.request.test()?
            && let Some(gather) = self.under_way.take()
        {
            done.push(Done::Headers { words: gather.all });
        }
        Ok(())
    }
}
