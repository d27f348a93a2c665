//! The simulated CUDA libraries (`tests/simulated_cuda`) themselves: that they do late what may be late, and
//! refuse what a device would not survive. What they are for, our own code on them, is in the other tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::ffi::{CString, c_void};
use std::os::unix::process::ExitStatusExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use caffe::device::cuda::Kind;
use caffe::device::cuda::compiler::{Architecture, Compiler, Error};
use caffe::device::cuda::library::Library;
use caffe::device::cuda::source::Source;
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};

const KERNELS: Source = Source {
    name: "simulated_test",
    text: r#"
extern "C" __global__ void add(float* y, const float* x, int n) { KERNEL_LOOP(i, n) { y[i] += x[i]; } }
extern "C" __global__ void divergent(float* y, int n) { if (threadIdx.x < n) __syncthreads(); }
extern "C" __global__ void behind(float* y, int n) { if (threadIdx.x == 0) y[n] = 1; }
extern "C" __global__ void apart(float* y, int n) { put(y, n, pack<PACK>(y, n)); }
extern "C" __global__ void late(float* y, int n) {
  if (threadIdx.x > 0) return;
  if (blockIdx.x > 0) y[blockIdx.x] = y[blockIdx.x - 1] + 1;
}
extern "C" __global__ void sum(float* y, const float* x, int n) {
  float sum = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) sum += x[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) y[0] = sum;
}
"#,
    functions: &["add", "divergent", "behind", "apart", "late", "sum"],
};

/// One test at a time: they count violations.
static TURN: Mutex<()> = Mutex::new(());

struct Device {
    context: Arc<CudaContext>,
    _turn: MutexGuard<'static, ()>,
}

fn device() -> Option<Device> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(why) = common::cuda::libraries() {
        println!("skipped: {why}");
        return None;
    }
    Some(Device { context: CudaContext::new(0).unwrap(), _turn: turn })
}

fn violations() -> u64 {
    let handle = Library::Driver.open().unwrap().handle;
    type Count = unsafe extern "C" fn() -> u64;
    // SAFETY: the function of the simulated library has this type.
    unsafe { handle.get::<Count>(b"simulated_cuda_violations\0").unwrap()() }
}

/// Runs what is wrong; its code, which is counted.
fn refused<T>(wrong: impl FnOnce() -> Result<T, DriverError>) -> CUresult {
    let before = violations();
    let code = wrong().err().unwrap().0;
    assert_eq!(violations(), before + 1, "{code:?}");
    code
}

/// Memory of so many floats.
fn memory(floats: usize) -> u64 {
    // SAFETY: a context is current.
    unsafe { result::malloc_sync(4 * floats) }.unwrap()
}

fn free(at: u64) {
    // SAFETY: from `memory`.
    unsafe { result::free_sync(at) }.unwrap();
}

fn send(from: &[f32], to: u64, stream: &CudaStream) {
    // SAFETY: memory of that length; some tests change `from` too early, which is theirs to see.
    unsafe { result::memcpy_htod_async(to, from, stream.cu_stream()) }.unwrap();
}

/// Reads at once, without a wait for any stream.
fn look(at: u64) -> f32 {
    let mut values = [0.0f32];
    // SAFETY: memory of at least one float.
    unsafe { result::memcpy_dtoh_sync(&mut values, at) }.unwrap();
    values[0]
}

fn kernel(name: &str) -> sys::CUfunction {
    let code = Compiler::open().unwrap();
    let code = code.compile(&KERNELS, Kind::F32, Architecture { major: 9, minor: 0 }).unwrap();
    // SAFETY: code that has just been made.
    unsafe {
        let module = result::module::load_data(code.as_ptr().cast()).unwrap();
        result::module::get_function(module, CString::new(name).unwrap()).unwrap()
    }
}

