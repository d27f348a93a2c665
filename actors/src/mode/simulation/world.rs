//! Fake nodes, network and time around the real machines; `devices` are the fake devices.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

mod devices;

use super::Rng;
use crate::config::Mode;
use crate::header::Header;
use crate::mode::{Action, Event, Job, Machine, Moment, machine};

/// An update: its ticket and its weight. In sync: `iter·R + replica`, weight 1.
pub(super) type Update = (u64, f32);

/// What a world is made of.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) mode: Mode,
    pub(super) seed: u64,
    pub(super) workers: Vec<usize>,
    pub(super) buckets: usize,
    pub(super) iters: u64,
    /// Drained points, the last being `iters`.
    pub(super) stops: Vec<u64>,
    /// Microseconds of a step at speed 1, and of the slowest message.
    pub(super) compute: u64,
    pub(super) delay: u64,
    /// Slowness of each device of each node.
    pub(super) speeds: Vec<Vec<f64>>,
    /// (when in µs, node, stop?): wishes from outside.
    pub(super) wishes: Vec<(u64, usize, bool)>,
    /// Exchanges leave some updates behind, unless they must not.
    pub(super) rounded: bool,
}

impl Setup {
    pub(super) fn random(mode: Mode, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = rng.between(1, 4) as usize;
        let mut workers: Vec<usize> = (0..nodes).map(|_| rng.between(1, 3) as usize).collect();
        if nodes == 1 {
            workers[0] += 1;
        }
        let iters = rng.between(1, 24);
        let mut stops = vec![iters];
        for _ in 0..rng.below(4) {
            stops.push(rng.between(1, iters));
        }
        stops.sort_unstable();
        stops.dedup();
        let compute = [1, 300, 5_000, 40_000][rng.below(4) as usize];
        let speeds = workers
            .iter()
            .map(|k| (0..*k).map(|_| [1.0, 1.0, 1.3, 5.0][rng.below(4) as usize]).collect())
            .collect();
        let wishes = (0..rng.below(3))
            .map(|_| {
                let when = rng.below(iters * (compute + 2000));
                (when, rng.below(nodes as u64) as usize, rng.chance(30))
            })
            .collect();
        let delay = [1, 100, 3_000, 30_000][rng.below(4) as usize];
        let buckets = rng.between(1, 4) as usize;
        let rounded = nodes > 1 && rng.chance(50);
        Setup {
            mode,
            seed,
            workers,
            buckets,
            iters,
            stops,
            compute,
            delay,
            speeds,
            wishes,
            rounded,
        }
    }
}

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

    fn post_header(&mut self, node: usize, header: Header) {
        if header.snapshot {
            self.nodes[node].snapshot = false;
        }
        let nodes = self.nodes.len();
        let round = header.round;
        let slot = self.headers.entry(round).or_insert_with(|| vec![None; nodes]);
        slot[node] = Some(header);
        if slot.iter().all(Option::is_some) {
            let all: Vec<Header> =
                self.headers.remove(&round).unwrap().into_iter().flatten().collect();
            let all = Arc::new(all);
            for node in 0..nodes {
                let delay = self.delay();
                self.later(delay, Due::Machine(node, Event::Headers(all.clone())));
            }
        }
    }

    /// Some of the updates stay behind, as rounding leaves a part of each: at the node, and (of the
    /// sum) at the node that adds.
    fn keep_some(&mut self, node: usize, bucket: usize, load: &mut Vec<Update>) {
        let rng = &mut self.rng;
        let left = &mut self.nodes[node].left[bucket];
        for update in load.extract_if(.., |_| rng.chance(30)) {
            self.kept.insert((bucket, update.0));
            left.push(update);
        }
    }

    fn post_sum(&mut self, node: usize, bucket: usize, mut load: Vec<Update>, exact: bool) {
        load.append(&mut self.nodes[node].left[bucket]);
        if !exact {
            self.keep_some(node, bucket, &mut load);
        }
        let nodes = self.nodes.len();
        let place = self.nodes[node].posted;
        self.nodes[node].posted += 1;
        let sum = self.sums.entry(place).or_insert_with(|| (bucket, vec![Vec::new(); nodes], 0));
        assert_eq!(sum.0, bucket, "nodes post buckets in different orders");
        sum.1[node] = load;
        sum.2 += 1;
        if sum.2 == nodes {
            let (bucket, loads, _) = self.sums.remove(&place).unwrap();
            let mut total: Vec<Update> = loads.concat();
            if !exact {
                self.keep_some(bucket % nodes, bucket, &mut total);
            }
            for node in 0..nodes {
                let delay = self.delay();
                assert!(self.nodes[node].incoming[bucket].is_none(), "two rounds at once");
                self.nodes[node].incoming[bucket] = Some(total.clone());
                self.later(delay, Due::Machine(node, Event::Summed { bucket }));
            }
        }
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
