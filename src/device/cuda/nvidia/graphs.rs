//! What was asked for, noted and made a CUDA graph.

use std::cell::RefCell;

use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

use super::{Nvidia, driver};
use crate::device::cuda::algorithms::Direction;
use crate::device::cuda::backend::Backend;
use crate::device::cuda::work::{Graph, Work};
use crate::{Result, bail};

/// Work that is being noted.
#[derive(Default)]
pub(super) struct Notes(RefCell<Option<Noted>>);

/// What was noted, or why it is of no use.
pub(super) type Noted = std::result::Result<Vec<Work>, &'static str>;

impl Notes {
    pub(super) fn begin(&self) {
        *self.0.borrow_mut() = Some(Ok(Vec::new()));
    }

    pub(super) fn end(&self) -> Noted {
        self.0.borrow_mut().take().unwrap_or(Err("nothing was noted"))
    }

    /// Notes a piece of work, which is only made if somebody wants to know.
    pub(super) fn add(&self, work: impl FnOnce() -> Work) {
        if let Some(Ok(works)) = &mut *self.0.borrow_mut() {
            works.push(work());
        }
    }

    /// Notes nothing until [`go_on`](Notes::go_on): for what is a part of work that was noted.
    pub(super) fn pause(&self) -> Option<Noted> {
        self.0.borrow_mut().take()
    }

    pub(super) fn go_on(&self, paused: Option<Noted>) {
        *self.0.borrow_mut() = paused;
    }

    /// Something was asked for that cannot be repeated.
    pub(super) fn spoil(&self, why: &'static str) {
        if let Some(noted @ Ok(_)) = &mut *self.0.borrow_mut() {
            *noted = Err(why);
        }
    }
}

impl Graph for CudaGraph {
    fn launch(&self) -> Result<()> {
        CudaGraph::launch(self).map_err(driver("a graph"))
    }
}

impl Nvidia {
    /// Captures work that has been done once, so that nothing is loaded or allocated.
    pub(super) fn capture(&self, works: &[Work]) -> Result<Box<dyn Graph>> {
        // Other threads may use the device meanwhile.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(driver("beginning a graph"))?;
        let asked = works.iter().try_for_each(|work| self.perform(work));
        // Whatever was asked for: a capture that does not end blocks the stream.
        let graph = self.stream.end_capture(CUgraphInstantiate_flags(0));
        asked?;
        match graph.map_err(driver("making a graph"))? {
            Some(graph) => {
                graph.upload().map_err(driver("copying a graph to the device"))?;
                Ok(Box::new(graph))
            }
            None => bail!("CUDA: a graph is empty"),
        }
    }

    fn perform(&self, work: &Work) -> Result<()> {
        match work {
            Work::Copy(from, to, floats) => self.copy(*from, *to, *floats),
            Work::Zero(at, floats) => self.zero(*at, *floats),
            Work::Launch(source, kind, function, blocks, args) => {
                self.launch(source, *kind, function, *blocks, args)
            }
            Work::Product(g, kinds, [a, b, c]) => self.product(*g, *kinds, *a, *b, *c),
            Work::Correlate(direction, shape, kind, [first, second, third]) => {
                let correlate = match direction {
                    Direction::Forward => Nvidia::correlate,
                    Direction::Back => Nvidia::correlate_back,
                    Direction::Weights => Nvidia::correlate_weights,
                };
                correlate(self, shape, *kind, *first, *second, *third)
            }
        }
    }
}
