//! [`Fences`]: watches a replica's passes: where backward has completed a bucket, and for the trace.

use caffe_actors::Ready;
use caffe_actors::trace::{Kind, NameId, Span, Tracer};

use super::copy_out::{CopyOut, Solving};
use crate::Result;
use crate::net::{Pass, Watch};
use crate::params::ParamArena;

/// Watches one pass.
pub(super) struct Fences<'a, 'r> {
    out: &'a mut CopyOut,
    ready: &'a mut Ready<'r>,
    solving: Option<Solving<'a>>,
    /// A device computes: it may be asked for more while buckets are on their way.
    ahead: bool,
    tracer: &'a Tracer,
    names: &'a [NameId],
    pass: Option<Pass>,
    span: Option<Span>,
    layer: Option<Span>,
}

impl<'a, 'r> Fences<'a, 'r> {
    /// Of a pass whose gradients go this way.
    pub(super) fn new(
        out: &'a mut CopyOut,
        ready: &'a mut Ready<'r>,
        solving: Option<Solving<'a>>,
        ahead: bool,
        (tracer, names): (&'a Tracer, &'a [NameId]),
    ) -> Self {
        let (pass, span, layer) = Default::default();
        Fences { out, ready, solving, ahead, tracer, names, pass, span, layer }
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
        if pass == Pass::Forward || !self.out.gives() {
            return Ok(());
        }
        self.out.send(index, params)?;
        let solving = self.solving.as_mut().map(Solving::again);
        self.out.give(params, self.ready, solving, !self.ahead)
    }

    fn cuts(&self, pass: Pass, index: usize) -> Option<bool> {
        let cuts = pass == Pass::Backward && self.out.gives() && self.out.completes(index);
        (!self.tracer.shows_layers()).then_some(cuts)
    }
}
