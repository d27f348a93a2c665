//! [`Solver`]: what it asks of a device, and when it waits for the answer: once an iteration.

use super::replica::{Solver, finite};
use crate::data::Batch;
use crate::{Error, Result};

/// What follows a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Nothing: more passes, or others' gradients.
    Nothing,
    /// The update, if the gradient stays on the device: no other replica needs it.
    Update,
}

impl Solver {
    /// Whether a device computes, so that a pass is asked for before it is done.
    pub fn on_device(&mut self) -> bool {
        self.net.run().cuda().is_some()
    }

    /// A device has been asked for a pass ([`Net::pass_watched`](crate::net::Net::pass_watched)): asks for what
    /// is to follow, and for the report.
    ///
    /// # Errors
    /// A device that failed.
    pub fn begun(&mut self, iter: u64, then: Then) -> Result<()> {
        self.asked = None;
        if then == Then::Update && self.ask_update(iter)? {
            self.asked = Some(iter);
        }
        self.net.ask_report()
    }

    /// Lets a batch that will be computed on next travel to the device meanwhile.
    ///
    /// # Errors
    /// A device that failed.
    pub fn prepare(&mut self, batches: &[Batch]) -> Result<()> {
        self.net.feed_ahead(batches)
    }

    /// Waits for the loss of the pass that has begun, and for the norm if the update was asked for, too.
    ///
    /// # Errors
    /// [`Error::NotFinite`] for a loss or a norm that is not: then the device has made no update. A device
    /// that failed.
    pub fn finish(&mut self, iter: u64) -> Result<f32> {
        let checked = match finite(self.net.see_loss()?, iter) {
            Ok(loss) if self.asked.is_some() => self.see_norm(iter).map(|()| loss),
            other => other,
        };
        if checked.is_err() {
            self.asked = None;
        }
        checked
    }

    /// Asks the device for norm and update, if only it has the gradient; whether it has.
    pub(super) fn ask_update(&mut self, iter: u64) -> Result<bool> {
        self.tests_current = false;
        let asked = self.ask_norm()?;
        let (params, run) = self.net.params_and_run();
        if let (true, Some(cuda)) = (asked, run.cuda()) {
            self.optimizer.update_on(params, iter, cuda)?;
        }
        Ok(asked)
    }

    /// Looks at a gradient that only the device has.
    ///
    /// # Errors
    /// [`Error::NotFinite`] when its norm is not; a device that failed.
    pub fn check_gradient(&mut self, iter: u64) -> Result<()> {
        match self.ask_norm()? {
            true => {
                self.net.ask_report()?;
                self.see_norm(iter)
            }
            false => Ok(()),
        }
    }

    fn ask_norm(&mut self) -> Result<bool> {
        let (params, run) = self.net.params_and_run();
        match run.cuda() {
            Some(cuda) if params.gradient_is_away() => {
                self.optimizer.measure_on(params, cuda).map(|()| true)
            }
            _ => Ok(false),
        }
    }

    /// Waits for the norm that was asked for.
    pub(super) fn see_norm(&mut self, iter: u64) -> Result<()> {
        let Some(cuda) = self.net.run().cuda() else { return Ok(()) };
        match cuda.report.get()?.norm {
            norm if norm.is_finite() => Ok(()),
            value => Err(Error::NotFinite { iter, what: "the gradient's norm".into(), value }),
        }
    }
}
