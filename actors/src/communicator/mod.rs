//! The communicator actor: one per node. It runs the mode's machine, aggregates locally, hands
//! exchanges to the pump, and leads the node through everything between segments.
//!
//! It never waits for compute: it reacts to notes from devices and readers and to completions
//! from the pump. `rounds` carries out the machine's actions while a segment runs; `duties` is
//! the list of what to do otherwise (start, drained points, end), with `together` for sums and
//! comparisons over all nodes, `points` for what is due at a drained point and `histories` for
//! snapshots.

mod duties;
mod histories;
mod pace;
mod points;
mod rounds;
mod together;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, ActorContext, AsyncContext, Context, Recipient, StreamHandler};
use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;

use self::duties::Duty;
use self::histories::Streaming;
use self::pace::Paces;
use crate::board::Board;
use crate::clock::Clock;
use crate::config::{Mode, Requests};
use crate::deck::Gate;
use crate::fault::{Fault, Halt, Origin, Post, enter, guarded};
use crate::hands::Hands;
use crate::header::Header;
use crate::inbox::{AlarmClock, Inbox, Item, Port};
use crate::ledger::Ledger;
use crate::messages::{Cue, Feed, Gradient, Note, Order, Part};
use crate::mode::{Action, Event, Machine, Moment};
use crate::observe::{Observer, RunReport};
use crate::replica::{Complaint, Plan};
use crate::schedule::Schedule;
use crate::trace::Tracer;
use crate::transport::{Done, Line, Meeting, News, Op};
use crate::wire::Wire;

/// The observer, heard by the communicator and by the thread that called `run`.
pub(crate) type SharedObserver = Arc<Mutex<Box<dyn Observer>>>;

/// The communicator's ends to one device.
pub(crate) struct DevicePort {
    pub(crate) orders: Recipient<Order>,
    pub(crate) tracer: Tracer,
    pub(crate) cues: Sender<Cue>,
    pub(crate) gradients: Receiver<Gradient>,
    /// Tells it that more tickets may start.
    pub(crate) opened: Sender<()>,
    /// Its train queue: reader, and queue in that reader.
    pub(crate) train: (usize, usize),
    /// Its test queue.
    pub(crate) test: (usize, usize),
}

/// What a communicator is made of.
pub(crate) struct Parts {
    pub(crate) post: Post,
    pub(crate) mode: Mode,
    pub(crate) look_ahead: f32,
    pub(crate) wire: Wire,
    pub(crate) hands: Hands,
    pub(crate) meeting: Meeting,
    pub(crate) schedule: Schedule,
    pub(crate) requests: Requests,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) board: Arc<Board>,
    pub(crate) gate: Arc<dyn Gate>,
    pub(crate) observer: SharedObserver,
    pub(crate) line: Line,
    pub(crate) devices: Vec<DevicePort>,
    pub(crate) readers: Vec<Port<Feed>>,
    pub(crate) outcome: Sender<RunReport>,
}

/// The actor.
pub(crate) struct Communicator {
    parts: Parts,
    /// Until the actor opens it.
    inbox: Option<Inbox<Note>>,
    alarm: AlarmClock,
    plan: Option<Plan>,
    machine: Option<Box<dyn Machine>>,
    events: VecDeque<Event>,
    /// Empty between events; kept for its memory.
    actions: Vec<Action>,
    drained: Option<(u64, bool, bool)>,
    wake_at: Option<Duration>,
    ledger: Ledger,

    duty: Option<Duty>,
    duties: VecDeque<Duty>,
    /// Replies and completions that the running duty still waits for.
    awaiting: usize,
    /// Iterations done.
    iter: u64,
    /// Iterations whose tickets the readers have been given (not in hogwild).
    fed: u64,
    stopped_early: bool,
    /// The last drained point, and the last that wrote a snapshot.
    visited: Option<u64>,
    snapshotted: Option<u64>,
    /// The writer has a snapshot that it has not reported.
    writing: bool,
    /// A local replica asks to go back to an earlier state; all nodes have agreed to.
    reload_wanted: bool,
    reload: bool,
    cursors: Vec<u64>,
    plans: Vec<Option<Plan>>,
    checksums: Vec<u64>,
    streaming: Option<Streaming>,

