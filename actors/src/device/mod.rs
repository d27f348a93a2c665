//! The device actor: owns one replica on one thread and carries out the communicator's orders.
//!
//! `train` runs segments (the bare loop, sync, hogwild), `average` is local-sgd's part; `drained` does what happens between
//! them. While a segment runs the mailbox is not looked at: batches and cues come over channels,
//! and every wait also listens to the node's stop channel and to a deadline.

mod average;
mod drained;
mod train;

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, Context, Handler, Recipient};
use crossbeam_channel::{Receiver, Sender, select};

use crate::board::Board;
use crate::config::{Mode, ReplicaFactory, Requests};
use crate::deck::Deck;
use crate::fault::{Halt, Never, Post, enter, guarded};
use crate::inbox::Port;
use crate::messages::{Cue, Feed, Gradient, Load, Note, Order, TestLoad};
use crate::reader::Empty;
use crate::replica::{Plan, Replica, ReplicaPlace};
use crate::schedule::Schedule;
use crate::trace::Kind;
use crate::writer::Write;

/// Where a device gives buffers back.
pub(crate) struct ReaderPort<B> {
    pub(crate) empties: Sender<Empty<B>>,
    pub(crate) feed: Port<Feed>,
}

/// A device's ends of all channels.
pub(crate) struct Ends<B> {
    pub(crate) loads: Receiver<Load<B>>,
    /// The node's loads that may not start yet, and the word that more may.
    pub(crate) deck: Arc<Deck<B>>,
    pub(crate) opened: Receiver<()>,
    pub(crate) tests: Receiver<TestLoad<B>>,
    pub(crate) cues: Receiver<Cue>,
    pub(crate) gradients: Sender<Gradient>,
    pub(crate) notes: Port<Note>,
    pub(crate) writer: Recipient<Write>,
    /// By reader.
    pub(crate) readers: Vec<ReaderPort<B>>,
    /// The reader that makes this device's test batches.
    pub(crate) test_reader: usize,
    /// This device's queues in its readers, for train and test batches.
    pub(crate) queue: usize,
    pub(crate) test_queue: usize,
}

/// The actor.
pub(crate) struct Device<R: Replica> {
    pub(crate) post: Post,
    pub(crate) place: ReplicaPlace,
    pub(crate) factory: Arc<ReplicaFactory<R>>,
    pub(crate) mode: Mode,
    pub(crate) schedule: Schedule,
    pub(crate) requests: Requests,
    pub(crate) patience: Duration,
    pub(crate) board: Arc<Board>,
    pub(crate) ends: Ends<R::Batch>,
    pub(crate) stop: Receiver<Never>,
    /// The replica, once built.
    pub(crate) own: Option<Own<R>>,
}

/// What exists once the replica is built.
pub(crate) struct Own<R: Replica> {
    replica: R,
    plan: Plan,
    /// One buffer per bucket: a gradient on its way (sync), or fresh weights (hogwild).
    buffers: Vec<Vec<f32>>,
    /// Steps whose updates the replica's weights had when it took them (hogwild).
    pulled: u64,
    /// The weights on which all nodes agreed last (local-sgd), per bucket.
    agreed: Vec<Vec<f32>>,
    /// A load whose batches are not all used.
    load: Option<(Load<R::Batch>, usize)>,
}

/// Nothing in an actor of ours is ever pinned in place; a replica may be any type.
impl<R: Replica> Unpin for Device<R> {}

impl<R: Replica> Actor for Device<R> {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        enter(Some(self.post.clone()));
    }
}

impl<R: Replica> Handler<Order> for Device<R> {
    type Result = ();

    fn handle(&mut self, order: Order, context: &mut Self::Context) {
        let post = self.post.clone();
        let leave = matches!(order, Order::Leave);
        if guarded(&post, || self.obey(order)).is_none() || leave {
            context.stop();
        }
    }
}

impl<R: Replica> Device<R> {
    fn obey(&mut self, order: Order) -> Result<(), Halt> {
        match order {
            Order::Build => self.build(),
            Order::Leave => {
                self.own = None;
                self.note(Note::Left);
                Ok(())
            }
            order => {
                // Taken out so that replica and ends can be used side by side.
                let Some(mut own) = self.own.take() else {
                    return Err("asked to work before its replica was built".to_owned().into());
                };
                let done = match order {
                    Order::Run { from, to } => self.run(&mut own, from, to),
                    order => self.drained(&mut own, order),
                };
                self.own = Some(own);
                done
            }
        }
    }

    fn build(&mut self) -> Result<(), Halt> {
        let _span = self.post.tracer.span(Kind::Start);
        self.post.inject("start")?;
        let replica = (self.factory)(&self.place)?;
        let plan = replica.plan();
        plan.check()?;
        // The bare loop moves no gradients.
        let alone = self.place.replicas == 1;
        let lens = plan.buckets.iter().map(|range| if alone { 0 } else { range.len() });
        let buffers = lens.map(|len| vec![0.0; len]).collect();
        if plan.test_outputs.len() != self.schedule.test_batches.len() {
            let (has, wants) = (plan.test_outputs.len(), self.schedule.test_batches.len());
            return Err(format!("has {has} test nets, but the schedule tests {wants}").into());
        }
        self.note(Note::Built { local: self.place.local, plan: Box::new(plan.clone()) });
        self.own = Some(Own { replica, plan, buffers, agreed: Vec::new(), pulled: 0, load: None });
        Ok(())
    }

    fn note(&self, note: Note) {
        self.ends.notes.send(note);
    }

    fn alone(&self) -> bool {
        self.place.replicas == 1
    }

    /// Waits for something from `channel`.
    fn wait<T>(&self, channel: &Receiver<T>, kind: Kind) -> Result<T, Halt> {
        if let Ok(value) = channel.try_recv() {
            return Ok(value);
        }
        let _span = self.post.tracer.span(kind);
        let start = Instant::now();
        loop {
            select! {
                recv(channel) -> value => return value.map_err(|_| Halt::Stopped),
                recv(self.stop) -> _ => return Err(Halt::Stopped),
                default(self.patience) => self.slow(kind, start),
            }
        }
    }

    fn slow(&self, kind: Kind, since: Instant) {
        let (local, seconds) = (self.place.local, since.elapsed().as_secs());
        self.note(Note::Slow { local, what: kind.name(), seconds });
    }

    /// Gives a load back to its reader.
    fn give_back(&self, load: Load<R::Batch>) {
        let port = &self.ends.readers[load.reader];
        // A reader that has left needs no buffers.
        drop(port.empties.try_send(Empty::Load(self.ends.queue, load)));
        port.feed.send(Feed::Returned);
    }
}
