//! Which device somebody wants: [`Choice`], which may go to the thread that will use it.

use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;

use super::CudaDevice;
use super::emulator::Emulator;
use super::nvidia::{Math, Nvidia};
use crate::Result;

/// A device to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// A GPU.
    Gpu {
        /// Its number, as `caffe device_query` counts.
        id: usize,
        /// What it computes products with.
        math: Math,
    },
    /// A device in software, for tests.
    Emulated {
        /// Its number.
        id: usize,
        /// Where it keeps compiled kernels.
        folder: PathBuf,
    },
}

impl Choice {
    /// Opens the device, for this thread.
    ///
    /// # Errors
    /// A device or library that is not there; the message says what to do.
    pub fn open(&self) -> Result<CudaDevice> {
        Ok(CudaDevice(match self {
            Choice::Gpu { id, math } => Rc::new(Nvidia::new(*id, *math)?),
            Choice::Emulated { folder, .. } => Rc::new(Emulator::new(folder)?),
        }))
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Gpu { id, math: Math::F32 } => write!(f, "GPU {id}"),
            Choice::Gpu { id, math: Math::Tf32 } => write!(f, "GPU {id} in TF32"),
            Choice::Emulated { .. } => f.write_str("an emulated CUDA device"),
        }
    }
}
