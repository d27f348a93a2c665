//! A replica and a source that need no engine: a quadratic bowl, trained with momentum.
//!
//! Batch q holds a target x(q), a function of q alone; the loss is ½|w − x|², the gradient
//! w − x. Everything is exact arithmetic in `f32`, so equality of bits can be asked for.
//! Trouble can be ordered: errors, panics and slowness at a given place.

// Shared by a test and an example: neither uses all of it, and both may panic.
#![allow(dead_code, clippy::panic, clippy::unwrap_used)]

mod guard;
pub mod told;

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use caffe_actors::trace::{Kind, Tracer};
use caffe_actors::{
    BatchSource, Cause, Complaint, Config, Factories, Plan, Ready, Replica, ReplicaPlace, Requests,
    SnapshotRequest, Step, Writing,
};
use guard::Guard;

/// Length of the parameter vector: several 64 KiB chunks in the largest bucket.
pub const PARAMS: usize = 40_010;

/// What goes wrong, where.
#[derive(Clone, Debug, PartialEq)]
pub enum Trouble {
    Panic {
        rank: usize,
        iter: u64,
    },
    Error {
        rank: usize,
        iter: u64,
    },
    Build {
        rank: usize,
    },
    Reader {
        rank: usize,
        ticket: u64,
    },
    /// Compute of a replica takes so much longer, in milliseconds.
    Slow {
        replica: usize,
        millis: u64,
    },
    /// A batch of this rank's readers takes so many milliseconds.
    SlowReader {
        rank: usize,
        millis: u64,
    },
    /// Each update takes so many milliseconds.
    SlowUpdate {
        millis: u64,
    },
    /// Each snapshot takes so many milliseconds.
    SlowSnapshot {
        millis: u64,
    },
    /// The replica of this rank has another plan hash.
    OtherNet {
        rank: usize,
    },
    /// One bit of the final weights of this rank is wrong.
    BitFlip {
        rank: usize,
    },
    /// A device never comes back from its compute.
    Stuck {
        rank: usize,
        iter: u64,
    },
    /// Once, from this iteration on, the gradient of a replica is NaN, and it may want the job to go
    /// back to a snapshot.
    NotFinite {
        replica: usize,
        iter: u64,
        back: bool,
    },
}

/// How the fakes behave.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    pub troubles: Vec<Trouble>,
    /// Milliseconds of each compute.
    pub compute: u64,
    pub tests: usize,
    pub clip: Option<f32>,
    /// Asks the job to stop from this iteration on.
    pub stop: Option<(u64, Requests)>,
    /// Updates are given during backward.
    pub early: bool,
    pub log: Log,
}

/// What the fakes saw.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
pub struct Seen {
    /// Batch tickets, in order of compute.
    pub tickets: Vec<u64>,
    pub snapshots: Vec<Snapshot>,
    /// Iterations of the snapshots that the writer has written.
    pub written: Vec<u64>,
    pub final_weights: Vec<f32>,
    /// The last snapshot that was written.
    pub saved: Option<(u64, Vec<f32>)>,
    /// Replicas that have gone back to it, in order.
    pub reloads: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    pub iter: u64,
    pub ticket: u64,
    pub cursors: Vec<u64>,
    pub mean: f32,
    pub replicas: Vec<usize>,
}

impl Log {
    pub fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(|e| e.into_inner()))
    }
}

#[derive(Debug, Default)]
pub struct Batch {
    ticket: u64,
    x: Vec<f32>,
}

/// Element `i` of batch q's target.
pub fn target(ticket: u64, i: usize) -> f32 {
    let mix =
        (ticket.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) ^ ((i as u64 * 2_654_435_761) >> 7);
    (mix % 1024) as f32 / 1024.0 + 1.0
}

pub struct Source {
    rank: usize,
    behaviour: Behaviour,
}

impl BatchSource for Source {
    type Batch = Batch;

    fn describe(&self) -> String {
        "LevelDB made_up".into()
    }

    fn batch_bytes(&self) -> usize {
        4 * PARAMS
    }