fn launch(
    function: sys::CUfunction,
    arguments: &mut [u64],
    threads: u32,
    stream: &CudaStream,
) -> Result<(), DriverError> {
    let mut places: Vec<*mut c_void> =
        arguments.iter_mut().map(|word| std::ptr::from_mut(word).cast()).collect();
    let stream = stream.cu_stream();
    // SAFETY: a word for each parameter; wrong ones are what the tests are about.
    unsafe { result::launch_kernel(function, (1, 1, 1), (threads, 1, 1), 0, stream, &mut places) }
}

#[test]
fn nothing_is_done_before_somebody_waits() {
    let Some(device) = device() else { return };
    let stream = device.context.new_stream().unwrap();
    let (x, y) = (memory(1), memory(1));
    assert!(look(x).is_nan());
    send(&[2.0], x, &stream);
    send(&[1.0], y, &stream);
    launch(kernel("add"), &mut [y, x, 1], 256, &stream).unwrap();
    assert!(look(x).is_nan() && look(y).is_nan());
    stream.synchronize().unwrap();
    assert_eq!((look(x), look(y)), (2.0, 3.0));
    [x, y].into_iter().for_each(free);
}

#[test]
fn threads_meet_at_barriers() {
    let Some(device) = device() else { return };
    let stream = device.context.new_stream().unwrap();
    let (x, y) = (memory(300), memory(1));
    let values: Vec<f32> = (0..300).map(|i| (i % 7) as f32).collect();
    send(&values, x, &stream);
    launch(kernel("sum"), &mut [y, x, 300], 256, &stream).unwrap();
    stream.synchronize().unwrap();
    assert_eq!(look(y), values.iter().sum::<f32>());
    [x, y].into_iter().for_each(free);
}

#[test]
fn a_stream_waits_for_another_through_an_event_only() {
    let Some(device) = device() else { return };
    let [one, other] = [(); 2].map(|()| device.context.new_stream().unwrap());
    let at = memory(1);
    send(&[1.0], at, &one);
    other.synchronize().unwrap();
    assert!(look(at).is_nan());
    let event = device.context.new_event(None).unwrap();
    event.record(&one).unwrap();
    // Not part of what the event stands for.
    send(&[2.0], at, &one);
    other.wait(&event).unwrap();
    assert!(!event.is_complete());
    other.synchronize().unwrap();
    assert_eq!(look(at), 1.0);
    one.synchronize().unwrap();
    assert_eq!(look(at), 2.0);
    free(at);
}

#[test]
fn memory_is_nobody_elses_before_its_stream_gives_it() {
    let Some(device) = device() else { return };
    let [one, other] = [(); 2].map(|()| device.context.new_stream().unwrap());
    // SAFETY: a context is current.
    let new = || unsafe { result::malloc_async(one.cu_stream(), 4) }.unwrap();
    let (early, late) = (new(), new());
    send(&[1.0], early, &other);
    other.synchronize().unwrap();
    other.join(&one).unwrap();
    send(&[1.0], late, &other);
    other.synchronize().unwrap();
    assert!(look(early).is_nan());
    assert_eq!(look(late), 1.0);
    for at in [early, late] {
        // SAFETY: from `malloc_async`.
        unsafe { result::free_async(at, one.cu_stream()) }.unwrap();
    }
    one.synchronize().unwrap();
}

#[test]
fn memory_of_the_host_is_read_when_its_turn_comes_locked_or_not() {
    let Some(device) = device() else { return };
    let stream = device.context.new_stream().unwrap();
    let (a, b) = (memory(1), memory(1));
    let mut pageable = [1.0f32];
    send(&pageable, a, &stream);
    pageable[0] = 2.0;
    // SAFETY: one float of page-locked memory, given back below.
    let locked = unsafe { result::malloc_host(4, 0) }.unwrap().cast::<f32>();
    // SAFETY: as above.
    unsafe {
        locked.write(1.0);
        send(std::slice::from_raw_parts(locked, 1), b, &stream);
        locked.write(2.0);
    }
    stream.synchronize().unwrap();
    assert_eq!((look(a), look(b)), (2.0, 2.0), "pageable {pageable:?}");
    // SAFETY: from `malloc_host`.
    unsafe { result::free_host(locked.cast()) }.unwrap();
    [a, b].into_iter().for_each(free);
}

