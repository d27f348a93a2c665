//! CUDA's libraries: found, opened once, and left open, so that cudarc finds them by name.
//!
//! cudarc opens libraries by bare names such as `libcudnn.so.9`, which the loader looks for in its own
//! path only, and panics where there is none. [`Library::open`] comes first: it looks in more places
//! ([`Places`]), opens by absolute path with everything the library will itself look for, and says
//! what is missing as a value. No device is touched. NCCL is opened too, but cudarc does not try its
//! name: take its functions from [`Found::handle`].
//!
//! ```
//! use caffe::device::cuda::library::Library;
//!
//! match Library::Nvrtc.open() {
//!     Ok(found) => println!("NVRTC {} in {}", found.version, found.path.display()),
//!     Err(missing) => println!("{missing}"),
//! }
//! ```

mod open;
mod places;

use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;

pub use places::Places;

/// A library of CUDA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// The driver, libcuda.
    Driver,
    /// The compiler of kernels.
    Nvrtc,
    /// Matrix products with fused epilogues; cuBLAS needs it.
    CublasLt,
    /// Matrix products.
    Cublas,
    /// Convolution, pooling and more.
    Cudnn,
    /// Communication between devices.
    Nccl,
}

/// Version of a library, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Major number.
    pub major: i32,
    /// Minor number.
    pub minor: i32,
    /// Patch, from libraries that tell.
    pub patch: Option<i32>,
}

/// A library that is open, for good.
#[derive(Clone, Debug)]
pub struct Found {
    /// The file, links resolved where possible.
    pub path: PathBuf,
    /// What it says of itself; the driver gives the CUDA version it supports.
    pub version: Version,
    /// For functions that cudarc does not offer.
    pub handle: &'static libloading::Library,
}

/// A library that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} {} (looked for {} in {places}); {fix}",
    library.name(), self.reason(), library.sonames(None).join(", ")
)]
pub struct Missing {
    /// Which.
    pub library: Library,
    /// Where it was looked for.
    pub places: Places,
    /// Files that were found and refused, with the reason.
    pub refused: Vec<String>,
    /// What to do.
    pub fix: String,
}

impl Missing {
    /// Why, without the places and the fix.
    pub fn reason(&self) -> String {
        match self.refused.as_slice() {
            [] => "not found".to_owned(),
            refused => format!("cannot be used: {}", refused.join("; ")),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        self.patch.map_or(Ok(()), |patch| write!(f, ".{patch}"))
    }
}

impl Library {
    /// All, in the order in which they need one another.
    pub const ALL: [Library; 6] = [
        Library::Driver,
        Library::Nvrtc,
        Library::CublasLt,
        Library::Cublas,
        Library::Cudnn,
        Library::Nccl,
    ];

    /// All but the driver: what is installed beside it.
    pub const BESIDE_DRIVER: [Library; 5] =
        [Library::Nvrtc, Library::CublasLt, Library::Cublas, Library::Cudnn, Library::Nccl];