    /// Gradients that devices have given, by bucket and device.
    given: Vec<Vec<Option<Part>>>,
    /// Exchange buffers per bucket.
    wires: Vec<Vec<f32>>,
    /// What rounding has left behind of each bucket on this node; empty when nothing is rounded.
    rests: Vec<Vec<f32>>,
    /// The last mean gradient per bucket.
    means: Vec<Arc<Vec<f32>>>,
    /// Where the next goes while a device reads the last.
    other_means: Vec<Arc<Vec<f32>>>,
    words: Vec<u64>,
    /// All nodes' headers of the last round.
    headers: Arc<Vec<Header>>,
    /// The round whose header was posted last.
    round: u64,
    /// Hash of a mean, to be compared in the next header; 0 for none.
    mean_hash: u64,
    /// The devices give their parts of an average (`local-sgd`).
    merging: bool,
    /// Steps of other nodes whose updates the round under way brings.
    coming: u64,
    paces: Paces,

    steps: Vec<u64>,
    rounds: u64,
    since: Instant,
}

impl Communicator {
    pub(crate) fn new(parts: Parts, inbox: Inbox<Note>) -> Self {
        let devices = parts.devices.len();
        let schedule = parts.schedule.clone();
        let lanes = parts.devices.iter().map(|device| device.tracer.clone()).collect();
        let paces = Paces::new(lanes, parts.meeting.rank, &parts.meeting.workers);
        Communicator {
            inbox: Some(inbox),
            alarm: AlarmClock::default(),
            paces,
            plan: None,
            machine: None,
            events: VecDeque::new(),
            actions: Vec::new(),
            drained: None,
            wake_at: None,
            ledger: Ledger::new(schedule.clone(), parts.meeting.replicas() as u64),
            duty: None,
            duties: VecDeque::new(),
            awaiting: 0,
            iter: schedule.start_iter,
            fed: schedule.start_iter,
            stopped_early: false,
            visited: None,
            // What the run resumes from need not be written again, least of all over itself.
            snapshotted: Some(schedule.start_iter).filter(|iter| *iter > 0),
            writing: false,
            reload_wanted: false,
            reload: false,
            cursors: schedule.test_cursors,
            plans: vec![None; devices],
            checksums: vec![0; devices],
            streaming: None,
            given: Vec::new(),
            wires: Vec::new(),
            rests: Vec::new(),
            means: Vec::new(),
            other_means: Vec::new(),
            words: Vec::new(),
            headers: Arc::new(vec![Header::default(); parts.meeting.nodes()]),
            round: 0,
            mean_hash: 0,
            merging: false,
            coming: 0,
            steps: vec![0; devices],
            rounds: 0,
            since: Instant::now(),
            parts,
        }
    }

    fn root(&self) -> bool {
        self.parts.meeting.rank == 0
    }

    fn nodes(&self) -> usize {
        self.parts.meeting.nodes()
    }

    fn replicas(&self) -> usize {
        self.parts.meeting.replicas()
    }

    fn local(&self) -> usize {
        self.parts.devices.len()
    }

    fn order(&self, device: usize, order: Order) {
        self.parts.devices[device].orders.do_send(order);
    }

    fn post(&self, op: Op) -> Result<(), Halt> {
        self.parts.line.post(op)
    }

    /// Calls the observer, on rank 0 only.
    fn tell(&self, what: impl FnOnce(&mut dyn Observer)) {
        if self.root() {
            what(self.parts.observer.lock().as_mut());
        }
    }

    /// A fault that all ranks find at once, blamed on `rank`.
    fn agreed(&self, rank: usize, cause: impl std::fmt::Display) -> Halt {
        let host =
            self.parts.meeting.hosts.get(rank).map(String::as_str).unwrap_or_default().into();
        let origin = Origin::Agreed;
        Halt::Fault(Fault { rank, host, origin, ..self.parts.post.fault(cause) })
    }

    fn plan(&self) -> Result<&Plan, Halt> {
        self.plan.as_ref().ok_or_else(|| "has no plan yet".to_owned().into())
    }

