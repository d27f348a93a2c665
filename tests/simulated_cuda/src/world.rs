//! All that exists: devices, contexts, and what was made in them. One lock around everything, as order
//! between threads is not what is tested here.

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_int;
use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cudarc::driver::sys::CUresult;

use crate::events::Event;
use crate::graph::Graph;
use crate::kernels::Kernel;
use crate::memory::Memory;
use crate::nccl::Cliques;
use crate::places::Null;
use crate::stream::Stream;

/// A call that fails.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What the driver answers.
    pub code: CUresult,
    /// Why, for people.
    pub why: String,
    /// Whether no correct program would have called so.
    pub violation: bool,
    /// Whether it is none: the work waits for what another thread is still to ask for.
    pub stalled: bool,
}

impl Fault {
    /// A violation of the interface.
    pub fn new(code: CUresult, why: impl Into<String>) -> Fault {
        Fault { code, why: why.into(), violation: true, stalled: false }
    }

    /// Work that waits for another thread.
    pub fn stalled() -> Fault {
        Fault { stalled: true, ..Fault::fair(CUresult::CUDA_ERROR_NOT_READY, "another's turn") }
    }

    /// What may happen to a correct program.
    pub fn fair(code: CUresult, why: impl Into<String>) -> Fault {
        Fault { violation: false, ..Fault::new(code, why) }
    }
}

impl From<Null> for Fault {
    fn from(_: Null) -> Fault {
        Fault::new(CUresult::CUDA_ERROR_INVALID_VALUE, "a pointer is null")
    }
}

/// Things of one kind, by handle. A handle is never given twice.
pub struct Table<T> {
    kind: &'static str,
    items: HashMap<u64, T>,
}

/// The next handle of any kind.
static NEXT: Mutex<u64> = Mutex::new(0x51_0000_0000);

impl<T> Table<T> {
    /// An empty one.
    pub fn new(kind: &'static str) -> Table<T> {
        Table { kind, items: HashMap::new() }
    }

    /// Adds one; its handle.
    pub fn add(&mut self, item: T) -> u64 {
        let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
        *next += 0x10;
        self.items.insert(*next, item);
        *next
    }

    fn missing(&self, handle: u64) -> String {
        let next = *NEXT.lock().unwrap_or_else(PoisonError::into_inner);
        let was = (0x51_0000_0000..=next).contains(&handle);
        let why = if was { "was destroyed, or is something else" } else { "was never made" };
        format!("{} {handle:#x} {why}", self.kind)
    }

    /// The one of this handle, or what is wrong with it.
    pub fn get(&self, handle: u64) -> Result<&T, String> {
        self.items.get(&handle).ok_or_else(|| self.missing(handle))
    }

    /// As [`get`](Table::get).
    pub fn get_mut(&mut self, handle: u64) -> Result<&mut T, String> {
        let why = self.missing(handle);
        self.items.get_mut(&handle).ok_or(why)
    }

    /// Takes it out, as [`get`](Table::get).
    pub fn remove(&mut self, handle: u64) -> Result<T, String> {
        self.items.remove(&handle).ok_or_else(|| self.missing(handle))
    }

    /// Their number.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// All.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.items.iter().map(|(handle, item)| (*handle, item))
    }

    /// Takes out those that `gone` names; how many there were.
    pub fn retire(&mut self, gone: impl Fn(&T) -> bool) -> usize {
        let before = self.items.len();
        self.items.retain(|_, item| !gone(item));
        before - self.items.len()
    }
}

/// A device's primary context, the only kind there is.
#[derive(Default)]
pub struct Context {
    /// How often it was retained and not released.
    pub retained: usize,
    /// The error that broke it.
    pub broken: Option<CUresult>,
    /// Other devices that were let into its memory.
    pub admitted: Vec<c_int>,
}

/// Everything.
pub struct World {
    /// Whether `cuInit` was called.
    pub initialised: bool,
    /// By device.
    pub contexts: Vec<Context>,
    /// Of devices and page-locked.
    pub memory: Memory,
    /// Streams.
    pub streams: Table<Stream>,
    /// Events.
    pub events: Table<Event>,
    /// Modules: the context of each, and its file.
    pub modules: Table<(usize, crate::kernels::Module)>,
    /// Functions of modules.
    pub functions: Table<Kernel>,
    /// Graphs, also those being captured.
    pub graphs: Table<Graph>,
    /// Graphs that can be launched.
    pub executables: Table<Graph>,
    /// Devices that add arrays up.
    pub cliques: Cliques,
    /// Calls that no correct program makes.
    pub violations: u64,
    /// Whether the first of them ends the process.
    pub strict: bool,
    /// How far off convolutions are, in parts of themselves, by algorithms that do not repeat their sums.
    pub shake: f32,
    /// What measured times of convolutions differ by from call to call; `None`: they do not.
    pub times: Option<usize>,
    /// Where each convolution is written down that is tried or asked for.
    pub convolutions: Option<PathBuf>,
    /// The devices' product name.
    pub name: String,
    /// Whether the other streams run before the one that is waited for.
    pub others_first: bool,
}

/// How long a thread waits for another before it looks again.
const PAUSE: Duration = Duration::from_micros(50);