    fn fill(&mut self, ticket: u64, batch: &mut Batch) -> Result<(), Cause> {
        for trouble in &self.behaviour.troubles {
            if let Trouble::Reader { rank, ticket: at } = trouble
                && *rank == self.rank
                && ticket >= *at
            {
                return Err(format!("records.ldb: checksum mismatch at byte {ticket}").into());
            }
        }
        for trouble in &self.behaviour.troubles {
            if let Trouble::SlowReader { rank, millis } = trouble
                && *rank == self.rank
            {
                std::thread::sleep(Duration::from_millis(*millis));
            }
        }
        batch.ticket = ticket;
        batch.x.clear();
        batch.x.extend((0..PARAMS).map(|i| target(ticket, i)));
        Ok(())
    }

    fn fill_test(&mut self, net: usize, index: u64, batch: &mut Batch) -> Result<(), Cause> {
        batch.ticket = index + 1000 * net as u64;
        batch.x.clear();
        Ok(())
    }
}

pub struct Bowl {
    place: ReplicaPlace,
    tracer: Tracer,
    behaviour: Behaviour,
    w: Vec<f32>,
    g: Vec<f32>,
    /// Momentum history; after `solve` also the update.
    v: Vec<f32>,
    statistics: Vec<f32>,
    last_loss: f32,
    guard: Guard,
}

const MOMENTUM: f32 = 0.5;

fn rate(iter: u64) -> f32 {
    0.25 / (1.0 + iter as f32 / 64.0)
}

impl Bowl {
    pub fn new(place: &ReplicaPlace, behaviour: &Behaviour) -> Result<Self, Cause> {
        if behaviour.troubles.contains(&Trouble::Build { rank: place.rank }) {
            return Err("no such device".into());
        }
        // Every replica starts elsewhere: rank 0's weights must reach all of them.
        let w = (0..PARAMS).map(|i| place.replica as f32 + (i % 7) as f32).collect();
        Ok(Bowl {
            place: place.clone(),
            tracer: place.tracer.clone(),
            behaviour: behaviour.clone(),
            w,
            g: vec![0.0; PARAMS],
            v: vec![0.0; PARAMS],
            statistics: vec![0.0; 2],
            last_loss: 0.0,
            guard: Guard::default(),
        })
    }

    fn range(&self, bucket: usize) -> Range<usize> {
        bucket_ranges()[bucket].clone()
    }

    fn make_update(&mut self, iter: u64) {
        for trouble in &self.behaviour.troubles {
            if let Trouble::SlowUpdate { millis } = trouble {
                std::thread::sleep(Duration::from_millis(*millis));
            }
        }
        if let Some(limit) = self.behaviour.clip {
            let norm = self.g.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt() as f32;
            if norm > limit {
                let scale = limit / norm;
                self.g.iter_mut().for_each(|g| *g *= scale);
            }
        }
        for (v, g) in self.v.iter_mut().zip(&self.g) {
            *v = MOMENTUM * *v + rate(iter) * g;
        }
    }

