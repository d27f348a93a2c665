//! [`CopyOut`]: gradients on their way from backward to whoever wants them.
//!
//! On a device a bucket is copied to the host beside the computation. It is given away when it has come;
//! nobody waits for it as long as there is something to ask the device for.

use std::collections::VecDeque;
use std::rc::Rc;

use caffe_actors::Ready;

use super::buckets::Bucket;
use super::team::Team;
use crate::device::cpu::threads::Threads;
use crate::device::cuda::step_record::Report;
use crate::net::all_finite;
use crate::params::ParamArena;
use crate::solver::Optimizer;
use crate::{Error, Result};

/// What makes updates of gradients, where updates are wanted.
pub(super) struct Solving<'a> {
    pub optimizer: &'a mut Optimizer,
    pub threads: Threads,
}

impl Solving<'_> {
    /// The same, for a shorter time.
    pub(super) fn again(&mut self) -> Solving<'_> {
        Solving { optimizer: self.optimizer, threads: self.threads }
    }
}

/// A bucket on its way.
struct Sent {
    bucket: usize,
    /// Another replica of the node has the sum of all.
    elsewhere: bool,
}

/// The buckets of one replica.
pub(super) struct CopyOut {
    pub(super) buckets: Vec<Bucket>,
    team: Option<Team>,
    /// What the device reports, if there is one.
    report: Option<Rc<Report>>,
    /// One replica in the job: nobody else needs its gradient, which is only looked at.
    alone: bool,
    on_way: VecDeque<Sent>,
    /// The next bucket that backward completes.
    next: usize,
    iter: u64,
    /// Takes the loss scale out.
    unscale: f32,
    /// Whether this pass's loss has been looked at.
    loss_seen: bool,
}

impl CopyOut {
    /// Of a replica whose device, if it has one, reports so.
    pub(super) fn new(
        buckets: Vec<Bucket>,
        team: Option<Team>,
        report: Option<Rc<Report>>,
        alone: bool,
    ) -> CopyOut {
        let (on_way, next, iter, loss_seen) = Default::default();
        CopyOut { buckets, team, report, alone, on_way, next, iter, unscale: 1.0, loss_seen }
    }

    /// Whether the device looks at the gradient itself: nobody else does.
    pub(super) fn stays(&self) -> bool {
        self.alone && self.report.is_some()
    }

    /// A pass begins whose gradients are complete from bucket `next` on.
    pub(super) fn begin(&mut self, next: usize, iter: u64, unscale: f32) {
        self.on_way.clear();
        (self.next, self.iter, self.unscale, self.loss_seen) = (next, iter, unscale, false);
    }

    /// Number of buckets that have been sent.
    pub(super) fn sent(&self) -> usize {
        self.next
    }

    /// Whether this pass has buckets to give.
    pub(super) fn gives(&self) -> bool {
        self.next < self.buckets.len() || !self.on_way.is_empty()
    }

    /// Whether backward completes a bucket with this layer.
    pub(super) fn completes(&self, index: usize) -> bool {
        self.buckets.iter().any(|bucket| bucket.layer == index)
    }

    /// Backward has passed a layer: sends what is complete.
    pub(super) fn send(&mut self, index: usize, params: &mut ParamArena) -> Result<()> {
        while self.buckets.get(self.next).is_some_and(|bucket| bucket.layer >= index) {
            if self.on_way.is_empty() && !self.loss_seen {
                // Looked at before the first bucket is given.
                self.report.iter().try_for_each(|report| report.ask())?;
            }
            self.send_bucket(self.next, params)?;
        }
        Ok(())
    }

    fn send_bucket(&mut self, bucket: usize, params: &mut ParamArena) -> Result<()> {
        let range = self.buckets[bucket].range.clone();
        // The sum of a team has to show a loss that only one of them has met.
        if self.unscale != 1.0 || self.team.is_some() {
            params.multiply_diff(range.clone(), self.unscale, self.report.as_deref())?;
        }
        let elsewhere = match &self.team {
            Some(team) => !team.sum(params, &range)?,
            None => false,
        };
        if !elsewhere {
            params.send_diff(&range)?;
        }
        self.on_way.push_back(Sent { bucket, elsewhere });
        self.next += 1;
        Ok(())
    }

    /// Sends a bucket that no backward pass has completed: no numbers.
    pub(super) fn send_none(&mut self, bucket: usize, params: &mut ParamArena) -> Result<()> {
        let range = self.buckets[bucket].range.clone();
        params.diff_in_mut(range)?.fill(f32::NAN);
        self.send_bucket(bucket, params)
    }

    /// Gives away what has come; with `wait`, all that was sent. A loss or gradient that is not finite makes
    /// NaN of all that is still on its way.
    ///
    /// # Errors
    /// [`Error::NotFinite`], when all has been given; a device that failed.
    pub(super) fn give(
        &mut self,
        params: &mut ParamArena,
        ready: &mut Ready<'_>,
        mut solving: Option<Solving<'_>>,
        wait: bool,
    ) -> Result<()> {
        while let Some(Sent { bucket, elsewhere }) = self.on_way.front() {
            let (bucket, elsewhere) = (*bucket, *elsewhere);
            let range = self.buckets[bucket].range.clone();
            if !wait && !params.diff_has_come(&range)? {
                return Ok(());
            }
            if let Err(error) = self.look(params, bucket, elsewhere) {
                self.give_nan(params, ready)?;
                return Err(error);
            }
            if elsewhere {
                ready(bucket, &[]);
            } else if !self.alone {
                if let Some(Solving { optimizer, threads }) = &mut solving {
                    optimizer.solve_part(params, range.clone(), self.iter, *threads)?;
                }
                ready(bucket, params.diff_in(range)?);
            }
            self.on_way.pop_front();
        }
        Ok(())
    }

    /// Whether loss and gradient are finite.
    fn look(&mut self, params: &mut ParamArena, bucket: usize, elsewhere: bool) -> Result<()> {
        let iter = self.iter;
        if let (Some(report), false) = (&self.report, self.loss_seen) {
            self.loss_seen = true;
            let value = report.get()?.loss;
            if !value.is_finite() {
                return Err(Error::NotFinite { iter, what: "the loss".into(), value });
            }
        }
        if elsewhere {
            return Ok(());
        }
        // It is about to be read, so looking at it costs next to nothing.
        let gradient = params.diff_in(self.buckets[bucket].range.clone())?;
        if all_finite(gradient) {
            return Ok(());
        }
        let value = gradient.iter().copied().find(|g| !g.is_finite()).unwrap_or(f32::NAN);
        Err(Error::NotFinite { iter, what: "a gradient".into(), value })
    }

    /// Gives all that is on its way as NaN: a team has added it up already and must not be asked again.
    fn give_nan(&mut self, params: &mut ParamArena, ready: &mut Ready<'_>) -> Result<()> {
        for Sent { bucket, elsewhere } in std::mem::take(&mut self.on_way) {
            if elsewhere {
                ready(bucket, &[]);
            } else if !self.alone {
                let gradient = params.diff_in_mut(self.buckets[bucket].range.clone())?;
                gradient.fill(f32::NAN);
                ready(bucket, gradient);
            }
        }
        Ok(())
    }
}