/// A context's handle.
const CONTEXT: u64 = 0x50_0000_0000;

thread_local! {
    /// The context that is current on a thread; zero: none.
    pub static CURRENT: Cell<u64> = const { Cell::new(0) };
}

/// A number of the environment.
pub fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

static WORLD: LazyLock<Mutex<World>> = LazyLock::new(|| {
    let devices = setting("SIMULATED_CUDA_DEVICES", 2);
    Mutex::new(World {
        initialised: false,
        contexts: (0..devices).map(|_| Context::default()).collect(),
        memory: Memory::new(devices, setting("SIMULATED_CUDA_MEMORY", 4 << 30)),
        streams: Table::new("stream"),
        events: Table::new("event"),
        modules: Table::new("module"),
        functions: Table::new("function"),
        graphs: Table::new("graph"),
        executables: Table::new("executable graph"),
        cliques: Cliques::default(),
        violations: 0,
        strict: false,
        shake: std::env::var("SIMULATED_CUDA_SHAKE")
            .ok()
            .and_then(|by| by.parse().ok())
            .unwrap_or(0.0),
        times: std::env::var("SIMULATED_CUDA_TIMES").ok().and_then(|by| by.parse().ok()),
        convolutions: std::env::var_os("SIMULATED_CUDA_CONVOLUTIONS").map(PathBuf::from),
        name: std::env::var("SIMULATED_CUDA_NAME").unwrap_or_else(|_| "Simulated GPU".into()),
        others_first: std::env::var("SIMULATED_CUDA_ORDER").is_ok_and(|order| order == "others"),
    })
});

/// Everything, for one call.
pub fn lock() -> MutexGuard<'static, World> {
    WORLD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a call of the driver's and answers for it; again and again while it waits for another thread.
pub fn driver(call: &str, mut body: impl FnMut(&mut World) -> Result<(), Fault>) -> CUresult {
    loop {
        let mut world = lock();
        let ready = match world.initialised {
            true => Ok(()),
            false => Err(Fault::new(CUresult::CUDA_ERROR_NOT_INITIALIZED, "cuInit was not called")),
        };
        match ready.and_then(|()| body(&mut world)) {
            Ok(()) => return CUresult::CUDA_SUCCESS,
            Err(fault) if fault.stalled => drop(world),
            Err(fault) => {
                world.report(call, &fault.why, fault.violation);
                return fault.code;
            }
        }
        std::thread::sleep(PAUSE);
    }
}

impl World {
    /// Tells of a failed call, and counts it where it is a violation.
    pub fn report(&mut self, call: &str, why: &dyn Display, violation: bool) {
        if violation {
            self.violations += 1;
            // In one piece, though other threads write as well.
            let line = format!("simulated CUDA: {call}: {why}\n");
            let _ = std::io::stderr().write_all(line.as_bytes());
            if self.strict {
                std::process::abort();
            }
        }
    }

    /// The device of a context's handle.
    pub fn device_of(&self, context: u64) -> Result<usize, Fault> {
        let device = context.wrapping_sub(CONTEXT) as usize;
        match self.contexts.get(device) {
            Some(Context { retained: 1.., .. }) => Ok(device),
            Some(_) => Err(Fault::new(
                CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED,
                format!("the context of device {device} was released"),
            )),
            None => {
                let why = format!("{context:#x} is no context");
                Err(Fault::new(CUresult::CUDA_ERROR_INVALID_CONTEXT, why))
            }
        }
    }

    /// A device's context, as its handle.
    pub fn context(device: usize) -> u64 {
        CONTEXT + device as u64
    }

    /// The device whose context is current on this thread.
    pub fn current(&self) -> Result<usize, Fault> {
        let context = CURRENT.get();
        if context == 0 {
            let why = "no context is current on this thread";
            return Err(Fault::new(CUresult::CUDA_ERROR_INVALID_CONTEXT, why));
        }
        let device = self.device_of(context)?;
        match self.contexts[device].broken {
            Some(code) => Err(Fault::fair(code, "an earlier failure broke the context")),
            None => Ok(device),
        }
    }

    /// Destroys what is left in a context that nobody holds any more, and tells what its makers left.
    pub fn destroy(&mut self, device: usize) {
        let left = [
            ("streams", self.streams.retire(|stream| stream.device == device)),
            ("events", self.events.retire(|event| event.device == device)),
            ("modules", self.modules.retire(|(of, _)| *of == device)),
            ("allocations", self.memory.retire(device)),
        ];
        self.functions.retire(|kernel| kernel.device == device);
        let left = left.into_iter().chain(crate::cublaslt::left(device));
        let left: Vec<_> = left.chain(crate::cudnn::left(device)).collect();
        // What is in a broken context cannot be destroyed.
        let broken = self.contexts[device].broken.is_some();
        for (what, count) in left.into_iter().filter(|(_, count)| *count > 0 && !broken) {
            let why = format!("{count} {what} of device {device} are left");
            self.report("cuDevicePrimaryCtxRelease", &why, true);
        }
        self.contexts[device] = Context::default();
    }
}

/// A fault of a handle.
pub fn bad(why: String) -> Fault {
    Fault::new(CUresult::CUDA_ERROR_INVALID_HANDLE, why)
}