    fn trouble(&self, iter: u64) -> Result<(), Cause> {
        for trouble in &self.behaviour.troubles {
            match *trouble {
                Trouble::Panic { rank, iter: at } if rank == self.place.rank && iter >= at => {
                    panic!("index out of bounds in layer conv1");
                }
                Trouble::Error { rank, iter: at } if rank == self.place.rank && iter >= at => {
                    return Err("loss is NaN".into());
                }
                Trouble::Stuck { rank, iter: at } if rank == self.place.rank && at == iter => {
                    std::thread::sleep(Duration::from_secs(600));
                }
                Trouble::Slow { replica, millis } if replica == self.place.replica => {
                    std::thread::sleep(Duration::from_millis(millis));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Last parameters first.
fn bucket_ranges() -> [Range<usize>; 3] {
    [20_000..PARAMS, 10..20_000, 0..10]
}

impl Replica for Bowl {
    type Batch = Batch;

    fn plan(&self) -> Plan {
        let other = self.behaviour.troubles.contains(&Trouble::OtherNet { rank: self.place.rank });
        Plan {
            params: PARAMS,
            buckets: bucket_ranges().to_vec(),
            statistics: 2,
            history: PARAMS,
            train_outputs: 1,
            test_outputs: vec![2; self.behaviour.tests],
            hash: if other { 2 } else { 1 },
        }
    }

    fn compute(
        &mut self,
        batch: &mut Batch,
        step: &Step,
        ready: &mut Ready<'_>,
    ) -> Result<f32, Cause> {
        if step.pass == 0 {
            self.g.fill(0.0);
        }
        let _forward = self.tracer.span(Kind::Forward);
        self.trouble(step.iter)?;
        if self.behaviour.compute > 0 {
            std::thread::sleep(Duration::from_millis(self.behaviour.compute));
        }
        assert_eq!(batch.ticket, step.ticket, "the batch of another ticket");
        self.behaviour.log.with(|seen| seen.tickets.push(step.ticket));
        if let Some((_, requests)) = self.behaviour.stop.as_ref().filter(|(at, _)| step.iter >= *at)
        {
            requests.stop();
        }
        let mut loss = 0.0f64;
        for ((g, w), x) in self.g.iter_mut().zip(&self.w).zip(&batch.x) {
            *g += w - x;
            loss += f64::from((w - x) * (w - x));
        }
        if self.guard.meets(&self.behaviour.troubles, &self.place, step.iter) {
            self.g.fill(f32::NAN);
        }
        self.statistics[0] += 1.0;
        self.statistics[1] += self.place.replica as f32;
        if step.last() {
            for bucket in 0..3 {
                let range = self.range(bucket);
                ready(bucket, &self.g[range]);
            }
        }
        self.last_loss = (0.5 * loss / PARAMS as f64) as f32;
        Ok(self.last_loss)
    }

    fn solves_early(&self) -> bool {
        self.behaviour.early
    }

    fn compute_solving(
        &mut self,
        batch: &mut Batch,
        step: &Step,
        ready: &mut Ready<'_>,
    ) -> Result<f32, Cause> {
        let loss = self.compute(batch, step, &mut |_, _| {})?;
        self.make_update(step.iter);
        for bucket in 0..3 {
            let range = self.range(bucket);
            ready(bucket, &self.v[range]);
        }
        Ok(loss)
    }

    fn outputs(&mut self, out: &mut [f32]) -> Result<(), Cause> {
        out[0] = self.last_loss;
        Ok(())
    }

    fn evaluate(&mut self, batch: &mut Batch, _: &Step) -> Result<f32, Cause> {
        let sum: f32 = self.w.iter().zip(&batch.x).map(|(w, x)| (w - x) * (w - x)).sum();
        Ok(0.5 * sum / PARAMS as f32)
    }

    fn update_local(&mut self, iter: u64) -> Result<(), Cause> {
        self.update(iter)
    }

    fn set_gradient(&mut self, bucket: usize, gradient: &[f32]) -> Result<(), Cause> {
        self.guard.look(gradient);
        let range = self.range(bucket);
        self.g[range].copy_from_slice(gradient);
        Ok(())
    }

    fn update(&mut self, iter: u64) -> Result<(), Cause> {
        if self.guard.drops() {
            return Ok(());
        }
        self.make_update(iter);
        for (w, v) in self.w.iter_mut().zip(&self.v) {
            *w -= v;
        }
        Ok(())
    }

    fn solve(&mut self, iter: u64) -> Result<(), Cause> {
        match self.guard.drops() {
            true => self.v.fill(0.0),
            false => self.make_update(iter),
        }
        Ok(())
    }

    fn complaint(&mut self) -> Option<Complaint> {
        self.guard.complaint()
    }

    /// On all replicas but the first to weights that are wrong: the first one's have to reach them.
    fn reload(&mut self) -> Result<String, Cause> {
        let saved = self.behaviour.log.with(|seen| seen.saved.clone());
        let (iter, weights) = saved.ok_or("there is no snapshot to go back to")?;
        self.behaviour.log.with(|seen| seen.reloads.push(self.place.replica));
        self.v.fill(0.0);
        self.w.fill(-1.0);
        if self.place.replica == 0 {
            self.w.clone_from(&weights);
        }
        if self.place.replicas > 1 {
            self.guard.expect(weights);
        }
        Ok(format!("the snapshot of iteration {iter}"))
    }

    fn update_of(&mut self, bucket: usize) -> Result<&[f32], Cause> {
        let range = self.range(bucket);
        Ok(&self.v[range])
    }

    fn read_weights(&mut self, bucket: usize, out: &mut [f32]) -> Result<(), Cause> {
        if bucket == 0 {
            self.behaviour.log.with(|seen| seen.final_weights.clone_from(&self.w));
        }
        let range = self.range(bucket);
        out.copy_from_slice(&self.w[range]);
        let flip = Trouble::BitFlip { rank: self.place.rank };
        if bucket == 1 && self.behaviour.troubles.contains(&flip) {
            out[17] = f32::from_bits(out[17].to_bits() ^ 1);
        }
        Ok(())
    }

    fn write_weights(&mut self, bucket: usize, weights: &[f32]) -> Result<(), Cause> {
        let range = self.range(bucket);
        self.guard.given(range.clone(), weights);
        self.w[range].copy_from_slice(weights);
        Ok(())
    }

    fn read_statistics(&mut self, out: &mut [f32]) -> Result<(), Cause> {
        out.copy_from_slice(&self.statistics);
        Ok(())
    }

    fn write_statistics(&mut self, statistics: &[f32]) -> Result<(), Cause> {
        self.statistics.copy_from_slice(statistics);
        Ok(())
    }

    fn read_history(&mut self, out: &mut [f32]) -> Result<(), Cause> {
        out.copy_from_slice(&self.v);
        Ok(())
    }

    fn test(&mut self, _: usize, batch: &mut Batch, out: &mut [f32]) -> Result<(), Cause> {
        out[0] = self.w[3] * (batch.ticket as f32 + 1.0);
        out[1] = self.statistics[1];
        Ok(())
    }

    fn snapshot(&mut self, request: SnapshotRequest<'_>) -> Result<Writing, Cause> {
        let mut replicas = Vec::new();
        let mut sum = 0.0;
        while let Some((replica, history)) = request.histories.next()? {
            replicas.push(replica);
            sum += history[5];
        }
        let mean = request.mean_history[5];
        if !replicas.is_empty() {
            let own = sum / request.replicas as f32;
            assert!((own - mean).abs() <= 1e-5, "mean history {mean}, of the replicas {own}");
        }
        for trouble in &self.behaviour.troubles {
            if let Trouble::SlowSnapshot { millis } = trouble {
                std::thread::sleep(Duration::from_millis(*millis));
            }
        }
        let (iter, ticket) = (request.iter, request.ticket);
        let cursors = request.test_cursors.to_vec();
        self.behaviour
            .log
            .with(|seen| seen.snapshots.push(Snapshot { iter, ticket, cursors, mean, replicas }));
        let (log, weights) = (self.behaviour.log.clone(), self.w.clone());
        Ok(Box::new(move || {
            log.with(|seen| {
                seen.written.push(iter);
                seen.saved = Some((iter, weights));
            });
            Ok(())
        }))
    }
}

pub fn factories(behaviour: &Behaviour) -> Factories<Bowl, Source> {
    let (one, other) = (behaviour.clone(), behaviour.clone());
    Factories::new(
        move |place| Bowl::new(place, &one),
        move |place| Ok(Source { rank: place.rank, behaviour: other.clone() }),
    )
}

/// The bare solver loop: what every mode must do, bit for bit, with one replica.
pub fn bare_loop(config: &Config) -> Vec<f32> {
    let place = ReplicaPlace {
        rank: 0,
        nodes: 1,
        local: 0,
        workers: 1,
        replica: 0,
        replicas: 1,
        threads: 1,
        tracer: Tracer::detached("bare"),
    };
    let behaviour = Behaviour::default();
    let mut bowl = Bowl::new(&place, &behaviour).unwrap();
    let mut source = Source { rank: 0, behaviour };
    let mut batch = Batch::default();
    let passes = config.schedule.iter_size;
    for iter in 0..config.schedule.max_iter {
        for pass in 0..passes {
            let ticket = iter * passes as u64 + pass as u64;
            source.fill(ticket, &mut batch).unwrap();
            let step = Step { iter, ticket, pass, passes, report: false };
            bowl.compute(&mut batch, &step, &mut |_, _| {}).unwrap();
        }
        bowl.update_local(iter).unwrap();
    }
    bowl.w
}
