//! From the text of kernels to machine code: NVRTC, CUBIN for one architecture.
//!
//! CUBIN and not PTX: the driver loads it as it is, whatever PTX version it knows, and nothing is
//! compiled a second time. No device is needed. Not here: what is kept on disk (`cache`).
//!
//! ```
//! use caffe::device::cuda::Kind;
//! use caffe::device::cuda::compiler::{Architecture, Compiler};
//! use caffe::device::cuda::source::AXPY;
//!
//! match Compiler::open() {
//!     Ok(compiler) => {
//!         let code = compiler.compile(&AXPY, Kind::F32, Architecture { major: 9, minor: 0 })?;
//!         println!("NVRTC {} makes {} bytes", compiler.version(), code.len());
//!     }
//!     Err(why) => println!("{why}"),
//! }
//! # Ok::<(), caffe::device::cuda::compiler::Error>(())
//! ```

use std::ffi::CString;
use std::fmt;
use std::ptr;

use cudarc::nvrtc::result as nvrtc;
use cudarc::nvrtc::sys;

use super::kind::Kind;
use super::library::{Library, Missing, Version};
use super::source::Source;

/// What machine code is made for: the compute capability of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Architecture {
    /// Generation; code runs on devices of this one only.
    pub major: i32,
    /// Step within it; code runs on devices of this and higher steps.
    pub minor: i32,
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("sm_{}{}", self.major, self.minor))
    }
}

/// Why there is no machine code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// NVRTC is not there.
    #[error("kernels cannot be compiled: {0}")]
    Missing(#[from] Missing),
    /// The device is of a generation that this NVRTC does not know, or no longer.
    #[error(
        "NVRTC {version} makes no code for {wanted}, only for {}; install the NVRTC of another CUDA version",
        list(known)
    )]
    Architecture {
        /// Version of NVRTC.
        version: Version,
        /// What was asked for.
        wanted: Architecture,
        /// What it makes code for.
        known: Vec<Architecture>,
    },
    /// The text is no valid CUDA C++: a defect of the program.
    #[error("internal: kernels `{name}` do not compile for {architecture}:\n{log}")]
    Refused {
        /// Name of the source.
        name: &'static str,
        /// What it was compiled for.
        architecture: Architecture,
        /// Line of the source's own text, from 1, of the first error, where NVRTC gives one.
        line: Option<u32>,
        /// NVRTC's words.
        log: String,
    },
    /// A kernel that the source names is not in its text: a defect of the program.
    #[error("internal: kernels `{name}` have no `extern \"C\" __global__` function `{function}`")]
    Absent {
        /// Name of the source.
        name: &'static str,
        /// The kernel.
        function: &'static str,
    },
    /// NVRTC failed in some other way.
    #[error(
        "NVRTC {version}: {call} fails for kernels `{name}`: {code}; is it damaged? Install it again"
    )]
    Call {
        /// Version of NVRTC.
        version: Version,
        /// Name of the source.
        name: &'static str,
        /// The function that failed.
        call: &'static str,
        /// NVRTC's code.
        code: String,
    },
}

