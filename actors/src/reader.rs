//! The reader actor: fills recycled batches for the tickets it is told, in order per queue.
//!
//! It never waits: it fills while there is work and an empty buffer, and is woken when either
//! comes. Buffers travel in circles (reader → device → reader) whose channels are as deep as
//! there are buffers, so no send blocks; the number of buffers bounds the prefetch. Test batches
//! go first.

use std::collections::VecDeque;
use std::sync::Arc;

use actix::{Actor, ActorContext, AsyncContext, Context, StreamHandler};
use crossbeam_channel::{Receiver, Sender};

use crate::config::SourceFactory;
use crate::fault::{Halt, Post, enter, guarded};
use crate::inbox::{AlarmClock, Inbox, Item, Port};
use crate::messages::{Feed, Load, Note, TestLoad};
use crate::source::{BatchSource, ReaderPlace};
use crate::trace::Kind;

/// Train buffers of one device are at least and at most so many.
pub(crate) const FEWEST: usize = 2;
/// See [`FEWEST`].
pub(crate) const MOST: usize = 8;
/// Test buffers of one device.
pub(crate) const TEST_BUFFERS: usize = 2;

/// The train batches of one device, or of all that draw from one queue.
pub(crate) struct Queue<B> {
    out: Sender<Load<B>>,
    /// Devices that draw from it.
    devices: usize,
    work: VecDeque<Run>,
    free: Vec<Load<B>>,
}

/// Step tickets to fill: `first`, `first + stride`, …
#[derive(Debug)]
struct Run {
    first: u64,
    stride: u64,
    left: u64,
    /// Batches of the first step already filled.
    pass: usize,
}

/// The test batches of one device.
pub(crate) struct TestQueue<B> {
    out: Sender<TestLoad<B>>,
    work: VecDeque<TestRun>,
    free: Vec<B>,
}

#[derive(Debug)]
struct TestRun {
    net: usize,
    cursor: u64,
    row: u64,
    stride: u64,
    rows: u64,
}

impl<B> Queue<B> {
    /// For so many devices, without buffers.
    pub(crate) fn new(out: Sender<Load<B>>, devices: usize) -> Self {
        Queue { out, devices, work: VecDeque::new(), free: Vec::new() }
    }
}

/// How many batches of one device may lie ready, where `each` bytes make one for every device.
fn buffers(prefetch_bytes: usize, each: usize) -> usize {
    (prefetch_bytes / each.max(1)).clamp(FEWEST, MOST)
}

impl<B> TestQueue<B> {
    /// Without buffers.
    pub(crate) fn new(out: Sender<TestLoad<B>>) -> Self {
        TestQueue { out, work: VecDeque::new(), free: Vec::new() }
    }
}

/// What comes back from the devices.
pub(crate) enum Empty<B> {
    Load(usize, Load<B>),
    Test(usize, B),
}

/// The actor.
pub(crate) struct Reader<S: BatchSource> {
    pub(crate) post: Post,
    pub(crate) place: ReaderPlace,
    pub(crate) factory: Arc<SourceFactory<S>>,
    pub(crate) source: Option<S>,
    pub(crate) notes: Port<Note>,
    /// Until the actor opens it.
    pub(crate) inbox: Option<Inbox<Feed>>,
    pub(crate) queues: Vec<Queue<S::Batch>>,
    pub(crate) tests: Vec<TestQueue<S::Batch>>,
    pub(crate) empties: Receiver<Empty<S::Batch>>,
    /// `iter_size`: batches of a step.
    pub(crate) passes: usize,
    /// Batches that travel together.
    pub(crate) per_load: usize,
    /// Bytes of train batches for this reader.
    pub(crate) prefetch_bytes: usize,
}

/// Nothing in an actor of ours is ever pinned in place; a source may be any type.
impl<S: BatchSource> Unpin for Reader<S> {}

impl<S: BatchSource> Actor for Reader<S> {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        enter(Some(self.post.clone()));
        if let Some(inbox) = self.inbox.take() {
            context.add_stream(inbox.open(AlarmClock::default()));
        }
    }
}

impl<S: BatchSource> StreamHandler<Item<Feed>> for Reader<S> {
    fn handle(&mut self, item: Item<Feed>, context: &mut Self::Context) {
        let Item::Message(feed) = item else { return };
        let post = self.post.clone();
        let leave = matches!(feed, Feed::Leave);
        if guarded(&post, || self.take(feed)).is_none() || leave {
            context.stop();
        }
    }
}

impl<S: BatchSource> Reader<S> {
    fn take(&mut self, feed: Feed) -> Result<(), Halt> {
        match feed {
            Feed::Open => self.open()?,
            Feed::Train { queue, first, stride, count } => {
                self.queues[queue].work.push_back(Run { first, stride, left: count, pass: 0 });
            }
            Feed::Test { net, cursor, queue, first, stride, rows } => {
                self.tests[queue].work.push_back(TestRun { net, cursor, row: first, stride, rows });
            }
            Feed::Returned => {}
            Feed::Leave => {
                self.source = None;
                self.notes.send(Note::Left);
                return Ok(());
            }
        }
        self.work()
    }

