//! Work that was noted, as a CUDA graph.

use cudarc::driver::CudaGraph;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};

use super::{Nvidia, driver};
use crate::device::cuda::algorithms::Direction;
use crate::device::cuda::backend::Backend;
use crate::device::cuda::work::{Graph, Work};
use crate::{Result, bail};

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
