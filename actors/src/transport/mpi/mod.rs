//! The MPI transport: duplicated communicators for headers, data, test (two each) and heartbeats,
//! raw calls with checked return codes, everything nonblocking and polled.
//!
//! Lives on the pump's thread, which is the one that initialised MPI, so `Funneled` suffices.

mod beats;
mod calls;
mod headers;
mod lane;
#[cfg(test)]
mod measure;

use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use self::beats::Beats;
use self::calls::Comm;
use self::headers::Headers;
use self::lane::MpiLane;
use super::{Beat, Done, Lane, Op, Transport};
use crate::fault::FAULT_STATUS;

/// Set while an abort makes sense: MPI is initialised, not finalised, and there are other ranks.
/// Process-wide, as MPI is.
static ABORTABLE: AtomicBool = AtomicBool::new(false);

/// Ends the whole job at once, from any thread, if it is one that can be ended.
pub(crate) fn abort_job() {
    if ABORTABLE.swap(false, Ordering::AcqRel) {
        calls::abort(FAULT_STATUS);
    }
}

/// What the library lets threads do, in MPI's word; `None` where it is not in use.
pub(crate) fn thread_level() -> Option<String> {
    calls::thread_level()
}

/// This rank's end.
pub(super) struct Mpi {
    rank: usize,
    size: usize,
    headers: ManuallyDrop<Headers>,
    data: ManuallyDrop<MpiLane>,
    test: ManuallyDrop<MpiLane>,
    beats: Option<Beats>,
    world: Comm,
}

impl Mpi {
    /// Joins the job. Collective.
    pub(super) fn connect() -> Result<Self, String> {
        calls::init()?;
        let world = Comm::world()?;
        let (rank, size) = world.place()?;
        ABORTABLE.store(size > 1, Ordering::Release);
        let data = MpiLane::new([world.duplicate()?, world.duplicate()?], rank, size);
        let test = MpiLane::new([world.duplicate()?, world.duplicate()?], rank, size);
        let headers = Headers::new(world.duplicate()?, size);
        let beats = Beats::start(world.duplicate()?, rank, size)?;
        Ok(Mpi {
            rank,
            size,
            // Buffers lent to MPI must not be freed when a fault drops the transport.
            headers: ManuallyDrop::new(headers),
            data: ManuallyDrop::new(data),
            test: ManuallyDrop::new(test),
            beats: Some(beats),
            world,
        })
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        // As above: dropped by a fault, inboxes and unsent beats are still lent.
        std::mem::forget(self.beats.take());
    }
}

impl Transport for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn describe(&self) -> String {
        calls::library()
    }

    fn post(&mut self, op: Op) -> Result<(), String> {
        match op {
            Op::Header { words } => self.headers.post(words),
            Op::Sum { lane: Lane::Data, .. } | Op::Broadcast { .. } => self.data.post(op),
            Op::Sum { lane: Lane::Test, .. } | Op::Collect { .. } => self.test.post(op),
        }
    }

    fn poll(&mut self, done: &mut Vec<Done>) -> Result<(), String> {
        if self.headers.open() {
            self.headers.poll(done)?;
        }
        if self.data.open() {
            self.data.poll(done)?;
        }
        if self.test.open() {
            self.test.poll(done)?;
        }
        Ok(())
    }

    fn open(&self) -> bool {
        self.headers.open() || self.data.open() || self.test.open()
    }

    fn peers(&self) -> Vec<usize> {
        beats::peers(self.rank, self.size)
    }

    fn beat(&mut self, beat: &Beat) -> Result<(), String> {
        match &mut self.beats {
            Some(beats) => beats.send(beat),
            None => Ok(()),
        }
    }

    fn heard(&mut self, heard: &mut Vec<(usize, Beat)>) -> Result<(), String> {
        match &mut self.beats {
            Some(beats) => beats.heard(heard),
            None => Ok(()),
        }
    }

    fn abort(&mut self) {
        abort_job();
    }

    fn finish(mut self: Box<Self>) -> Result<(), String> {
        let mut barrier = self.world.barrier()?;
        let mut late = Vec::new();
        while !barrier.test()? {
            self.heard(&mut late)?;
            if let Some((rank, Beat::Fault(fault))) =
                late.drain(..).find(|(_, beat)| matches!(beat, Beat::Fault(_)))
            {
                return Err(format!("rank {rank} failed while leaving: {fault}"));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        // Everybody is in the barrier: no beat is sent any more.
        if let Some(beats) = self.beats.take() {
            beats.finish()?;
        }
        ABORTABLE.store(false, Ordering::Release);
        calls::finalize()
    }
}
