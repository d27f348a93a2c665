//! Forward and backward: the layers in their order, each on the net's device.

use super::recorded::Taking;
use super::{Net, Pass, Unwatched, Watch};
use crate::Result;
use crate::device::Run;
use crate::device::cuda::Kind;
use crate::layers::{DeviceIo, Io, Layer};

impl Net {
    /// Runs all layers forward; returns the loss: tops times their loss weights, summed.
    ///
    /// # Errors
    /// What a layer reports, with its name and place.
    pub fn forward(&mut self) -> Result<f32> {
        self.forward_watched(&mut Unwatched)
    }

    /// [`Net::forward`] under observation.
    ///
    /// # Errors
    /// As [`Net::forward`].
    pub fn forward_watched(&mut self, watch: &mut dyn Watch) -> Result<f32> {
        self.settle()?;
        self.ask_forward(watch, None)?;
        self.free_place()?;
        if self.loss_is_away() {
            self.ask_report()?;
        }
        self.see_loss()
    }

    /// Forward and backward, without waiting for a device that computes them: what it reports
    /// ([`Net::see_loss`]) has been asked for. A pass that asks a device for the same as passes before it
    /// becomes a graph there.
    ///
    /// # Errors
    /// As [`Net::forward`].
    pub fn pass_watched(&mut self, watch: &mut dyn Watch) -> Result<()> {
        self.settle()?;
        self.ask_pass(watch)?;
        self.free_place()
    }

    /// Has a device report the loss, and the norm measured last, as they are when everything asked for
    /// so far is done.
    ///
    /// # Errors
    /// A device that failed.
    pub fn ask_report(&self) -> Result<()> {
        self.run.cuda().map_or(Ok(()), |cuda| cuda.report.ask())
    }

    /// Forward, asked for.
    pub(super) fn ask_forward(
        &mut self,
        watch: &mut dyn Watch,
        mut taking: Option<&mut Taking>,
    ) -> Result<()> {
        self.clear_loss()?;
        for index in 0..self.nodes.len() {
            watch.before(Pass::Forward, index);
            self.follow_values(index)?;
            self.run_turn(index, Pass::Forward)?;
            self.add_loss(index)?;
            self.after_layer(Pass::Forward, index, watch, taking.as_deref_mut())?;
        }
        self.loss_asked();
        Ok(())
    }

    /// Runs the layers that need it backward, last first, and adds to the parameter gradients.
    ///
    /// # Errors
    /// What a layer reports, with its name and place.
    pub fn backward(&mut self) -> Result<()> {
        self.backward_watched(&mut Unwatched)
    }

    /// [`Net::backward`] under observation: `after` is called for every layer, also for those that
    /// have nothing to do, so that "all layers from i on are done" is a matter of the number.
    ///
    /// # Errors
    /// As [`Net::backward`].
    pub fn backward_watched(&mut self, watch: &mut dyn Watch) -> Result<()> {
        self.settle()?;
        self.ask_backward(watch, None)?;
        self.free_place()
    }

    /// Backward, asked for.
    pub(super) fn ask_backward(
        &mut self,
        watch: &mut dyn Watch,
        mut taking: Option<&mut Taking>,
    ) -> Result<()> {
        self.seed_losses()?;
        for index in (0..self.nodes.len()).rev() {
            if self.nodes[index].needs_backward {
                watch.before(Pass::Backward, index);
                self.run_turn(index, Pass::Backward)?;
            }
            self.after_layer(Pass::Backward, index, watch, taking.as_deref_mut())?;
        }
        Ok(())
    }

    /// Runs whoever's turn it is in a layer's place.
    fn run_turn(&mut self, index: usize, pass: Pass) -> Result<()> {
        match self.nodes[index].turns[pass as usize] {
            Some(whose) => self.run_layer(whose, pass),
            None => Ok(()),
        }
    }

    fn run_layer(&mut self, index: usize, pass: Pass) -> Result<()> {
        self.with_layer(index, |layer, run, io| {
            if let Some(cuda) = run.cuda_mut()
                && let Some(layer) = layer.cuda()
            {
                let reals = layer.reals();
                cuda.real = reals.real(cuda.device.kind());
                let io = DeviceIo::new(io, cuda, reals);
                let done = match pass {
                    Pass::Forward => layer.forward(cuda, io),
                    Pass::Backward => layer.backward(cuda, io),
                };
                cuda.real = Kind::F32;
                return done;
            }
            match pass {
                Pass::Forward => layer.forward(run, io),
                Pass::Backward => layer.backward(run, io),
            }
        })
    }

    /// One call of a layer with its blobs; errors get the layer's name and place.
    pub(super) fn with_layer<T>(
        &mut self,
        index: usize,
        call: impl FnOnce(&mut dyn Layer, &mut Run, Io<'_>) -> Result<T>,
    ) -> Result<T> {
        self.now += 1;
        let node = &mut self.nodes[index];
        let io = Io {
            store: &self.store,
            params: &self.params,
            now: self.now,
            threads: self.run.threads(),
            bottom: &node.bottom,
            top: &node.top,
            param: &node.params,
            propagate_down: &node.propagate_down,
            param_needs_diff: &node.param_needs_diff,
            top_has_diff: &node.top_has_diff,
        };
        call(&mut *node.layer, &mut self.run, io).map_err(|e| self.nodes[index].blame(e))
    }
}
