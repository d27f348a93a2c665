//! Streams, events, captures and graphs.

use std::ffi::{c_int, c_uint, c_ulonglong, c_void};

use cudarc::driver::sys::CUresult;

use crate::events::Event;
use crate::graph::Mode;
use crate::places::put;
use crate::stream::{Op, Stream, null};
use crate::world::{Fault, World, bad, driver};

fn make(world: &mut World, stream: *mut u64, flags: c_uint) -> Result<(), Fault> {
    world.unsafe_in_capture()?;
    let device = world.current()?;
    if flags > 1 {
        return Err(Fault::new(CUresult::CUDA_ERROR_INVALID_VALUE, "unknown flags"));
    }
    Ok(put(stream, world.streams.add(Stream::new(device, flags == 0)))?)
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreate(stream: *mut u64, flags: c_uint) -> CUresult {
    driver("cuStreamCreate", |world| make(world, stream, flags))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreateWithPriority(
    stream: *mut u64,
    flags: c_uint,
    _priority: c_int,
) -> CUresult {
    driver("cuStreamCreateWithPriority", |world| make(world, stream, flags))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(stream: u64) -> CUresult {
    driver("cuStreamDestroy", |world| {
        // What it was asked for is still done, if nobody looks.
        let mark = world.mark(stream)?;
        let done = world.reach(mark);
        if !done.as_ref().is_err_and(|fault| fault.stalled) {
            world.streams.remove(stream).map_err(bad)?;
        }
        done
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: u64) -> CUresult {
    driver("cuStreamSynchronize", |world| {
        world.unsafe_in_capture()?;
        if !null(stream) {
            world.not_captured(stream)?;
        }
        world.drain(stream)
    })
}

fn ready(done: bool) -> Result<(), Fault> {
    match done {
        true => Ok(()),
        false => Err(Fault::fair(CUresult::CUDA_ERROR_NOT_READY, "not done")),
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamQuery(stream: u64) -> CUresult {
    driver("cuStreamQuery", |world| {
        world.unsafe_in_capture()?;
        if null(stream) {
            return world.drain(stream);
        }
        world.not_captured(stream)?;
        ready(world.query(stream)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitEvent(stream: u64, event: u64, _flags: c_uint) -> CUresult {
    driver("cuStreamWaitEvent", |world| world.stream_waits(stream, event))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamGetCtx(stream: u64, context: *mut u64) -> CUresult {
    driver("cuStreamGetCtx", |world| {
        let device = world.streams.get(stream).map_err(bad)?.device;
        Ok(put(context, World::context(device))?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamBeginCapture_v2(stream: u64, mode: c_int) -> CUresult {
    driver("cuStreamBeginCapture", |world| {
        let mode = match mode {
            0 => Mode::Global,
            1 => Mode::ThreadLocal,
            2 => Mode::Relaxed,
            _ => return Err(Fault::new(CUresult::CUDA_ERROR_INVALID_VALUE, "unknown mode")),
        };
        if null(stream) {
            let why = "the null stream cannot be captured";
            return Err(Fault::new(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, why));
        }
        world.begin(stream, mode)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamEndCapture(stream: u64, graph: *mut u64) -> CUresult {
    driver("cuStreamEndCapture", |world| Ok(put(graph, world.end(stream)?)?))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamIsCapturing(stream: u64, status: *mut c_int) -> CUresult {
    driver("cuStreamIsCapturing", |world| {
        let capturing = !null(stream) && world.stream(stream)?.capture.is_some();
        Ok(put(status, c_int::from(capturing))?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchHostFunc(
    stream: u64,
    function: Option<extern "C" fn(*mut c_void)>,
    data: u64,
) -> CUresult {
    driver("cuLaunchHostFunc", |world| {
        let Some(function) = function else {
            return Err(Fault::new(CUresult::CUDA_ERROR_INVALID_VALUE, "no function"));
        };
        let work = move |_: &mut World| {
            function(data as *mut c_void);
            Ok(())
        };
        world.ask(stream, Op::new("cuLaunchHostFunc", work))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventCreate(event: *mut u64, flags: c_uint) -> CUresult {
    driver("cuEventCreate", |world| {
        let device = world.current()?;
        if flags > 7 {
            return Err(Fault::new(CUresult::CUDA_ERROR_INVALID_VALUE, "unknown flags"));
        }
        Ok(put(event, world.events.add(Event::new(device, flags & 2 == 0)))?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventDestroy_v2(event: u64) -> CUresult {
    driver("cuEventDestroy", |world| world.events.remove(event).map(drop).map_err(bad))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventRecord(event: u64, stream: u64) -> CUresult {
    driver("cuEventRecord", |world| world.record(event, stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventQuery(event: u64) -> CUresult {
    driver("cuEventQuery", |world| {
        world.unsafe_in_capture()?;
        ready(world.event_done(event)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventSynchronize(event: u64) -> CUresult {
    driver("cuEventSynchronize", |world| {
        world.unsafe_in_capture()?;
        world.host_waits(event)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: u64, end: u64) -> CUresult {
    driver("cuEventElapsedTime", |world| Ok(put(milliseconds, world.elapsed(start, end)?)?))
}

#[unsafe(no_mangle)]
extern "C" fn cuEventElapsedTime(milliseconds: *mut f32, start: u64, end: u64) -> CUresult {
    cuEventElapsedTime_v2(milliseconds, start, end)
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphInstantiateWithFlags(
    executable: *mut u64,
    graph: u64,
    _flags: c_ulonglong,
) -> CUresult {
    driver("cuGraphInstantiate", |world| {
        world.current()?;
        Ok(put(executable, world.instantiate(graph)?)?)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphUpload(executable: u64, stream: u64) -> CUresult {
    driver("cuGraphUpload", |world| {
        world.executables.get(executable).map_err(bad)?;
        if null(stream) { Ok(()) } else { world.stream(stream).map(drop) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphLaunch(executable: u64, stream: u64) -> CUresult {
    driver("cuGraphLaunch", |world| world.launch_graph(executable, stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphDestroy(graph: u64) -> CUresult {
    driver("cuGraphDestroy", |world| world.graphs.remove(graph).map(drop).map_err(bad))
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphExecDestroy(executable: u64) -> CUresult {
    driver("cuGraphExecDestroy", |world| {
        world.executables.remove(executable).map(drop).map_err(bad)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuGraphGetNodes(graph: u64, nodes: *mut u64, count: *mut usize) -> CUresult {
    driver("cuGraphGetNodes", |world| {
        let found = world.graphs.get(graph).map_err(bad)?.ops().len();
        if !nodes.is_null() {
            let why = "nodes are not simulated, only their number";
            return Err(Fault::new(CUresult::CUDA_ERROR_NOT_SUPPORTED, why));
        }
        Ok(put(count, found)?)
    })
}
