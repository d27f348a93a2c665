//! The CUDA device that tests run on, and the layer types that have no code for one.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use caffe::Error;
use caffe::device::cuda::backend::Backend;
use caffe::device::cuda::emulator::Emulator;
use caffe::device::cuda::nvidia::Nvidia;
use caffe::device::cuda::{CudaDevice, Math, probe};

/// What the emulator says it is, with its precision.
const EMULATED: &str = "an emulated CUDA device";

/// Layer types that compute and have no CUDA code: none. One that is written without stands here until it
/// gets some: tests fail when a type has none and is not listed, and when it is listed and has some.
pub const WITHOUT_CODE: &[&str] = &[];

/// A device of the caller's own: device 0 where there is a driver and a device, else an emulated one.
/// `CAFFE_CUDA` chooses: `device` (a failure where there is none), `emulated`, or `none`.
/// `None`, with a printed line, where there is nothing to run on.
pub fn device() -> Option<CudaDevice> {
    device_with(Math::F32)
}

/// The same, computing with this.
pub fn device_with(math: Math) -> Option<CudaDevice> {
    let device = match std::env::var("CAFFE_CUDA").as_deref() {
        Err(_) | Ok("") => real(math).or_else(|why| emulated(math, &format!("{why}, and "))),
        Ok("device") => {
            let found = real(math);
            Ok(found.unwrap_or_else(|why| panic!("CAFFE_CUDA=device, but no CUDA device: {why}")))
        }
        Ok("emulated") => emulated(math, ""),
        Ok("none") => Err("CAFFE_CUDA=none".to_owned()),
        Ok(other) => panic!("CAFFE_CUDA is device, emulated or none, not `{other}`"),
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

fn real(math: Math) -> Result<Rc<dyn Backend>, String> {
    probe().map_err(|why| why.to_string())?;
    match Nvidia::new(0, math) {
        Ok(device) => Ok(Rc::new(device)),
        Err(why) => Err(why.to_string()),
    }
}

/// `before` stands before what goes wrong.
fn emulated(math: Math, before: &str) -> Result<Rc<dyn Backend>, String> {
    match Emulator::new(&kernels()) {
        Ok(device) => Ok(Rc::new(device.storing(math.kind()))),
        Err(why) => Err(format!("{before}{why}")),
    }
}

/// Whether a device is software.
pub fn is_emulated(device: &CudaDevice) -> bool {
    device.0.describe().starts_with(EMULATED)
}

/// Where the emulator keeps compiled kernels: among the build's files, unless the tests were built
/// elsewhere.
fn kernels() -> PathBuf {
    let folder = match std::env::var_os("CAFFE_REPOSITORY") {
        Some(_) => std::env::temp_dir(),
        None => Path::new(env!("CARGO_TARGET_TMPDIR")).into(),
    };
    folder.join("emulated-kernels")
}

/// The layer type that a net was refused for, if it was refused for having no CUDA code.
pub fn refused(error: &Error) -> Option<String> {
    let text = error.to_string();
    let (before, _) = text.split_once(" has no CUDA code")?;
    Some(before.rsplit(' ').next()?.to_owned())
}
