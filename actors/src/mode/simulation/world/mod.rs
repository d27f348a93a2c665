//! Fake nodes and time around the real machines. `setup`: what a world is made of, `devices`: the
//! fake devices, `network`: headers and sums between nodes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

mod devices;
mod network;
mod setup;

pub(super) use setup::Setup;

use super::Rng;
use crate::config::Mode;
use crate::header::Header;
use crate::mode::{Action, Event, Job, Machine, Moment, machine};

/// An update: its ticket and its weight. In sync: `iter·R + replica`, weight 1.
pub(super) type Update = (u64, f32);

/// What waits in the heap.
#[derive(Debug)]
enum Due {
    Machine(usize, Event),
    /// A hogwild device pushes its `n`-th bucket.
    Push {
        node: usize,
        device: usize,
        ticket: u64,
        nth: usize,
    },
    /// A hogwild device looks for a ticket.
    Draw {
        node: usize,
        device: usize,
    },
    /// A sync device starts an iteration.
    Iterate {
        node: usize,
        device: usize,
    },
    Wish(usize, bool),
}

pub(super) struct Node {
    machine: Box<dyn Machine>,
    pub(super) z: Vec<Vec<Update>>,
    f: Vec<Vec<Update>>,
    a: Vec<Vec<Update>>,
    /// What exchanges have left behind.
    left: Vec<Vec<Update>>,
    /// Sums that have come and are not yet applied.
    incoming: Vec<Option<Vec<Update>>>,
    rho: f32,
    tickets: VecDeque<u64>,
    pub(super) idle: Vec<bool>,
    running: bool,
    /// Buckets of sync's current iteration whose mean has come.
    means: usize,
    iter: u64,
    /// The devices give their parts of an average.
    averaging: bool,
    /// Tickets below this one may start.
    open: u64,
    stop: bool,
    snapshot: bool,
    /// Collectives posted so far on the data lane.
    posted: u64,
    pub(super) drained: Vec<(u64, bool, bool)>,
    pub(super) steps: Vec<u64>,
    progress: u64,
    pub(super) losses: BTreeMap<u64, u64>,
    done: bool,
}

impl Node {
    pub(super) fn updates(&self, bucket: usize) -> impl Iterator<Item = Update> + '_ {
        self.z[bucket].iter().copied()
    }
}

/// A sum between nodes in progress: bucket, loads, arrivals.
type Exchange = (usize, Vec<Vec<Update>>, usize);

pub(super) struct World {
    pub(super) setup: Setup,
    rng: Rng,
    now: u64,
    order: u64,
    heap: BinaryHeap<Reverse<(u64, u64)>>,
    due: BTreeMap<u64, Due>,
    pub(super) nodes: Vec<Node>,
    headers: BTreeMap<u64, Vec<Option<Header>>>,
    sums: BTreeMap<u64, Exchange>,
    /// Buckets and tickets of which an exchange has left something behind.
    kept: BTreeSet<(usize, u64)>,
}

impl World {
    pub(super) fn run(setup: Setup) -> World {
        let mut world = World::new(setup);
        for node in 0..world.nodes.len() {
            let to = world.setup.stops[0];
            world.later(0, Due::Machine(node, Event::Begin { from: 0, to }));
        }
        for (when, node, stop) in world.setup.wishes.clone() {
            world.later(when, Due::Wish(node, stop));
        }
        let mut turns = 0u64;
        while let Some(Reverse((at, order))) = world.heap.pop() {
            world.now = at;
            let due = world.due.remove(&order).unwrap();
            world.turn(due);
            turns += 1;
            assert!(turns < 5_000_000, "livelock with {:?}", world.setup);
            if world.nodes.iter().all(|node| node.done) {
                return world;
            }
        }
        panic!("deadlock with {:?}", world.setup);
    }

