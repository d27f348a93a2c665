//! A device's segment, in three forms: the bare solver loop, sync, hogwild.

use std::time::Instant;

use crossbeam_channel::select;

use super::{Device, Own};
use crate::config::Mode;
use crate::fault::Halt;
use crate::header::Sample;
use crate::messages::{Cue, Gradient, Load, Note, Part};
use crate::mode::Then;
use crate::replica::{Begun, Ready, Replica, Step};
use crate::store::Store;
use crate::trace::Kind;

impl<R: Replica> Device<R> {
    pub(super) fn run(&mut self, own: &mut Own<R>, from: u64, to: u64) -> Result<(), Halt> {
        let iter = match self.mode {
            _ if self.alone() => self.run_alone(own, from, to)?,
            Mode::Sync | Mode::LocalSgd { .. } => self.run_sync(own, from)?,
            Mode::Hogwild | Mode::Ssp { .. } => self.run_hogwild(own)?,
        };
        let local = self.place.local;
        if own.plan.statistics > 0 && !self.alone() {
            let mut statistics = self.board.own_statistics[local].lock();
            statistics.resize(own.plan.statistics, 0.0);
            own.replica.read_statistics(&mut statistics)?;
        }
        self.note(Note::Parked { iter });
        Ok(())
    }

    /// The bare loop: nothing between compute and update.
    fn run_alone(&mut self, own: &mut Own<R>, from: u64, to: u64) -> Result<u64, Halt> {
        let local = self.place.local;
        for iter in from..to {
            if self.requests.any_wanted() {
                return Ok(iter);
            }
            let sample = self.step(own, iter, iter, &mut |_, _| {})?;
            let span = self.post.tracer.span(Kind::Update);
            own.replica.update_local(iter)?;
            drop(span);
            self.complain(own);
            self.note(Note::Computed { local, iter, sample });
        }
        Ok(to)
    }

    /// Each iteration: give the gradient away bucket by bucket, take the job's mean, update.
    fn run_sync(&mut self, own: &mut Own<R>, from: u64) -> Result<u64, Halt> {
        let (local, replicas) = (self.place.local, self.place.replicas as u64);
        let mut iter = from;
        loop {
            let step = iter * replicas + self.place.replica as u64;
            let sample = self.step_giving(own, iter, step)?;
            self.note(Note::Computed { local, iter, sample });
            let mut then = self.take_means(own)?;
            let span = self.post.tracer.span(Kind::Update);
            own.replica.update(iter)?;
            drop(span);
            self.complain(own);
            iter += 1;
            if then == Then::Merge {
                then = self.average(own)?;
            }
            if then == Then::Park {
                return Ok(iter);
            }
        }
    }

    /// Hands on what the replica has to complain about.
    fn complain(&self, own: &mut Own<R>) {
        if let Some(complaint) = own.replica.complaint() {
            self.note(Note::Complaint(complaint));
        }
    }

    /// A step whose buckets go to the communicator while backward still runs.
    fn step_giving(&self, own: &mut Own<R>, iter: u64, step: u64) -> Result<Option<Sample>, Halt> {
        let mut buffers = std::mem::take(&mut own.buffers);
        let mut given = 0;
        let mut wrong = None;
        let mut ready = |bucket: usize, gradient: &[f32]| {
            let Some(buffer) = buffers.get_mut(bucket) else {
                wrong = Some(format!("gave gradient bucket {bucket}, which its plan has not"));
                return;
            };
            let elsewhere = gradient.is_empty();
            if buffer.is_empty() || !elsewhere && buffer.len() != gradient.len() {
                let (has, wants) = (gradient.len(), buffer.len());
                wrong = Some(format!(
                    "gave bucket {bucket} twice or with {has} floats instead of {wants}"
                ));
                return;
            }
            let mut data = std::mem::take(buffer);
            if !elsewhere {
                data.copy_from_slice(gradient);
            }
            given += 1;
            let part = Part { data, elsewhere };
            // As deep as there are buckets; closed only when the node stops.
            if self.ends.gradients.try_send(Gradient { bucket, part }).is_ok() {
                self.note(Note::Gradient { local: self.place.local, bucket });
            }
        };
        let sample = self.step(own, iter, step, &mut ready)?;
        let buckets = buffers.len();
        if let Some(wrong) = wrong {
            return Err(wrong.into());
        }
        if given != buckets {
            return Err(format!("gave {given} gradient buckets of {buckets}").into());
        }
        own.buffers = buffers;
        Ok(sample)
    }

