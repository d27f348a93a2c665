//! Captured work: a list that is replayed with the arguments it was captured with.

use std::collections::HashMap;
use std::thread::ThreadId;

use cudarc::driver::sys::CUresult;

use crate::stream::Op;
use crate::world::{Fault, World, bad};

/// Who may call what is unsafe while a capture is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nobody.
    Global,
    /// Other threads.
    ThreadLocal,
    /// Everybody.
    Relaxed,
}

/// A stream that joined a capture, and must come back before it ends.
struct Fork {
    /// Pieces of work of its own.
    work: usize,
    /// The pieces there were when an event was recorded in it.
    events: HashMap<u64, usize>,
    /// The pieces that the origin has waited for.
    joined: Option<usize>,
}

/// The list, and, while it grows, how.
pub struct Graph {
    ops: Vec<Op>,
    origin: u64,
    thread: ThreadId,
    mode: Mode,
    forks: HashMap<u64, Fork>,
    growing: bool,
    spoilt: bool,
}

impl Graph {
    /// The work, in an order that respects what waits for what.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }
}

impl World {
    /// Starts a capture.
    pub fn begin(&mut self, stream: u64, mode: Mode) -> Result<(), Fault> {
        if self.stream(stream)?.capture.is_some() {
            let why = "the stream is being captured already";
            return Err(Fault::new(CUresult::CUDA_ERROR_ILLEGAL_STATE, why));
        }
        let (ops, forks) = Default::default();
        let thread = std::thread::current().id();
        let graph =
            Graph { ops, origin: stream, thread, mode, forks, growing: true, spoilt: false };
        let graph = self.graphs.add(graph);
        self.stream(stream)?.capture = Some(graph);
        Ok(())
    }

    fn graph(&mut self, graph: u64) -> Result<&mut Graph, Fault> {
        self.graphs.get_mut(graph).map_err(bad)
    }

    /// Adds work that a captured stream was asked for.
    pub fn captured(&mut self, graph: u64, stream: u64, op: Op) -> Result<(), Fault> {
        let found = self.graph(graph)?;
        if op.frees > 0 {
            found.spoilt = true;
            let why = "memory is freed in a capture; that is not simulated";
            return Err(Fault::new(CUresult::CUDA_ERROR_NOT_SUPPORTED, why));
        }
        found.ops.push(op);
        if let Some(fork) = found.forks.get_mut(&stream) {
            fork.work += 1;
        }
        Ok(())
    }

    /// An event was recorded in a captured stream.
    pub fn left(&mut self, graph: u64, stream: u64, event: u64) -> Result<(), Fault> {
        if let Some(fork) = self.graph(graph)?.forks.get_mut(&stream) {
            fork.events.insert(event, fork.work);
        }
        Ok(())
    }

    /// A stream waits for an event of a capture: it joins, or `from` comes back.
    pub fn joined(&mut self, graph: u64, from: u64, to: u64, event: u64) -> Result<(), Fault> {
        match self.stream(to)?.capture {
            None => {
                self.stream(to)?.capture = Some(graph);
                let fork = Fork { work: 0, events: HashMap::new(), joined: None };
                self.graph(graph)?.forks.insert(to, fork);
            }
            Some(other) if other != graph => {
                let why = "two captures would be merged";
                return Err(Fault::new(CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE, why));
            }
            Some(_) => {
                let found = self.graph(graph)?;
                let to_origin = found.origin == to;
                if let Some(fork) = found.forks.get_mut(&from)
                    && to_origin
                {
                    fork.joined = fork.events.get(&event).copied();
                }
            }
        }
        Ok(())
    }

    /// Ends a capture; its graph.
    pub fn end(&mut self, stream: u64) -> Result<u64, Fault> {
        let Some(handle) = self.stream(stream)?.capture else {
            let why = "the stream is not being captured";
            return Err(Fault::new(CUresult::CUDA_ERROR_ILLEGAL_STATE, why));
        };
        let graph = self.graph(handle)?;
        if graph.origin != stream {
            let why = "the capture began in another stream";
            return Err(Fault::new(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, why));
        }
        if graph.mode != Mode::Relaxed && graph.thread != std::thread::current().id() {
            let why = "the capture began on another thread";
            return Err(Fault::new(CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, why));
        }
        let unjoined = graph.forks.values().any(|fork| fork.joined != Some(fork.work));
        let spoilt = std::mem::replace(&mut graph.growing, false) && graph.spoilt;
        let forks: Vec<u64> = graph.forks.keys().copied().collect();
        for stream in forks.into_iter().chain([stream]) {
            self.stream(stream)?.capture = None;
        }
        if spoilt {
            let why = "a call that a capture forbids has ended it";
            return Err(Fault::new(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, why));
        }
        if unjoined {
            let why = "a stream has work that the capture's origin has not waited for";
            return Err(Fault::new(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED, why));
        }
        Ok(handle)
    }

    /// Refuses a call that waits, or touches memory at once, where a capture forbids it.
    pub fn unsafe_in_capture(&mut self) -> Result<(), Fault> {
        let here = std::thread::current().id();
        let forbids = |graph: &Graph| {
            graph.growing
                && (graph.mode == Mode::Global
                    || (graph.mode == Mode::ThreadLocal && graph.thread == here))
        };
        let found = self.graphs.iter().find(|(_, graph)| forbids(graph)).map(|(handle, _)| handle);
        self.refused(found)
    }

    /// Refuses to wait for a device with a stream that is being captured, whoever captures it.
    pub fn none_captured(&mut self, device: usize) -> Result<(), Fault> {
        let captured = self.streams.iter().filter(|(_, stream)| stream.device == device);
        let found = captured.into_iter().find_map(|(_, stream)| stream.capture);
        self.refused(found)
    }

    /// Refuses to wait for a stream that is being captured.
    pub fn not_captured(&mut self, stream: u64) -> Result<(), Fault> {
        let capture = self.stream(stream)?.capture;
        self.refused(capture)
    }

    fn refused(&mut self, graph: Option<u64>) -> Result<(), Fault> {
        let Some(graph) = graph else { return Ok(()) };
        self.graph(graph)?.spoilt = true;
        let why = "not allowed while a stream is being captured";
        Err(Fault::new(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, why))
    }

    /// What can be launched, from a graph that is complete.
    pub fn instantiate(&mut self, graph: u64) -> Result<u64, Fault> {
        let found = self.graph(graph)?;
        if found.growing {
            return Err(bad("the graph is still being captured".into()));
        }
        let copy = Graph { ops: found.ops.clone(), forks: HashMap::new(), ..*found };
        Ok(self.executables.add(copy))
    }

    /// Runs a graph in a stream.
    pub fn launch_graph(&mut self, executable: u64, stream: u64) -> Result<(), Fault> {
        let ops = self.executables.get(executable).map_err(bad)?.ops.clone();
        let device = self.current()?;
        let work = move |world: &mut World| ops.iter().try_for_each(|op| world.run(device, op));
        self.ask(stream, Op::new("cuGraphLaunch", work))
    }
}