    fn open(&mut self) -> Result<(), Halt> {
        let span = self.post.tracer.span(Kind::Start);
        let source = (self.factory)(&self.place)?;
        drop(span);
        self.post.tracer.describe(&source.describe());
        let devices: usize = self.queues.iter().map(|queue| queue.devices).sum();
        let each = source.batch_bytes().max(1) * self.per_load * devices.max(1);
        let buffers = buffers(self.prefetch_bytes, each);
        let reader = self.place.reader;
        for queue in &mut self.queues {
            let batches = || (0..self.per_load).map(|_| S::Batch::default()).collect();
            queue.free.extend((0..buffers * queue.devices).map(|_| Load {
                reader,
                ticket: 0,
                batches: batches(),
            }));
        }
        for test in &mut self.tests {
            test.free.extend((0..TEST_BUFFERS).map(|_| S::Batch::default()));
        }
        self.source = Some(source);
        self.notes.send(Note::Opened);
        Ok(())
    }

    /// Fills until there is no work or no empty buffer.
    fn work(&mut self) -> Result<(), Halt> {
        loop {
            if self.post.alarm.raised() {
                return Err(Halt::Stopped);
            }
            while let Ok(empty) = self.empties.try_recv() {
                match empty {
                    Empty::Load(queue, load) => self.queues[queue].free.push(load),
                    Empty::Test(queue, batch) => self.tests[queue].free.push(batch),
                }
            }
            let Some(source) = &mut self.source else { return Ok(()) };
            let mut filled = false;
            for queue in &mut self.tests {
                filled |= queue.fill_one(source, &self.post)?;
            }
            // After a test batch, look for more of them before train batches.
            if !filled {
                for queue in &mut self.queues {
                    filled |= queue.fill_one(source, &self.post, &self.place, self.passes)?;
                }
            }
            if !filled {
                return Ok(());
            }
        }
    }
}

impl<B> TestQueue<B> {
    fn fill_one<S>(&mut self, source: &mut S, post: &Post) -> Result<bool, Halt>
    where
        S: BatchSource<Batch = B>,
    {
        while self.work.front().is_some_and(|run| run.row >= run.rows) {
            self.work.pop_front();
        }
        let Some(run) = self.work.front_mut() else { return Ok(false) };
        let Some(mut batch) = self.free.pop() else { return Ok(false) };
        let span = post.tracer.span(Kind::ReadTest);
        source.fill_test(run.net, run.cursor + run.row, &mut batch)?;
        drop(span);
        let row = run.row;
        run.row += run.stride;
        let taken = self.out.try_send(TestLoad { row, batch }).is_ok();
        if !taken {
            self.work.clear();
        }
        Ok(taken)
    }
}

impl<B> Queue<B> {
    fn fill_one<S>(
        &mut self,
        source: &mut S,
        post: &Post,
        place: &ReaderPlace,
        passes: usize,
    ) -> Result<bool, Halt>
    where
        S: BatchSource<Batch = B>,
    {
        while self.work.front().is_some_and(|run| run.left == 0) {
            self.work.pop_front();
        }
        let Some(run) = self.work.front_mut() else { return Ok(false) };
        let Some(mut load) = self.free.pop() else { return Ok(false) };
        post.tracer.set_iter(run.first / place.replicas.max(1) as u64);
        let span = post.tracer.span(Kind::Read);
        post.inject("read")?;
        load.ticket = run.first * passes as u64 + run.pass as u64;
        for (offset, batch) in load.batches.iter_mut().enumerate() {
            source.fill(load.ticket + offset as u64, batch)?;
        }
        drop(span);
        run.pass += load.batches.len();
        if run.pass >= passes {
            run.pass = 0;
            run.first += run.stride;
            run.left -= 1;
        }
        Ok(self.give(load))
    }

    /// Hands a load on; whether anybody took it. A device that has left needs none: that may come before
    /// the reader is told to leave, when it was slow to fill what a device had given back last.
    fn give(&mut self, load: Load<B>) -> bool {
        let taken = self.out.try_send(load).is_ok();
        if !taken {
            self.work.clear();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_has_left_gets_nothing_and_ends_nobody() {
        let (out, device) = crossbeam_channel::bounded(2);
        let mut queue: Queue<()> = Queue::new(out, 1);
        let load = |ticket| Load { reader: 0, ticket, batches: Vec::new() };
        queue.work.push_back(Run { first: 0, stride: 1, left: 100_000, pass: 0 });
        assert!(queue.give(load(0)) && !queue.work.is_empty());
        drop(device);
        assert!(!queue.give(load(1)) && queue.work.is_empty());
    }

    #[test]
    fn prefetch_is_bounded_in_bytes() {
        for prefetch in [0, 1 << 20, 256 << 20] {
            for each in [1, 1000, 40 << 20, 64 << 20, 1 << 30] {
                let n = buffers(prefetch, each);
                assert!(n * each <= prefetch.max(FEWEST * each), "{n} batches of {each}");
                assert!((FEWEST..=MOST).contains(&n));
            }
        }
        assert_eq!(buffers(256 << 20, 64 << 20), 4);
    }
}