    /// Gives the machine an event and carries out all that follows.
    fn feed(&mut self, event: Event) -> Result<(), Halt> {
        self.events.push_back(event);
        while let Some(event) = self.events.pop_front() {
            let Some(machine) = &mut self.machine else { return Ok(()) };
            let moment = Moment {
                now: self.parts.clock.now(),
                stop: self.parts.requests.stop_wanted(),
                snapshot: self.parts.requests.snapshot_wanted(),
            };
            let mut actions = std::mem::take(&mut self.actions);
            machine.on(&moment, event, &mut actions);
            for action in actions.drain(..) {
                self.act(action)?;
            }
            self.actions = actions;
        }
        if let Some((iter, stop, snapshot)) = self.drained.take() {
            self.drained_at(iter, stop, snapshot);
            self.arrived()?;
        }
        Ok(())
    }

    /// One turn of the actor: carries `body` out, sets the machine's alarm clock.
    fn turn(
        &mut self,
        context: &mut Context<Self>,
        body: impl FnOnce(&mut Self) -> Result<(), Halt>,
    ) {
        let post = self.parts.post.clone();
        if guarded(&post, || body(self)).is_none() {
            context.stop();
            return;
        }
        if let Some(at) = self.wake_at.take() {
            let clock = &self.parts.clock;
            self.alarm.set(clock.lasts(at.saturating_sub(clock.now())));
        }
    }

    fn take(&mut self, note: Note) -> Result<(), Halt> {
        match note {
            Note::Gradient { local, bucket } => {
                while let Ok(gradient) = self.parts.devices[local].gradients.try_recv() {
                    self.given[gradient.bucket][local] = Some(gradient.part);
                }
                self.feed(Event::Gradient { bucket })
            }
            Note::Computed { local, iter, sample } => {
                self.steps[local] += 1;
                self.feed(Event::Computed { local, iter, sample })
            }
            Note::Finished { local, ticket, sample } => {
                self.steps[local] += 1;
                self.feed(Event::Finished { ticket, sample })
            }
            Note::Complaint(complaint) => {
                self.complaint(&complaint);
                Ok(())
            }
            Note::Written => {
                self.writing = false;
                if self.duty == Some(Duty::Written) { self.arrived() } else { Ok(()) }
            }
            Note::Parked { iter } => self.feed(Event::Parked { iter }),
            Note::News => {
                while let Some(news) = self.parts.line.next() {
                    self.completed(news)?;
                }
                Ok(())
            }
            Note::Slow { local, what, seconds } => {
                let rank = self.parts.meeting.rank;
                let text = format!("rank {rank}, device {local}: {what} for {seconds} s");
                self.parts.observer.lock().warning(&text);
                Ok(())
            }
            note => self.reply(note),
        }
    }

    /// A replica has dropped an update, and may want to go back.
    fn complaint(&mut self, complaint: &Complaint) {
        if complaint.reload {
            self.reload_wanted = true;
            // The wish that drains; what for, the nodes tell each other then.
            self.parts.requests.snapshot();
        }
        if !complaint.text.is_empty() {
            let rank = self.parts.meeting.rank;
            let text = format!("rank {rank}: {}", complaint.text);
            self.parts.observer.lock().warning(&text);
        }
    }

    fn completed(&mut self, news: News) -> Result<(), Halt> {
        match news {
            News::Warning(text) => {
                self.parts.observer.lock().warning(&text);
                Ok(())
            }
            News::Done(Done::Headers { words }) => self.headers(words),
            News::Done(done) => self.finished(done),
        }
    }
}

impl Actor for Communicator {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        enter(Some(self.parts.post.clone()));
        if let Some(inbox) = self.inbox.take() {
            context.add_stream(inbox.open(self.alarm.clone()));
        }
        self.turn(context, Communicator::start);
    }
}

impl StreamHandler<Item<Note>> for Communicator {
    fn handle(&mut self, item: Item<Note>, context: &mut Self::Context) {
        let last = matches!(self.duty, Some(Duty::Leave));
        self.turn(context, |actor| match item {
            Item::Message(note) => actor.take(note),
            Item::Alarm => actor.feed(Event::Timer),
        });
        if last && self.awaiting == 0 {
            context.stop();
        }
    }
}