    /// NVIDIA's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Library::Driver => "CUDA driver",
            Library::Nvrtc => "NVRTC",
            Library::CublasLt => "cuBLASLt",
            Library::Cublas => "cuBLAS",
            Library::Cudnn => "cuDNN",
            Library::Nccl => "NCCL",
        }
    }

    /// Opens the library where this process finds it. Only the first call does any work.
    ///
    /// # Errors
    /// [`Missing`] where there is none that can be opened; the message says what to install.
    pub fn open(self) -> Result<&'static Found, Missing> {
        static OPENED: [OnceLock<Result<Found, Missing>>; Library::ALL.len()] =
            [const { OnceLock::new() }; Library::ALL.len()];
        OPENED[self as usize]
            .get_or_init(|| self.open_in(&Places::of_process()))
            .as_ref()
            .map_err(Clone::clone)
    }

    /// Opens the library from `places`. A library is open for the whole process: later calls, with
    /// whatever places, meet it again unless the loader's path has another of the same name.
    ///
    /// # Errors
    /// As [`Library::open`].
    pub fn open_in(self, places: &Places) -> Result<Found, Missing> {
        // What this one will look for by bare name. Whether it can do without is for it to say.
        for needed in self.needs() {
            let _ = needed.open_in(places);
        }
        // Libraries of a newer CUDA than the driver's do not run, those of an older one do.
        let driver = match self {
            Library::Driver => None,
            _ => Library::Driver.open().ok().map(|driver| driver.version.major),
        };
        open::first(self, places, driver).map_err(|refused| Missing {
            library: self,
            places: places.clone(),
            refused,
            fix: self.fix(driver),
        })
    }

    fn needs(self) -> &'static [Library] {
        match self {
            Library::Cublas => &[Library::CublasLt],
            Library::Cudnn => &[Library::CublasLt, Library::Nvrtc],
            _ => &[],
        }
    }

    /// File names looked for, the best first, for a driver of this major version.
    fn sonames(self, driver: Option<i32>) -> Vec<String> {
        let stem = self.stem();
        let majors: &[i32] = match self {
            Library::Driver => &[1],
            Library::Cudnn => &[9],
            Library::Nccl => &[2],
            _ if driver == Some(12) => &[12, 13],
            _ => &[13, 12],
        };
        majors.iter().map(|major| format!("lib{stem}.so.{major}")).collect()
    }

    fn stem(self) -> &'static str {
        match self {
            Library::Driver => "cuda",
            Library::Nvrtc => "nvrtc",
            Library::CublasLt => "cublasLt",
            Library::Cublas => "cublas",
            Library::Cudnn => "cudnn",
            Library::Nccl => "nccl",
        }
    }

    /// What to do where the library is missing.
    fn fix(self, driver: Option<i32>) -> String {
        let old = driver == Some(12);
        let package = match self {
            Library::Driver => {
                return "install NVIDIA's driver, or set LD_LIBRARY_PATH if it is installed elsewhere"
                    .into();
            }
            Library::Nvrtc if old => "nvidia-cuda-nvrtc-cu12",
            Library::Nvrtc => "nvidia-cuda-nvrtc",
            Library::CublasLt | Library::Cublas if old => "nvidia-cublas-cu12",
            Library::CublasLt | Library::Cublas => "nvidia-cublas",
            Library::Cudnn if old => "nvidia-cudnn-cu12",
            Library::Cudnn => "nvidia-cudnn-cu13",
            Library::Nccl if old => "nvidia-nccl-cu12",
            Library::Nccl => "nvidia-nccl-cu13",
        };
        format!("pip install {package}, or name the folder that has it in CAFFE_CUDA_LIBS")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_fix() {
        let places = Places::default().with("/nowhere");
        let fix = Library::Cudnn.fix(None);
        let missing = Missing { library: Library::Cudnn, places, refused: Vec::new(), fix };
        assert_eq!(
            missing.to_string(),
            "cuDNN not found (looked for libcudnn.so.9 in /nowhere, the loader's path); pip install \
             nvidia-cudnn-cu13, or name the folder that has it in CAFFE_CUDA_LIBS"
        );
        let refused = vec!["/nowhere/libcudnn.so.9: no".to_owned()];
        let missing = Missing { refused, ..missing };
        assert_eq!(missing.reason(), "cannot be used: /nowhere/libcudnn.so.9: no");
        assert!(missing.to_string().contains(&missing.reason()), "{missing}");
    }

    #[test]
    fn an_old_driver_wants_old_libraries() {
        assert_eq!(Library::Nvrtc.sonames(Some(12)), ["libnvrtc.so.12", "libnvrtc.so.13"]);
        assert_eq!(Library::Nvrtc.sonames(Some(13)), ["libnvrtc.so.13", "libnvrtc.so.12"]);
        for library in &Library::ALL[1..] {
            assert!(library.fix(Some(12)).contains("-cu12,"), "{library:?}");
            assert!(!library.fix(Some(13)).contains("cu12"), "{library:?}");
        }
    }

    #[test]
    fn versions_as_people_write_them() {
        let version = Version { major: 9, minor: 10, patch: None };
        assert_eq!(version.to_string(), "9.10");
        assert_eq!(Version { patch: Some(2), ..version }.to_string(), "9.10.2");
    }
}
