//! [`Fences`]: where backward has completed a bucket of gradients.

use caffe_actors::Ready;
use caffe_actors::trace::{Kind, NameId, Span, Tracer};

use super::buckets::Bucket;
use super::team::Team;
use crate::device::cpu::threads::Threads;
use crate::net::{Pass, Watch, all_finite};
use crate::params::ParamArena;
use crate::solver::Optimizer;
use crate::{Error, Result};

/// Watches backward and gives each bucket away when its last layer has run.
pub(super) struct Fences<'a, 'r> {
    buckets: &'a [Bucket],
    pub(super) next: usize,
    /// Whether anybody wants the gradients.
    pub(super) gives: bool,
    /// Takes the loss scale out of a gradient that others get.
    pub(super) unscale: f32,
    pub(super) team: Option<&'a Team>,
    iter: u64,
    ready: &'a mut Ready<'r>,
    /// What makes updates of gradients, where updates are wanted.
    pub(super) solving: Option<(&'a mut Optimizer, u64, Threads)>,
    tracer: &'a Tracer,
    names: &'a [NameId],
    pass: Option<Pass>,
    span: Option<Span>,
    layer: Option<Span>,
}

impl<'a, 'r> Fences<'a, 'r> {
    /// From bucket `next` on, of a pass whose gradients stay where they are.
    pub(super) fn new(
        buckets: &'a [Bucket],
        next: usize,
        iter: u64,
        ready: &'a mut Ready<'r>,
        (tracer, names): (&'a Tracer, &'a [NameId]),
    ) -> Self {
        let (pass, span, layer) = Default::default();
        let (gives, unscale, team, solving) = (false, 1.0, None, None);
        Fences {
            buckets,
            next,
            gives,
            unscale,
            team,
            iter,
            ready,
            solving,
            tracer,
            names,
            pass,
            span,
            layer,
        }
    }
}

impl Watch for Fences<'_, '_> {
    fn before(&mut self, pass: Pass, index: usize) {
        if self.pass != Some(pass) {
            self.pass = Some(pass);
            self.span = None;
            self.span = Some(self.tracer.span(match pass {
                Pass::Forward => Kind::Forward,
                Pass::Backward => Kind::Backward,
            }));
        }
        self.layer = self.tracer.layer(self.names[index]);
    }

    fn after(&mut self, pass: Pass, index: usize, params: &mut ParamArena) -> Result<()> {
        self.layer = None;
        while pass == Pass::Backward
            && self.buckets.get(self.next).is_some_and(|b| b.layer >= index)
        {
            let range = self.buckets[self.next].range.clone();
            if !self.gives && self.solving.is_none() && params.gradient_is_away() {
                // It stays on the device, where the solver looks at it.
                self.next += 1;
                continue;
            }
            if self.unscale != 1.0 {
                params.multiply_diff(range.clone(), self.unscale)?;
            }
            if let Some(team) = self.team
                && !team.sum(params, &range)?
            {
                (self.ready)(self.next, &[]);
                self.next += 1;
                continue;
            }
            let gradient = params.diff_in(range.clone())?;
            // Here it is about to be read, so looking at it costs next to nothing.
            if !all_finite(gradient) {
                let value = gradient.iter().copied().find(|g| !g.is_finite()).unwrap_or(f32::NAN);
                if self.gives {
                    // Here, as a team has added it up already and must not be asked again.
                    let gradient = params.diff_in_mut(range)?;
                    gradient.fill(f32::NAN);
                    (self.ready)(self.next, gradient);
                    self.next += 1;
                }
                return Err(Error::NotFinite { iter: self.iter, what: "a gradient".into(), value });
            }
            if let Some((optimizer, iter, threads)) = &mut self.solving {
                optimizer.solve_part(params, range.clone(), *iter, *threads)?;
            }
            if self.gives {
                (self.ready)(self.next, params.diff_in(range)?);
            }
            self.next += 1;
        }
        Ok(())
    }
}