    fn new(setup: Setup) -> World {
        let nodes = (0..setup.workers.len())
            .map(|rank| {
                let (workers, buckets) = (setup.workers.clone(), setup.buckets);
                let rounded = setup.rounded;
                Node {
                    machine: machine(setup.mode, Job { rank, workers, buckets, rounded }),
                    z: vec![Vec::new(); buckets],
                    f: vec![Vec::new(); buckets],
                    a: vec![Vec::new(); buckets],
                    left: vec![Vec::new(); buckets],
                    incoming: vec![None; buckets],
                    rho: 0.0,
                    tickets: VecDeque::new(),
                    idle: vec![true; setup.workers[rank]],
                    running: false,
                    means: 0,
                    iter: 0,
                    averaging: false,
                    open: if matches!(setup.mode, Mode::Ssp { .. }) { 0 } else { u64::MAX },
                    stop: false,
                    snapshot: false,
                    posted: 0,
                    drained: Vec::new(),
                    steps: vec![0; setup.workers[rank]],
                    progress: 0,
                    losses: BTreeMap::new(),
                    done: false,
                }
            })
            .collect();
        World {
            rng: Rng::new(setup.seed ^ 0xABCD),
            setup,
            now: 0,
            order: 0,
            heap: BinaryHeap::new(),
            due: BTreeMap::new(),
            nodes,
            headers: BTreeMap::new(),
            sums: BTreeMap::new(),
            kept: BTreeSet::new(),
        }
    }

    pub(super) fn node(&self, node: usize) -> &Node {
        &self.nodes[node]
    }

