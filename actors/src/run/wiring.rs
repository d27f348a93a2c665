//! Makes a node's channels and starts its actors, each on its own arbiter (one OS thread).

use std::sync::Arc;
use std::time::Duration;

use actix::dev::channel::{AddressReceiver, channel};
use actix::{Actor, Addr, Arbiter, Context, Recipient};
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::board::Board;
use crate::communicator::{Communicator, DevicePort, Parts, SharedObserver};
use crate::config::{Config, Factories, Mode, ReplicaFactory};
use crate::deck::Deck;
use crate::device::{Device, Ends, ReaderPort};
use crate::fault::Post;
use crate::hands::Hands;
use crate::inbox::{Inbox, Port, inbox};
use crate::messages::{Feed, Load, Note, TestLoad};
use crate::observe::RunReport;
use crate::reader::{Empty, MOST, Queue, Reader, TEST_BUFFERS, TestQueue};
use crate::replica::{MAX_BUCKETS, Replica, ReplicaPlace};
use crate::source::{BatchSource, ReaderPlace};
use crate::trace::{Tracer, Traces};
use crate::transport::{Line, Meeting};
use crate::writer::{Write, Writer};

/// Messages in an actix mailbox before `try_send` refuses; `do_send`, which we use, never does.
const MAILBOX: usize = 16;

/// What the wiring starts from.
pub(super) struct Wires<'a> {
    pub(super) config: &'a Config,
    pub(super) meeting: Meeting,
    pub(super) observer: &'a SharedObserver,
    pub(super) traces: &'a Arc<Traces>,
    pub(super) post: &'a Post,
    pub(super) line: Line,
    pub(super) hands: Hands,
    pub(super) outcome: Sender<RunReport>,
}

/// Wakes the communicator.
pub(super) type WakeUp = Box<dyn Fn() + Send>;

/// An actor's address before the actor runs: addresses point both ways.
fn address<A: Actor<Context = Context<A>>>() -> (Addr<A>, AddressReceiver<A>) {
    let (sender, receiver) = channel(MAILBOX);
    (Addr::new(sender), receiver)
}

fn launch<A: Actor<Context = Context<A>>>(
    arbiter: &Arbiter,
    inbox: AddressReceiver<A>,
    make: impl FnOnce() -> A + Send + 'static,
) {
    arbiter.spawn_fn(move || {
        Context::with_receiver(inbox).run(make());
    });
}

/// An actor that has an inbox of its own and no address.
fn launch_alone<A: Actor<Context = Context<A>>>(
    arbiter: &Arbiter,
    make: impl FnOnce() -> A + Send + 'static,
) {
    arbiter.spawn_fn(move || {
        Context::new().run(make());
    });
}

/// Where to give a reader's buffers back, and whom to tell.
type ReaderHandle<B> = (Sender<Empty<B>>, Port<Feed>);

/// The channels of one reader while they are dealt out.
struct ReaderEnds<B> {
    queues: Vec<Queue<B>>,
    tests: Vec<TestQueue<B>>,
    empties: (Sender<Empty<B>>, Receiver<Empty<B>>),
}

/// A device's ends of its batch channels.
struct Batches<B> {
    loads: Receiver<Load<B>>,
    tests: Receiver<TestLoad<B>>,
    train: (usize, usize),
    test: (usize, usize),
}

