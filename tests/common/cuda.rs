//! The CUDA device that tests run on, and the layer types that have no code for one.

use std::ffi::OsString;
use std::rc::Rc;
use std::sync::OnceLock;

use caffe::Error;
use caffe::device::cuda::backend::Backend;
use caffe::device::cuda::library::{Library, Places};
use caffe::device::cuda::nvidia::Nvidia;
use caffe::device::cuda::{CudaDevice, Math, Order, probe};
use cudarc::driver::CudaContext;

/// Layer types that compute and have no CUDA code: none. One that is written without stands here until it
/// gets some: tests fail when a type has none and is not listed, and when it is listed and has some.
pub const WITHOUT_CODE: &[&str] = &[];

/// A device of the caller's own: device 0 where there is a driver and a device, else a simulated one, which is
/// the same code of ours on libraries of `tests/simulated_cuda`. `CAFFE_CUDA` chooses: `device` or
/// `simulated` (a failure where there is none), or `none`. `None`, with a printed line, where there is nothing to run on.
pub fn device() -> Option<CudaDevice> {
    device_with(Math::F32)
}

/// The same, computing with this, in the order that it prefers.
pub fn device_with(math: Math) -> Option<CudaDevice> {
    device_in(math, math.order())
}

/// The same in this order.
pub fn device_in(math: Math, order: Order) -> Option<CudaDevice> {
    let device = match std::env::var("CAFFE_CUDA").as_deref() {
        Err(_) | Ok("") if driver() => real(0, math, order),
        Err(_) | Ok("") => simulated_in(0, math, order),
        Ok("simulated") => {
            let none = |why| panic!("CAFFE_CUDA=simulated, but no simulated device: {why}");
            Ok(simulated_in(0, math, order).unwrap_or_else(none))
        }
        Ok("device") => {
            let none = |why| panic!("CAFFE_CUDA=device, but no CUDA device: {why}");
            Ok(real(0, math, order).unwrap_or_else(none))
        }
        Ok("none") => Err("CAFFE_CUDA=none".to_owned()),
        Ok(other) => panic!("CAFFE_CUDA is device, simulated or none, not `{other}`"),
    };
    match device {
        Ok(device) => {
            println!("on {}", device.describe());
            Some(CudaDevice(device))
        }
        Err(why) => {
            println!("skipped: no CUDA device ({why})");
            None
        }
    }
}

/// Whether this machine has a driver. Not by `probe`, which looks once for all.
fn driver() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| Library::Driver.open_in(&Places::of_process()).is_ok())
}

fn real(id: usize, math: Math, order: Order) -> Result<Rc<dyn Backend>, String> {
    probe().map_err(|why| why.to_string())?;
    match Nvidia::new(id, math, false) {
        Ok(device) => Ok(Rc::new(device.ordered(order))),
        Err(why) => Err(why.to_string()),
    }
}

/// Opens the simulated libraries in this process before anybody looks for others.
pub fn libraries() -> Result<(), String> {
    static OPENED: OnceLock<Result<(), String>> = OnceLock::new();
    let opened = OPENED.get_or_init(|| {
        let places = Places::default().with(simulated_cuda::install()?);
        for library in Library::ALL {
            // What was made for this must open.
            let found = library.open_in(&places).unwrap_or_else(|why| panic!("{why}"));
            let file = found.path.file_name();
            if file.is_none_or(|name| name != simulated_cuda::LIBRARY) {
                return Err(format!("{} of this machine is in the way", found.path.display()));
            }
        }
        Ok(())
    });
    opened.clone()
}

/// A device of the simulated driver. A call that no correct program makes ends the process.
pub fn simulated(id: usize, math: Math) -> Result<Rc<dyn Backend>, String> {
    simulated_in(id, math, math.order())
}

/// The same in this order.
pub fn simulated_in(id: usize, math: Math, order: Order) -> Result<Rc<dyn Backend>, String> {
    libraries()?;
    let handle = Library::Driver.open().map_err(|why| why.to_string())?.handle;
    // SAFETY: the function of the simulated library has this type, and no demands.
    unsafe { handle.get::<unsafe extern "C" fn()>(b"simulated_cuda_be_strict\0").unwrap()() };
    real(id, math, order)
}

/// From now on the simulated devices have so many bytes each, whoever uses them.
pub fn limit_memory(bytes: u64) {
    let handle = Library::Driver.open().unwrap().handle;
    type Limit = unsafe extern "C" fn(u64);
    // SAFETY: the function of the simulated library has this type, and no demands.
    unsafe { handle.get::<Limit>(b"simulated_cuda_limit_memory\0").unwrap()(bytes) };
}

/// Device number `id` of the simulated ones fails, whoever uses it.
pub fn break_device(id: usize) {
    let handle = Library::Driver.open().unwrap().handle;
    type Break = unsafe extern "C" fn(u32);
    // SAFETY: the function of the simulated library has this type, and no demands.
    unsafe { handle.get::<Break>(b"simulated_cuda_break\0").unwrap()(id as u32) };
}

/// Bytes that are taken of device number `id` when all that was asked for has been done: memory is given back
/// in its stream's order.
pub fn settled(device: &dyn Backend, id: usize) -> u64 {
    CudaContext::new(id).unwrap().synchronize().unwrap();
    device.taken().unwrap()
}

/// What a program needs in its environment so that `--gpu` means simulated devices. `None`, with a printed
/// line, where there are none.
pub fn environment() -> Option<Vec<(&'static str, OsString)>> {
    let folder = match simulated_cuda::install() {
        Ok(folder) => folder,
        Err(why) => {
            println!("skipped: no simulated CUDA device ({why})");
            return None;
        }
    };
    // Found as a user's libraries are, before whatever this machine has.
    let mut path = folder.clone().into_os_string();
    if let Some(others) = std::env::var_os("LD_LIBRARY_PATH") {
        path.push(":");
        path.push(others);
    }
    let cache = folder.join("cache").into_os_string();
    Some(vec![
        ("CAFFE_CUDA_LIBS", folder.into_os_string()),
        ("LD_LIBRARY_PATH", path),
        ("CAFFE_CACHE", cache),
    ])
}

/// What the simulated libraries say on stderr of a call that no correct program makes.
pub const VIOLATION: &str = "simulated CUDA: ";

/// Whether a device is software.
pub fn is_software(device: &CudaDevice) -> bool {
    device.0.describe().contains("Simulated")
}

/// The layer type that a net was refused for, if it was refused for having no CUDA code.
pub fn refused(error: &Error) -> Option<String> {
    let text = error.to_string();
    let (before, _) = text.split_once(" has no CUDA code")?;
    Some(before.rsplit(' ').next()?.to_owned())
}
