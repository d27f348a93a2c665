//! The streams of a device's queues, and the events between them.

use std::cell::RefCell;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream};

use super::driver;
use crate::device::cuda::backend::{Event, Queue};
use crate::{Error, Result};

/// All of them.
pub(super) struct Queues {
    compute: Arc<CudaStream>,
    copy_in: Arc<CudaStream>,
    copy_out: Arc<CudaStream>,
    events: RefCell<Vec<CudaEvent>>,
    context: Arc<CudaContext>,
}

impl Queues {
    /// Beside a stream of computation.
    pub(super) fn new(context: &Arc<CudaContext>, compute: &Arc<CudaStream>) -> Result<Queues> {
        let stream = || context.new_stream().map_err(driver("making a stream"));
        Ok(Queues {
            compute: compute.clone(),
            copy_in: stream()?,
            copy_out: stream()?,
            events: RefCell::default(),
            context: context.clone(),
        })
    }

    /// A queue's stream.
    pub(super) fn stream(&self, queue: Queue) -> &Arc<CudaStream> {
        match queue {
            Queue::Compute => &self.compute,
            Queue::CopyIn => &self.copy_in,
            Queue::CopyOut => &self.copy_out,
        }
    }

    pub(super) fn event(&self) -> Result<Event> {
        let mut events = self.events.borrow_mut();
        events.push(self.context.new_event(None).map_err(driver("making an event"))?);
        Ok(Event(events.len() - 1))
    }

    fn with<T>(&self, event: Event, f: impl FnOnce(&CudaEvent) -> Result<T>) -> Result<T> {
        match self.events.borrow().get(event.0) {
            Some(event) => f(event),
            None => Err(Error::Invalid("internal: an event of another device".into())),
        }
    }

    pub(super) fn set(&self, event: Event, queue: Queue) -> Result<()> {
        let stream = self.stream(queue);
        self.with(event, |event| event.record(stream).map_err(driver("setting an event")))
    }

    pub(super) fn follow(&self, queue: Queue, event: Event) -> Result<()> {
        let stream = self.stream(queue);
        self.with(event, |event| stream.wait(event).map_err(driver("following an event")))
    }

    pub(super) fn passed(&self, event: Event) -> Result<bool> {
        self.with(event, |event| event.try_is_complete().map_err(driver("what was asked for")))
    }

    pub(super) fn wait(&self, event: Event) -> Result<()> {
        self.with(event, |event| event.synchronize().map_err(driver("what was asked for")))
    }

    /// Waits for everything; a device that failed has said so.
    pub(super) fn drain(&self) {
        for queue in [Queue::Compute, Queue::CopyIn, Queue::CopyOut] {
            let _ = self.stream(queue).synchronize();
        }
    }
}
