//! The replica.

use std::ops::Range;
use std::time::Duration;

use caffe_actors::trace::{Kind, Tracer};
use caffe_actors::{
    Cause, Complaint, Plan, Ready, Replica, ReplicaPlace, SnapshotRequest, Step, Writing,
};

use super::guard::Guard;
use super::{Batch, Behaviour, PARAMS, Snapshot, Trouble};

pub struct Bowl {
    place: ReplicaPlace,
    tracer: Tracer,
    behaviour: Behaviour,
    pub(super) w: Vec<f32>,
    g: Vec<f32>,
    /// Momentum history; after `solve` also the update.
    v: Vec<f32>,
    statistics: Vec<f32>,
    last_loss: f32,
    guard: Guard,
    /// Whether it has spoken, or heard.
    opened: bool,
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
            opened: false,
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

/// What the first replica says: every byte, some of which look like numbers that are none, and no whole
/// number of floats.
fn opening_words() -> Vec<u8> {
    (0..4099u32)
        .map(|i| (i * i / 3) as u8)
        .chain([0xff, 0xff, 0xff, 0x7f, 0x01, 0x00, 0xa0])
        .collect()
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

    fn opening_words(&mut self) -> Result<Vec<u8>, Cause> {
        assert!(self.place.replica == 0 && !std::mem::replace(&mut self.opened, true));
        Ok(opening_words())
    }

    fn hear(&mut self, words: &[u8]) -> Result<Option<String>, Cause> {
        assert!(self.place.replica > 0 && !std::mem::replace(&mut self.opened, true));
        assert!(words == opening_words(), "the opening words came otherwise");
        let differs = Trouble::Differs { replica: self.place.replica };
        let text = || format!("replica {} is another kind of device", self.place.replica);
        Ok(self.behaviour.troubles.contains(&differs).then(text))
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
        assert!(self.opened, "computes before it has spoken or heard");
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
                match self.behaviour.teams.get(self.place.rank) {
                    Some(team) => ready(bucket, team.sum(self.place.local, &mut self.g[range])),
                    None => ready(bucket, &self.g[range]),
                }
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