    /// Takes cues until the iteration is complete; what comes then.
    fn take_means(&self, own: &mut Own<R>) -> Result<Then, Halt> {
        loop {
            match self.wait(&self.ends.cues, Kind::WaitGradient)? {
                Cue::Mean { bucket, mean, spare } => {
                    own.replica.set_gradient(bucket, &mean)?;
                    own.buffers[bucket] = spare;
                }
                Cue::Next(then) => return Ok(then),
                Cue::Park => return Err("told to park inside an iteration".to_owned().into()),
            }
        }
    }

    /// Draws tickets until there are none.
    fn run_hogwild(&mut self, own: &mut Own<R>) -> Result<u64, Halt> {
        let (local, replicas) = (self.place.local, self.place.replicas as u64);
        let mut last = 0;
        while let Some(load) = self.draw()? {
            let ticket = load.ticket / self.schedule.iter_size as u64;
            let iter = ticket / replicas;
            own.load = Some((load, 0));
            let sample = if own.replica.solves_early() {
                self.step_pushing(own, iter, ticket)?
            } else {
                let sample = self.step(own, iter, ticket, &mut |_, _| {})?;
                let span = self.post.tracer.span(Kind::Update);
                own.replica.solve(iter)?;
                drop(span);
                self.complain(own);
                self.push(own)?;
                sample
            };
            own.pulled = self.store()?.pushed(own.pulled);
            self.note(Note::Finished { local, ticket, sample });
            last = iter;
        }
        Ok(last)
    }

    /// The next load of the node that may start, or `None` when told to park.
    fn draw(&self) -> Result<Option<Load<R::Batch>>, Halt> {
        let deck = &self.ends.deck;
        if let Some(load) = deck.take() {
            return Ok(Some(load));
        }
        if let Some(load) = self.ends.loads.try_recv().ok().and_then(|load| deck.pass(load)) {
            return Ok(Some(load));
        }
        let start = Instant::now();
        let mut kind = deck.missing();
        let mut span = self.post.tracer.span(kind);
        loop {
            if let Some(load) = deck.take() {
                return Ok(Some(load));
            }
            let missing = deck.missing();
            if missing != kind {
                drop(span);
                (kind, span) = (missing, self.post.tracer.span(missing));
            }
            select! {
                recv(self.ends.loads) -> load => {
                    let load = deck.pass(load.map_err(|_| Halt::Stopped)?);
                    if load.is_some() {
                        return Ok(load);
                    }
                }
                recv(self.ends.opened) -> opened => opened.map_err(|_| Halt::Stopped)?,
                recv(self.ends.cues) -> cue => match cue {
                    Ok(Cue::Park) => return Ok(None),
                    Ok(_) => return Err("got a cue of another mode".to_owned().into()),
                    Err(_) => return Err(Halt::Stopped),
                },
                recv(self.stop) -> _ => return Err(Halt::Stopped),
                default(self.patience) => self.slow(kind, start),
            }
        }
    }

    /// Pushes the update into the node's weights and takes the fresh ones, starting at a
    /// different bucket and chunk on each replica.
    fn push(&self, own: &mut Own<R>) -> Result<(), Halt> {
        let _span = self.post.tracer.span(Kind::Push);
        let store = self.store()?;
        let buckets = own.buffers.len();
        let turn = self.turn();
        let first = (buckets as f64 * turn) as usize;
        for nth in 0..buckets {
            let bucket = (first + nth) % buckets;
            let fresh = &mut own.buffers[bucket];
            let update = own.replica.update_of(bucket)?;
            if update.len() != fresh.len() {
                let (has, wants) = (update.len(), fresh.len());
                return Err(format!("update {bucket} has {has} floats instead of {wants}").into());
            }
            store.push(bucket, turn, update, fresh);
            own.replica.write_weights(bucket, fresh)?;
        }
        Ok(())
    }