fn list(architectures: &[Architecture]) -> String {
    architectures.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// NVRTC, and what it makes code for. Any number of threads may compile at once.
#[derive(Clone, Debug)]
pub struct Compiler {
    version: Version,
    known: Vec<Architecture>,
}

impl Compiler {
    /// Opens NVRTC where this process finds it.
    ///
    /// # Errors
    /// [`Error::Missing`] where it is not, with the places and the fix.
    pub fn open() -> Result<Self, Error> {
        let version = Library::Nvrtc.open()?.version;
        let mut count = 0;
        // SAFETY: NVRTC is open; the call writes one int.
        let asked = unsafe { sys::nvrtcGetNumSupportedArchs(&mut count) };
        let mut numbers = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: as above; it writes as many ints as it has just said.
        let told = unsafe { sys::nvrtcGetSupportedArchs(numbers.as_mut_ptr()) };
        asked.result().and(told.result()).map_err(|code| Error::Call {
            version,
            name: "",
            call: "nvrtcGetSupportedArchs",
            code: code.to_string(),
        })?;
        let known = numbers.iter().map(|n| Architecture { major: n / 10, minor: n % 10 }).collect();
        Ok(Compiler { version, known })
    }

    /// Version of NVRTC.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The architecture to compile for so that a device of this compute capability runs the code:
    /// its own, or the nearest one below of its generation.
    ///
    /// # Errors
    /// [`Error::Architecture`] where NVRTC knows none of that generation.
    pub fn architecture(&self, (major, minor): (i32, i32)) -> Result<Architecture, Error> {
        let wanted = Architecture { major, minor };
        let below = |known: &&Architecture| known.major == major && known.minor <= minor;
        self.known.iter().filter(below).max().copied().ok_or_else(|| Error::Architecture {
            version: self.version,
            wanted,
            known: self.known.clone(),
        })
    }

    /// What NVRTC is told besides the text. Results of fast math differ from the CPU's: never.
    pub fn options(architecture: Architecture) -> [String; 6] {
        [
            format!("--gpu-architecture={architecture}"),
            "--std=c++17".to_owned(),
            "-default-device".to_owned(),
            "--ftz=false".to_owned(),
            "--prec-div=true".to_owned(),
            "--prec-sqrt=true".to_owned(),
        ]
    }

    /// CUBIN of a source's kernels, with `real` in this kind.
    ///
    /// # Errors
    /// [`Error::Refused`] with NVRTC's log, [`Error::Absent`] where a function is not in the code,
    /// [`Error::Architecture`], [`Error::Call`].
    pub fn compile(
        &self,
        source: &Source,
        kind: Kind,
        architecture: Architecture,
    ) -> Result<Vec<u8>, Error> {
        if !self.known.contains(&architecture) {
            let known = self.known.clone();
            return Err(Error::Architecture { version: self.version, wanted: architecture, known });
        }
        let failed = |call| {
            move |code: nvrtc::NvrtcError| Error::Call {
                version: self.version,
                name: source.name,
                call,
                code: code.to_string(),
            }
        };
        let program = Program::new(source, kind).map_err(failed("nvrtcCreateProgram"))?;
        match program.compile(&Self::options(architecture)) {
            Err(nvrtc::NvrtcError(sys::nvrtcResult::NVRTC_ERROR_COMPILATION)) => {
                let log = program.log();
                let line = line_of(&log, source.name);
                return Err(Error::Refused { name: source.name, architecture, line, log });
            }
            other => other.map_err(failed("nvrtcCompileProgram"))?,
        }
        let code = program.cubin().map_err(failed("nvrtcGetCUBIN"))?;
        match source.functions.iter().find(|function| !holds(&code, function)) {
            Some(function) => Err(Error::Absent { name: source.name, function }),
            None => Ok(code),
        }
    }
}

/// Whether machine code has a kernel of this name: each has a section of its own, `.text.NAME`.
pub fn holds(code: &[u8], function: &str) -> bool {
    let section = format!(".text.{function}\0");
    code.windows(section.len()).any(|bytes| bytes == section.as_bytes())
}

/// The line of the first error in `NAME.cu(LINE): error: …`.
fn line_of(log: &str, name: &str) -> Option<u32> {
    let start = format!("{name}.cu(");
    log.lines().find_map(|line| {
        let (number, rest) = line.strip_prefix(&start)?.split_once(')')?;
        rest.starts_with(": error").then(|| number.parse().ok())?
    })
}

/// A text in NVRTC's hands.
struct Program {
    handle: sys::nvrtcProgram,
    // NVRTC may keep pointers to both.
    _text: CString,
    _name: CString,
}

impl Program {
    fn new(source: &Source, kind: Kind) -> Result<Self, nvrtc::NvrtcError> {
        let no_zero = |_| nvrtc::NvrtcError(sys::nvrtcResult::NVRTC_ERROR_INVALID_INPUT);
        let text = CString::new(source.assembled(kind)).map_err(no_zero)?;
        let name = CString::new(format!("{}.cu", source.name)).map_err(no_zero)?;
        let handle = nvrtc::create_program(&text, Some(&name))?;
        Ok(Program { handle, _text: text, _name: name })
    }

    fn compile(&self, options: &[String]) -> Result<(), nvrtc::NvrtcError> {
        // SAFETY: the handle is alive; the options are kept by the callee for the call.
        unsafe { nvrtc::compile_program(self.handle, options) }
    }

    fn log(&self) -> String {
        // SAFETY: the handle is alive, and a compilation has been tried.
        let bytes = unsafe { nvrtc::get_program_log(self.handle) }.unwrap_or_default();
        let bytes: Vec<u8> = bytes.into_iter().map(|c| c as u8).collect();
        String::from_utf8_lossy(&bytes).trim_end_matches(['\0', '\n']).to_owned()
    }

    fn cubin(&self) -> Result<Vec<u8>, nvrtc::NvrtcError> {
        let mut size = 0;
        // SAFETY: the handle is alive and compiled; the call writes one number.
        unsafe { sys::nvrtcGetCUBINSize(self.handle, ptr::from_mut(&mut size)) }.result()?;
        let mut code = vec![0u8; size];
        // SAFETY: as above; it writes as many bytes as it has just said.
        unsafe { sys::nvrtcGetCUBIN(self.handle, code.as_mut_ptr().cast()) }.result()?;
        Ok(code)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: made by create_program, destroyed once. A failure leaves some memory behind.
        let _ = unsafe { nvrtc::destroy_program(self.handle) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn sm(number: i32) -> Architecture {
        Architecture { major: number / 10, minor: number % 10 }
    }

    fn compiler() -> Compiler {
        let known = [75, 80, 86, 90, 100, 120].map(sm).to_vec();
        Compiler { version: Version { major: 13, minor: 0, patch: None }, known }
    }

    #[test]
    fn a_device_gets_code_of_its_generation() {
        let best = |capability| compiler().architecture(capability);
        assert_eq!(best((8, 6)), Ok(sm(86)));
        assert_eq!(best((8, 9)), Ok(sm(86)));
        assert_eq!(best((12, 1)), Ok(sm(120)));
        let error = best((7, 0)).unwrap_err().to_string();
        assert!(
            error.starts_with("NVRTC 13.0 makes no code for sm_70, only for sm_75, "),
            "{error}"
        );
        assert!(best((11, 0)).is_err());
        assert_eq!(sm(120).to_string(), "sm_120");
    }

    #[test]
    fn the_line_of_the_first_error() {
        let log = "prelude.cu(9): warning: x\nrelu.cu(2): warning: y\nrelu.cu(7): error: z\n  code";
        assert_eq!(line_of(log, "relu"), Some(7));
        assert_eq!(line_of(log, "lrn"), None);
    }

    #[test]
    fn kernels_are_known_by_their_sections() {
        let code = b"\x7fELF\0.shstrtab\0.text.axpy\0.nv.info\0";
        assert!(holds(code, "axpy") && !holds(code, "axp") && !holds(code, "axpy2"));
        assert!(!holds(b"", "axpy"));
    }
}
