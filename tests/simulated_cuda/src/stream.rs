//! Streams: queues of work that run when somebody waits for them.

use std::collections::VecDeque;
use std::sync::Arc;

use cudarc::driver::sys::CUresult;

use crate::world::{Fault, World, bad};

/// What a piece of work does when its turn comes.
pub type Work = Arc<dyn Fn(&mut World) -> Result<(), Fault> + Send + Sync>;

/// A piece of work.
#[derive(Clone)]
pub struct Op {
    /// The call that asked for it.
    pub what: &'static str,
    /// What it does.
    pub work: Work,
    /// Bytes of memory that it frees.
    pub frees: usize,
}

impl Op {
    /// Work that frees nothing.
    pub fn new(
        what: &'static str,
        work: impl Fn(&mut World) -> Result<(), Fault> + Send + Sync + 'static,
    ) -> Op {
        Op { what, work: Arc::new(work), frees: 0 }
    }
}

/// A place in a stream: when so many pieces of its work are done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The stream.
    pub stream: u64,
    /// The number of pieces.
    pub count: usize,
}

/// A queue.
pub struct Stream {
    /// Its device.
    pub device: usize,
    /// Whether it waits for the null stream, and that for it.
    pub blocking: bool,
    /// The graph that its work goes into instead.
    pub capture: Option<u64>,
    queue: VecDeque<Op>,
    asked: usize,
    done: usize,
    /// Whether somebody has asked whether it is done; the second time it is.
    queried: bool,
    /// Whether a piece of its work is under way.
    busy: bool,
}

impl Stream {
    /// An empty one.
    pub fn new(device: usize, blocking: bool) -> Stream {
        let (queue, asked, done) = Default::default();
        Stream { device, blocking, capture: None, queue, asked, done, queried: false, busy: false }
    }

    /// Bytes that its waiting work frees.
    pub fn frees(&self) -> usize {
        self.queue.iter().map(|op| op.frees).sum()
    }
}

/// Whether a handle means the null stream: 0, or its names 1 (legacy) and 2 (per thread).
pub fn null(stream: u64) -> bool {
    stream <= 2
}

/// Whether work that was waited for is done.
pub fn done_or_stalled(done: Result<(), Fault>) -> Result<bool, Fault> {
    match done {
        Err(fault) if fault.stalled => Ok(false),
        done => done.map(|()| true),
    }
}

impl World {
    /// The stream, if it belongs to the context of this thread.
    pub fn stream(&mut self, stream: u64) -> Result<&mut Stream, Fault> {
        let device = self.current()?;
        let found = self.streams.get_mut(stream).map_err(bad)?;
        if found.device != device {
            let why = format!("a stream of device {} in the context of {device}", found.device);
            return Err(Fault::new(CUresult::CUDA_ERROR_INVALID_CONTEXT, why));
        }
        Ok(found)
    }

    /// Adds work to a stream, or to the graph that it is being captured into.
    pub fn ask(&mut self, stream: u64, op: Op) -> Result<(), Fault> {
        if null(stream) {
            self.unsafe_in_capture()?;
            let device = self.current()?;
            self.run_blocking(device)?;
            return self.run(device, &op);
        }
        let found = self.stream(stream)?;
        if let Some(graph) = found.capture {
            return self.captured(graph, stream, op);
        }
        found.queue.push_back(op);
        found.asked += 1;
        found.queried = false;
        Ok(())
    }

    /// The place behind all work that a stream has been asked for.
    pub fn mark(&mut self, stream: u64) -> Result<Mark, Fault> {
        Ok(Mark { stream, count: self.stream(stream)?.asked })
    }

    /// Whether the work before a place is done. That of a stream that is gone is.
    pub fn passed(&self, mark: Mark) -> bool {
        self.streams.get(mark.stream).map_or(true, |stream| stream.done >= mark.count)
    }

    /// Does the work before a place, and nothing behind it.
    pub fn reach(&mut self, mark: Mark) -> Result<(), Fault> {
        loop {
            let Ok(stream) = self.streams.get_mut(mark.stream) else { return Ok(()) };
            if stream.done >= mark.count {
                return Ok(());
            }
            if stream.busy {
                return Err(Fault::stalled());
            }
            let Some(op) = stream.queue.pop_front() else { return Ok(()) };
            (stream.done, stream.busy) = (stream.done + 1, true);
            let device = stream.device;
            let done = self.run(device, &op);
            let Ok(stream) = self.streams.get_mut(mark.stream) else { return done };
            stream.busy = false;
            if done.as_ref().is_err_and(|fault| fault.stalled) {
                stream.done -= 1;
                stream.queue.push_front(op);
            }
            done?;
        }
    }

    /// A host waits for a place.
    pub fn wait(&mut self, mark: Mark) -> Result<(), Fault> {
        if self.others_first && !self.passed(mark) {
            let device = self.current()?;
            let other = |(handle, s): (u64, &Stream)| {
                (handle != mark.stream && s.device == device)
                    .then_some(Mark { stream: handle, count: s.asked })
            };
            let mut others: Vec<Mark> = self.streams.iter().filter_map(other).collect();
            others.sort_by_key(|mark| mark.stream);
            others.into_iter().try_for_each(|mark| self.reach(mark))?;
        }
        self.reach(mark)
    }

    /// Does all work of a stream.
    pub fn drain(&mut self, stream: u64) -> Result<(), Fault> {
        if null(stream) {
            let device = self.current()?;
            return self.run_blocking(device);
        }
        let mark = self.mark(stream)?;
        self.wait(mark)
    }

    /// Does all work of a device, or of its streams that the null stream waits for.
    fn run_all(&mut self, device: usize, all: bool) -> Result<(), Fault> {
        let of = |(stream, s): (u64, &Stream)| {
            (s.device == device && (all || s.blocking)).then_some(Mark { stream, count: s.asked })
        };
        let mut marks: Vec<Mark> = self.streams.iter().filter_map(of).collect();
        marks.sort_by_key(|mark| mark.stream);
        marks.into_iter().try_for_each(|mark| self.reach(mark))
    }

    fn run_blocking(&mut self, device: usize) -> Result<(), Fault> {
        self.run_all(device, false)
    }

    /// Does all work of a device.
    pub fn drain_device(&mut self, device: usize) -> Result<(), Fault> {
        self.run_all(device, true)
    }

    /// Whether a stream is done; asked again it is, as nobody else would do its work.
    pub fn query(&mut self, stream: u64) -> Result<bool, Fault> {
        let found = self.stream(stream)?;
        if found.done < found.asked && !std::mem::replace(&mut found.queried, true) {
            return Ok(false);
        }
        done_or_stalled(self.drain(stream))
    }

    /// Does a piece of work; a failure breaks the context, as on a device.
    pub fn run(&mut self, device: usize, op: &Op) -> Result<(), Fault> {
        (op.work)(self).map_err(|fault| {
            if fault.stalled {
                return fault;
            }
            self.report(op.what, &fault.why, fault.violation);
            self.contexts[device].broken = Some(fault.code);
            Fault { violation: false, ..fault }
        })
    }
}
