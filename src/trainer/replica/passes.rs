//! A replica's passes: asked for, waited for, and what follows when one is worth nothing.

use caffe_actors::{Cause, Ready, Step};

use super::{SolverReplica, engine_step};
use crate::data::Batch;
use crate::solver::{Then, forward_backward};
use crate::trainer::copy_out::Solving;
use crate::trainer::fences::Fences;
use crate::{Error, Result};

impl SolverReplica {
    /// Forward and backward of one batch; on the last pass, or where it updates, gradients are on their way
    /// when a device has not yet computed them. The loss, where it is known.
    pub(super) fn pass(
        &mut self,
        batch: &mut [Batch],
        step: &Step,
        solving: bool,
        ready: &mut Ready<'_>,
    ) -> Result<Option<f32>> {
        let at = engine_step(step, batch);
        let unscale = if self.alone { 1.0 } else { 1.0 / self.solver.scaler().scale() };
        let gives = step.last() && !self.out.stays();
        self.out.begin(if gives { 0 } else { self.out.buckets.len() }, step.iter, unscale);
        let on_device = self.solver.on_device();
        let (net, optimizer) = self.solver.parts();
        let threads = net.run().threads();
        let solving = solving.then_some(Solving { optimizer, threads });
        let trace = (&self.tracer, &self.layer_names[..]);
        let mut watch = Fences::new(&mut self.out, ready, solving, on_device, trace);
        if !on_device {
            return forward_backward(net, batch, at, &mut watch).map(Some);
        }
        net.feed(batch)?;
        net.set_step(at);
        net.pass_watched(&mut watch)?;
        drop(watch);
        let updates = step.last() && self.alone;
        self.solver.begun(step.iter, if updates { Then::Update } else { Then::Nothing })?;
        Ok(None)
    }

    /// Waits for what a device has been asked for, and gives it away.
    pub(super) fn arrive(
        &mut self,
        step: &Step,
        solving: bool,
        ready: &mut Ready<'_>,
    ) -> Result<f32> {
        let (net, optimizer) = self.solver.parts();
        let threads = net.run().threads();
        let solving = solving.then_some(Solving { optimizer, threads });
        self.out.give(net.params(), ready, solving, true)?;
        self.solver.finish(step.iter)
    }

    /// What follows when a loss or a gradient is no finite number.
    pub(super) fn not_finite(
        &mut self,
        step: &Step,
        error: Error,
        ready: &mut Ready<'_>,
    ) -> Result<f32, Cause> {
        let Error::NotFinite { what, value, .. } = error else { return Err(error.into()) };
        let loss = self.solver.net().see_loss()?;
        if loss.is_finite() && self.solver.scaler().can_shrink() {
            self.guard.overflowed();
        } else {
            self.guard.met(self.solver.net(), step, &what, value)?;
        }
        self.give_rest(step, ready)?;
        Ok(loss)
    }

    /// Gives away, without numbers, the buckets of a last pass that no backward pass has completed.
    pub(super) fn give_rest(&mut self, step: &Step, ready: &mut Ready<'_>) -> Result<()> {
        if step.last() && !self.alone {
            for bucket in self.out.sent()..self.out.buckets.len() {
                self.out.send_none(bucket, self.solver.net().params())?;
            }
            // They are not finite, which is known.
            let params = self.solver.net().params();
            match self.out.give(params, ready, None, true) {
                Err(Error::NotFinite { .. }) => {}
                given => given?,
            }
        }
        Ok(())
    }
}
