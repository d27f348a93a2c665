//! Events: places in streams.

use std::time::Instant;

use cudarc::driver::sys::CUresult;

use crate::stream::{Mark, Op, done_or_stalled, null};
use crate::world::{Fault, World, bad};

/// An event.
pub struct Event {
    /// Its device.
    pub device: usize,
    /// Whether it notes the time.
    pub timed: bool,
    /// Where it was recorded last.
    last: Option<Mark>,
    /// When that place was passed.
    time: Option<Instant>,
    /// The graph and the stream in whose capture it was recorded, and the length of the graph then.
    captured: Option<(u64, u64)>,
    queried: bool,
}

impl Event {
    /// One that was never recorded.
    pub fn new(device: usize, timed: bool) -> Event {
        Event { device, timed, last: None, time: None, captured: None, queried: false }
    }
}

impl World {
    fn event(&mut self, event: u64) -> Result<&mut Event, Fault> {
        self.current()?;
        self.events.get_mut(event).map_err(bad)
    }

    /// Records an event.
    pub fn record(&mut self, event: u64, stream: u64) -> Result<(), Fault> {
        let device = self.event(event)?.device;
        if device != self.current()? {
            let why = format!("an event of device {device} in another's context");
            return Err(Fault::new(CUresult::CUDA_ERROR_INVALID_CONTEXT, why));
        }
        if null(stream) {
            self.drain(stream)?;
            let found = self.event(event)?;
            (found.last, found.time, found.captured) = (None, Some(Instant::now()), None);
            return Ok(());
        }
        if let Some(graph) = self.stream(stream)?.capture {
            self.event(event)?.captured = Some((graph, stream));
            return self.left(graph, stream, event);
        }
        let mut mark = self.mark(stream)?;
        mark.count += 1;
        let found = self.event(event)?;
        (found.last, found.time, found.captured, found.queried) = (Some(mark), None, None, false);
        let passed = move |world: &mut World| {
            if let Ok(found) = world.events.get_mut(event)
                && found.last == Some(mark)
            {
                found.time = Some(Instant::now());
            }
            Ok(())
        };
        self.ask(stream, Op::new("cuEventRecord", passed))
    }

    /// Makes a stream wait for an event; one that was never recorded is no wait.
    pub fn stream_waits(&mut self, stream: u64, event: u64) -> Result<(), Fault> {
        let &mut Event { last, captured, .. } = self.event(event)?;
        let capture = match null(stream) {
            true => None,
            false => self.stream(stream)?.capture,
        };
        match (captured, capture) {
            (Some((graph, from)), _) => self.joined(graph, from, stream, event),
            (None, Some(_)) if last.is_some() => {
                let why = "a capturing stream waits for an event from outside of its capture";
                Err(Fault::new(CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION, why))
            }
            _ => match last {
                Some(mark) => {
                    let work = move |world: &mut World| world.reach(mark);
                    self.ask(stream, Op::new("cuStreamWaitEvent", work))
                }
                None => Ok(()),
            },
        }
    }

    fn outside(&mut self, event: u64) -> Result<Option<Mark>, Fault> {
        let found = self.event(event)?;
        if found.captured.is_some() {
            let why = "the event was recorded in a capture";
            return Err(Fault::new(CUresult::CUDA_ERROR_CAPTURED_EVENT, why));
        }
        Ok(found.last)
    }

    /// The host waits for an event.
    pub fn host_waits(&mut self, event: u64) -> Result<(), Fault> {
        self.outside(event)?.map_or(Ok(()), |mark| self.wait(mark))
    }

    /// Whether an event is done; asked again it is, as nobody else would do the work before it.
    pub fn event_done(&mut self, event: u64) -> Result<bool, Fault> {
        let Some(mark) = self.outside(event)? else { return Ok(true) };
        if !self.passed(mark) && !std::mem::replace(&mut self.event(event)?.queried, true) {
            return Ok(false);
        }
        done_or_stalled(self.wait(mark))
    }

    /// Milliseconds between two events.
    pub fn elapsed(&mut self, start: u64, end: u64) -> Result<f32, Fault> {
        let mut times = [None; 2];
        for (time, event) in times.iter_mut().zip([start, end]) {
            self.outside(event)?;
            let found = self.event(event)?;
            if !found.timed || (found.last.is_none() && found.time.is_none()) {
                return Err(bad("an event without a time, or never recorded".into()));
            }
            *time = found.time;
        }
        match times {
            [Some(start), Some(end)] => {
                let forward = end.saturating_duration_since(start).as_secs_f32();
                Ok(1e3 * (forward - start.saturating_duration_since(end).as_secs_f32()))
            }
            _ => Err(Fault::fair(CUresult::CUDA_ERROR_NOT_READY, "not done")),
        }
    }
}