    /// A step whose updates are pushed while backward still runs; the fresh weights are taken when
    /// it is over.
    fn step_pushing(
        &self,
        own: &mut Own<R>,
        iter: u64,
        ticket: u64,
    ) -> Result<Option<Sample>, Halt> {
        let (store, turn) = (self.store()?, self.turn());
        let mut buffers = std::mem::take(&mut own.buffers);
        let (mut given, mut wrong) = (0, None);
        let mut ready = |bucket: usize, update: &[f32]| {
            // In the plan's order, so each once.
            let fresh = buffers.get_mut(bucket).filter(|fresh| fresh.len() == update.len());
            match fresh {
                Some(fresh) if bucket == given => {
                    let _span = self.post.tracer.span(Kind::Push);
                    store.push(bucket, turn, update, fresh);
                    given += 1;
                }
                _ => wrong = Some(bucket),
            }
        };
        let sample = self.step_by(own, iter, ticket, true, &mut ready)?;
        if let Some(bucket) = wrong {
            return Err(format!("gave update {bucket} out of turn or of another length").into());
        }
        if given != buffers.len() {
            return Err(format!("gave {given} updates of {}", buffers.len()).into());
        }
        for (bucket, fresh) in buffers.iter().enumerate() {
            own.replica.write_weights(bucket, fresh)?;
        }
        own.buffers = buffers;
        Ok(sample)
    }

    /// Whether the next load in the channel is this device's next: in hogwild it is anybody's.
    fn loads_come_in_order(&self) -> bool {
        self.alone() || matches!(self.mode, Mode::Sync | Mode::LocalSgd { .. })
    }

    fn store(&self) -> Result<&Store, Halt> {
        let none = || Halt::from("has no weights to push to".to_owned());
        self.board.store.get().ok_or_else(none)
    }

    /// Where in a bucket this replica starts.
    fn turn(&self) -> f64 {
        self.place.replica as f64 / self.place.replicas as f64
    }

    /// The passes of one step. Its loss, if it will be looked at.
    fn step(
        &self,
        own: &mut Own<R>,
        iter: u64,
        ticket: u64,
        ready: &mut Ready<'_>,
    ) -> Result<Option<Sample>, Halt> {
        self.step_by(own, iter, ticket, false, ready)
    }

    /// [`step`](Device::step), whose last pass may solve as it goes.
    fn step_by(
        &self,
        own: &mut Own<R>,
        iter: u64,
        ticket: u64,
        solving: bool,
        ready: &mut Ready<'_>,
    ) -> Result<Option<Sample>, Halt> {
        self.post.tracer.set_iter(iter);
        let passes = self.schedule.iter_size;
        let report = self.schedule.loss_wanted(iter);
        let mut loss = 0.0;
        for pass in 0..passes {
            let (mut load, place) = match own.load.take() {
                Some(load) => load,
                None => (self.wait(&self.ends.loads, Kind::WaitBatch)?, 0),
            };
            let first = ticket * passes as u64 + pass as u64;
            if load.ticket + place as u64 != first {
                let got = load.ticket + place as u64;
                return Err(format!("got batch {got} instead of batch {first}").into());
            }
            let step = Step { iter, ticket: first, pass, passes, report };
            let span = self.post.tracer.span(Kind::Compute);
            self.post.inject("train")?;
            let (replica, batches) = (&mut own.replica, &mut load.batches);
            let solving = solving && step.last();
            loss += f64::from(match replica.begin(&mut batches[place], &step, solving, ready)? {
                Begun::Done(loss) => loss,
                Begun::Underway => {
                    if place + 1 == batches.len() && self.loads_come_in_order() {
                        own.load = self.ends.loads.try_recv().ok().map(|load| (load, 0));
                    }
                    let later = own.load.as_ref().map(|(load, place)| &load.batches[*place]);
                    if let Some(next) = batches.get(place + 1).or(later) {
                        replica.prepare(next)?;
                    }
                    replica.finish(&step, ready)?
                }
            });
            drop(span);
            if place + 1 < load.batches.len() {
                own.load = Some((load, place + 1));
            } else {
                self.give_back(load);
            }
        }
        if !report {
            return Ok(None);
        }
        let mut outputs = Vec::new();
        if self.schedule.display_due(iter) {
            outputs.resize(own.plan.train_outputs, 0.0);
            own.replica.outputs(&mut outputs)?;
        }
        Ok(Some(Sample { loss: loss / passes as f64, outputs }))
    }
}