    pub(super) fn now(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    pub(super) fn steps(&self) -> Vec<Vec<u64>> {
        self.nodes.iter().map(|node| node.steps.clone()).collect()
    }

    pub(super) fn replicas(&self) -> u64 {
        self.setup.workers.iter().sum::<usize>() as u64
    }

    fn later(&mut self, delay: u64, due: Due) {
        self.order += 1;
        self.heap.push(Reverse((self.now + delay, self.order)));
        self.due.insert(self.order, due);
    }

    fn delay(&mut self) -> u64 {
        let most = self.setup.delay;
        self.rng.between(most / 10, most)
    }

    fn step_time(&mut self, node: usize, device: usize) -> u64 {
        let time = self.setup.compute as f64 * self.setup.speeds[node][device];
        let jitter = self.rng.between(90, 110);
        (time as u64) * jitter / 100
    }

    fn turn(&mut self, due: Due) {
        match due {
            Due::Machine(node, event) => self.event(node, event),
            Due::Draw { node, device } => self.draw(node, device),
            Due::Push { node, device, ticket, nth } => self.push(node, device, ticket, nth),
            Due::Iterate { node, device } => self.iterate(node, device),
            Due::Wish(node, true) => self.nodes[node].stop = true,
            Due::Wish(node, false) => self.nodes[node].snapshot = true,
        }
    }

    fn event(&mut self, node: usize, event: Event) {
        let one = &mut self.nodes[node];
        let now = Duration::from_micros(self.now);
        let moment = Moment { now, stop: one.stop, snapshot: one.snapshot };
        let mut actions = Vec::new();
        one.machine.on(&moment, event, &mut actions);
        for action in actions {
            self.act(node, action);
        }
    }

    fn act(&mut self, node: usize, action: Action) {
        match action {
            Action::Run { from, .. } => self.start(node, from),
            Action::Header(header) => self.post_header(node, header),
            Action::Sum { bucket, exact } => self.give(node, bucket, exact),
            Action::SumHere { bucket } => {
                let load = self.gradients(node);
                self.nodes[node].a[bucket].extend(load);
                let delay = self.delay() / 10;
                self.later(delay, Due::Machine(node, Event::Summed { bucket }));
            }
            Action::Merge { bucket, exact } => {
                let load = std::mem::take(&mut self.nodes[node].a[bucket]);
                self.post_sum(node, bucket, load, exact);
            }
            Action::Swap { bucket, exact } => {
                let one = &mut self.nodes[node];
                assert!(one.f[bucket].is_empty(), "two rounds of one bucket at once");
                let load = std::mem::take(&mut one.a[bucket]);
                one.f[bucket].clone_from(&load);
                self.post_sum(node, bucket, load, exact);
            }
            Action::Apply { bucket } => {
                let one = &mut self.nodes[node];
                one.f[bucket].clear();
                one.z[bucket].extend(one.incoming[bucket].take().unwrap());
                let left = std::mem::take(&mut one.left[bucket]);
                one.a[bucket].extend(left);
            }
            Action::Mean { bucket } => {
                let one = &mut self.nodes[node];
                one.means += 1;
                // The mean of a node's own gradients has gone into a.
                one.z[bucket].extend(one.incoming[bucket].take().into_iter().flatten());
            }
            Action::Next(then) => self.next(node, then),
            Action::Open { below } => self.open(node, below),
            Action::Grant { first, count } => {
                self.nodes[node].tickets.extend(first..first + count);
                for device in 0..self.setup.workers[node] {
                    let delay = self.delay() / 10;
                    self.later(delay, Due::Draw { node, device });
                }
            }
            Action::Weight { rho, .. } => self.nodes[node].rho = rho,
            Action::Park => {
                let one = &self.nodes[node];
                assert!(one.tickets.is_empty() && one.idle.iter().all(|idle| *idle));
                for _ in 0..self.setup.workers[node] {
                    let delay = self.delay();
                    self.later(delay, Due::Machine(node, Event::Parked { iter: 0 }));
                }
            }
            Action::WakeAt(at) => {
                let delay = (at.as_micros() as u64).saturating_sub(self.now);
                self.later(delay + 1, Due::Machine(node, Event::Timer));
            }
            Action::Loss(part) => {
                *self.nodes[node].losses.entry(part.iter).or_default() += part.count;
            }
            Action::Progress(iter) => {
                assert!(iter >= self.nodes[node].progress);
                self.nodes[node].progress = iter;
            }
            Action::Drained { iter, stop, snapshot } => self.drained(node, iter, stop, snapshot),
            Action::Broken { rank, cause } => panic!("rank {rank} {cause}: {:?}", self.setup),
        }
    }

    fn start(&mut self, node: usize, from: u64) {
        self.nodes[node].running = true;
        self.nodes[node].iter = from;
        for device in 0..self.setup.workers[node] {
            if !self.setup.mode.draws() {
                let delay = self.delay();
                self.later(delay, Due::Iterate { node, device });
            }
        }
    }

    /// The local gradients of sync's iteration.
    fn give(&mut self, node: usize, bucket: usize, exact: bool) {
        let load = self.gradients(node);
        self.post_sum(node, bucket, load, exact);
    }

    /// The gradients of a node's devices in the current iteration.
    fn gradients(&self, node: usize) -> Vec<Update> {
        let iter = self.nodes[node].iter;
        let (replicas, workers) = (self.replicas(), &self.setup.workers);
        let first: usize = workers[..node].iter().sum();
        (first..first + workers[node]).map(|r| (iter * replicas + r as u64, 1.0)).collect()
    }

    fn drained(&mut self, node: usize, iter: u64, stop: bool, snapshot: bool) {
        let iters = self.setup.iters;
        let next = self.setup.stops.iter().copied().find(|to| *to > iter);
        let one = &mut self.nodes[node];
        let left = one.a.iter().chain(&one.f).chain(&one.left);
        assert!(left.flatten().next().is_none(), "updates left after a drain");
        assert_eq!(one.progress, iter, "progress does not tell of all finished tickets");
        one.drained.push((iter, stop, snapshot));
        match next.filter(|_| !stop && iter < iters) {
            Some(to) => {
                let delay = self.delay();
                self.later(delay, Due::Machine(node, Event::Begin { from: iter, to }));
            }
            None => one.done = true,
        }
    }
}