impl Wires<'_> {
    /// Whether the devices draw from one queue.
    fn draws(&self) -> bool {
        self.config.mode.draws() && self.meeting.replicas() > 1
    }

    /// Starts everything; the actors wait for the communicator's orders.
    pub(super) fn start<R, S>(self, factories: Factories<R, S>) -> (Vec<Arbiter>, WakeUp)
    where
        R: Replica,
        S: BatchSource<Batch = R::Batch>,
    {
        let (readers, batches) = self.channels::<R::Batch>();
        let board = Arc::new(Board::new(self.config.threads.len()));
        let (communicator, notes) = inbox();
        let mut arbiters = Vec::new();

        let mut reader_ports = Vec::new();
        let mut ports = Vec::new();
        let count = readers.len();
        for (index, ends) in readers.into_iter().enumerate() {
            let arbiter = Arbiter::new();
            let (reader, feeds) = inbox();
            ports.push((ends.empties.0.clone(), reader.clone()));
            let factory = factories.source.clone();
            let make = self.reader(index, count, ends, factory, feeds, communicator.clone());
            launch_alone(&arbiter, make);
            reader_ports.push(reader);
            arbiters.push(arbiter);
        }

        let arbiter = Arbiter::new();
        let (writer, writer_inbox) = address::<Writer>();
        let writer = writer.recipient();
        let (post, to) = (self.post_of("writer"), communicator.clone());
        launch(&arbiter, writer_inbox, move || Writer { post, notes: to });
        arbiters.push(arbiter);

        let bounded = matches!(self.config.mode, Mode::Ssp { .. });
        let deck = Arc::new(Deck::new(!bounded));
        let mut devices = Vec::new();
        for (local, batches) in batches.into_iter().enumerate() {
            let arbiter = Arbiter::new();
            let (device, inbox) = address::<Device<R>>();
            let post = self.post_of(&format!("device {local}"));
            let (port, ends) =
                Self::ends(batches, &deck, &device, &ports, &communicator, &writer, &post.tracer);
            devices.push(port);
            let make = self.device(local, post, ends, factories.replica.clone(), board.clone());
            launch(&arbiter, inbox, make);
            arbiters.push(arbiter);
        }

        let arbiter = Arbiter::new();
        let parts = Parts {
            post: self.post_of("communicator"),
            mode: self.config.mode,
            look_ahead: self.config.look_ahead,
            wire: self.config.wire,
            hands: self.hands,
            meeting: self.meeting,
            schedule: self.config.schedule.clone(),
            requests: self.config.requests.clone(),
            clock: self.config.clock.clone(),
            board,
            gate: deck,
            observer: self.observer.clone(),
            line: self.line,
            devices,
            readers: reader_ports,
            outcome: self.outcome,
        };
        launch_alone(&arbiter, move || Communicator::new(parts, notes));
        arbiters.push(arbiter);
        (arbiters, Box::new(move || communicator.send(Note::News)))
    }

    /// Both ends of a device's channels.
    fn ends<R>(
        batches: Batches<R::Batch>,
        deck: &Arc<Deck<R::Batch>>,
        device: &Addr<Device<R>>,
        readers: &[ReaderHandle<R::Batch>],
        communicator: &Port<Note>,
        writer: &Recipient<Write>,
        tracer: &Tracer,
    ) -> (DevicePort, Ends<R::Batch>)
    where
        R: Replica,
    {
        let (cues, cues_in) = bounded(MAX_BUCKETS + 2);
        let (gradients_out, gradients) = bounded(MAX_BUCKETS);
        let (opened, opened_in) = bounded(1);
        let port = DevicePort {
            orders: device.clone().recipient(),
            tracer: tracer.clone(),
            cues,
            gradients,
            opened,
            train: batches.train,
            test: batches.test,
        };
        let readers = readers
            .iter()
            .map(|(empties, reader)| ReaderPort { empties: empties.clone(), feed: reader.clone() });
        let ends = Ends {
            loads: batches.loads,
            deck: deck.clone(),
            opened: opened_in,
            tests: batches.tests,
            cues: cues_in,
            gradients: gradients_out,
            notes: communicator.clone(),
            writer: writer.clone(),
            readers: readers.collect(),
            test_reader: batches.test.0,
            queue: batches.train.1,
            test_queue: batches.test.1,
        };
        (port, ends)
    }

    fn post_of(&self, actor: &str) -> Post {
        Post { actor: actor.into(), tracer: self.traces.lane(actor), ..self.post.clone() }
    }

    /// Batch channels. In hogwild all devices draw from one; else each has its own, served by
    /// one reader so that its tickets stay in order. Test batches: always each its own.
    fn channels<B>(&self) -> (Vec<ReaderEnds<B>>, Vec<Batches<B>>) {
        let devices = self.config.threads.len();
        let draws = self.draws();
        let count = if draws { self.config.readers } else { self.config.readers.min(devices) };
        let share = devices.div_ceil(count);
        let depth = MOST * share + TEST_BUFFERS * share;
        let mut readers: Vec<ReaderEnds<B>> = (0..count)
            .map(|_| ReaderEnds { queues: Vec::new(), tests: Vec::new(), empties: bounded(depth) })
            .collect();
        let (out, shared) = bounded(MOST * share * count);
        if draws {
            for reader in &mut readers {
                reader.queues.push(Queue::new(out.clone(), share));
            }
        }
        let batches = (0..devices)
            .map(|local| {
                let reader = local % count;
                let ends = &mut readers[reader];
                let (test_out, tests) = bounded(TEST_BUFFERS);
                ends.tests.push(TestQueue::new(test_out));
                let test = (reader, ends.tests.len() - 1);
                if draws {
                    return Batches { loads: shared.clone(), tests, train: (reader, 0), test };
                }
                let (out, loads) = bounded(MOST);
                ends.queues.push(Queue::new(out, 1));
                Batches { loads, tests, train: (reader, ends.queues.len() - 1), test }
            })
            .collect();
        (readers, batches)
    }

    fn reader<S: BatchSource>(
        &self,
        index: usize,
        count: usize,
        ends: ReaderEnds<S::Batch>,
        factory: Arc<crate::config::SourceFactory<S>>,
        inbox: Inbox<Feed>,
        notes: Port<Note>,
    ) -> impl FnOnce() -> Reader<S> + Send + 'static {
        let post = self.post_of(&format!("reader {index}"));
        let place = ReaderPlace {
            rank: self.meeting.rank,
            nodes: self.meeting.nodes(),
            reader: index,
            readers: count,
            replicas: self.meeting.replicas(),
            tracer: post.tracer.clone(),
        };
        let passes = self.config.schedule.iter_size;
        let per_load = if self.draws() { passes } else { 1 };
        let prefetch_bytes = self.config.prefetch_bytes / count;
        move || Reader {
            post,
            place,
            factory,
            source: None,
            notes,
            inbox: Some(inbox),
            queues: ends.queues,
            tests: ends.tests,
            empties: ends.empties.1,
            passes,
            per_load,
            prefetch_bytes,
        }
    }

    fn device<R: Replica>(
        &self,
        local: usize,
        post: Post,
        ends: Ends<R::Batch>,
        factory: Arc<ReplicaFactory<R>>,
        board: Arc<Board>,
    ) -> impl FnOnce() -> Device<R> + Send + 'static {
        let place = ReplicaPlace {
            rank: self.meeting.rank,
            nodes: self.meeting.nodes(),
            local,
            workers: self.config.threads.len(),
            replica: self.meeting.first_replica(self.meeting.rank) + local,
            replicas: self.meeting.replicas(),
            threads: self.config.threads[local],
            tracer: post.tracer.clone(),
        };
        let (mode, schedule) = (self.config.mode, self.config.schedule.clone());
        let requests = self.config.requests.clone();
        let patience = self.config.stall_warning.max(Duration::from_millis(10));
        move || Device {
            stop: post.alarm.stop(),
            post,
            place,
            factory,
            mode,
            schedule,
            requests,
            patience,
            board,
            ends,
            own: None,
        }
    }
}