#[test]
fn what_was_captured_is_replayed_with_its_arguments() {
    let Some(device) = device() else { return };
    let [one, other] = [(); 2].map(|()| device.context.new_stream().unwrap());
    let (x, y) = (memory(1), memory(1));
    send(&[2.0], x, &one);
    send(&[1.0], y, &one);
    one.synchronize().unwrap();
    let add = kernel("add");
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: streams, events and graphs that are alive.
    unsafe {
        result::stream::begin_capture(one.cu_stream(), mode).unwrap();
        let [there, back] = [(); 2].map(|()| device.context.new_event(None).unwrap());
        result::event::record(there.cu_event(), one.cu_stream()).unwrap();
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        result::stream::wait_event(other.cu_stream(), there.cu_event(), flags).unwrap();
        launch(add, &mut [y, x, 1], 256, &other).unwrap();
        let code = refused(|| result::stream::synchronize(other.cu_stream()));
        assert_eq!(code, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        let code = refused(|| result::stream::end_capture(one.cu_stream()));
        assert_eq!(code, CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

        result::stream::begin_capture(one.cu_stream(), mode).unwrap();
        result::event::record(there.cu_event(), one.cu_stream()).unwrap();
        result::stream::wait_event(other.cu_stream(), there.cu_event(), flags).unwrap();
        launch(add, &mut [y, x, 1], 256, &other).unwrap();
        result::event::record(back.cu_event(), other.cu_stream()).unwrap();
        result::stream::wait_event(one.cu_stream(), back.cu_event(), flags).unwrap();
        let graph = result::stream::end_capture(one.cu_stream()).unwrap();
        let flag = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let exec = result::graph::instantiate(graph, flag).unwrap();
        one.synchronize().unwrap();
        assert_eq!(look(y), 1.0, "capturing runs nothing");
        for _ in 0..3 {
            result::graph::launch(exec, one.cu_stream()).unwrap();
        }
        one.synchronize().unwrap();
        assert_eq!(look(y), 7.0);
        result::graph::exec_destroy(exec).unwrap();
        result::graph::destroy(graph).unwrap();
    }
    [x, y].into_iter().for_each(free);
}

#[test]
fn memory_is_left_alone_beyond_its_ends_and_after_its_time() {
    let Some(device) = device() else { return };
    let stream = device.context.new_stream().unwrap();
    let at = memory(2);
    let three = [0.0f32; 3];
    // SAFETY: wrong on purpose.
    let code = refused(|| unsafe { result::memcpy_htod_async(at, &three, stream.cu_stream()) });
    assert_eq!(code, CUresult::CUDA_ERROR_INVALID_VALUE);
    free(at);
    // SAFETY: wrong on purpose.
    assert_eq!(refused(|| unsafe { result::free_sync(at) }), CUresult::CUDA_ERROR_INVALID_VALUE);
    // SAFETY: only asks for more than there is, which is no violation.
    let none = unsafe { result::malloc_sync(1 << 40) };
    assert_eq!(none.unwrap_err().0, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    let gone = CudaContext::new(0).unwrap().new_stream().unwrap();
    // SAFETY: a stream that is alive, then destroyed, then used on purpose.
    unsafe {
        let raw = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
        result::stream::destroy(raw).unwrap();
        let code = refused(|| result::stream::synchronize(raw));
        assert_eq!(code, CUresult::CUDA_ERROR_INVALID_HANDLE);
    }
    drop(gone);
    let code = std::thread::spawn(|| {
        // SAFETY: on a thread without a context, on purpose.
        refused(|| unsafe { result::malloc_sync(4) })
    });
    assert_eq!(code.join().unwrap(), CUresult::CUDA_ERROR_INVALID_CONTEXT);
}

/// Each breaks the context, as on a device; the next test gets a new one.
#[test]
fn a_kernel_that_goes_wrong_breaks_its_context() {
    let Some(device) = device() else { return };
    let add = kernel("add");
    let code = refused(|| launch(add, &mut [8, 8, 1], 1, &device.context.default_stream()));
    assert_eq!(code, CUresult::CUDA_ERROR_NOT_SUPPORTED, "blocks of another size");
    drop(device);
    for (name, wanted) in [
        ("divergent", CUresult::CUDA_ERROR_LAUNCH_FAILED),
        ("behind", CUresult::CUDA_ERROR_ILLEGAL_ADDRESS),
        ("add", CUresult::CUDA_ERROR_ILLEGAL_ADDRESS),
    ] {
        let Some(device) = self::device() else { return };
        let stream = device.context.new_stream().unwrap();
        let (at, function) = (memory(5), kernel(name));
        // The last has an address of the host's.
        let mut arguments = if name == "add" { vec![at, 4096, 5] } else { vec![at, 5] };
        launch(function, &mut arguments, 256, &stream).unwrap();
        assert_eq!(refused(|| stream.synchronize()), wanted, "{name}");
        // SAFETY: nothing is touched; the context is broken.
        assert_eq!(unsafe { result::malloc_sync(4) }.unwrap_err().0, wanted, "{name}");
    }
}

#[test]
fn what_is_not_aligned_ends_the_process() {
    const INNER: &str = "SIMULATED_TEST_INNER";
    if std::env::var_os(INNER).is_some() {
        let Some(device) = device() else { return };
        let stream = device.context.new_stream().unwrap();
        // A pack of four floats, one float behind where such may be.
        launch(kernel("apart"), &mut [memory(8), 1], 256, &stream).unwrap();
        stream.synchronize().unwrap();
        return;
    }
    if device().is_none() {
        return;
    }
    let mut inner = std::process::Command::new(std::env::current_exe().unwrap());
    inner.args(["--exact", "what_is_not_aligned_ends_the_process"]).env(INNER, "1");
    assert_eq!(inner.output().unwrap().status.signal(), Some(libc::SIGILL));
}

#[test]
fn blocks_come_in_no_order() {
    let Some(device) = device() else { return };
    let stream = device.context.new_stream().unwrap();
    let at = memory(5);
    let zeros = [0.0; 5];
    send(&zeros, at, &stream);
    let mut places: [u64; 2] = [at, 5];
    let mut places: Vec<*mut c_void> =
        places.iter_mut().map(|word| std::ptr::from_mut(word).cast()).collect();
    let (late, to) = (kernel("late"), stream.cu_stream());
    // SAFETY: a word for each parameter.
    unsafe { result::launch_kernel(late, (5, 1, 1), (256, 1, 1), 0, to, &mut places) }.unwrap();
    stream.synchronize().unwrap();
    let values: Vec<f32> = (0..5).map(|i| look(at + 4 * i)).collect();
    assert_ne!(values, [0.0, 1.0, 2.0, 3.0, 4.0], "one after another");
    assert_ne!(values, [0.0, 1.0, 1.0, 1.0, 1.0], "the last first");
    free(at);
}

#[test]
fn a_text_that_is_no_code_is_told_with_its_line() {
    let Some(_device) = device() else { return };
    static WRONG: Source = Source {
        name: "wrong",
        text: "\nextern \"C\" __global__ void f(int64 n) {\n  n = 1.0f / nothing;\n}\n",
        functions: &["f"],
    };
    let compiler = Compiler::open().unwrap();
    match compiler.compile(&WRONG, Kind::F32, Architecture { major: 9, minor: 0 }) {
        Err(Error::Refused { line: Some(2), log, .. }) => assert!(log.contains("nothing"), "{log}"),
        other => panic!("{other:?}"),
    }
}
