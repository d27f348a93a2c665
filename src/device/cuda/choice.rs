//! Which device somebody wants: [`Choice`], which may go to the thread that will use it.

use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;

use super::emulator::Emulator;
use super::nvidia::Nvidia;
use super::{CudaDevice, Kind, Math, Order};
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
        /// How its activations lie; [`Math::order`] says what is best.
        order: Order,
    },
    /// A device in software, for tests.
    Emulated {
        /// Its number.
        id: usize,
        /// Where it keeps compiled kernels.
        folder: PathBuf,
        /// What it stores activations as.
        kind: Kind,
    },
}

impl Choice {
    /// What activations are stored as.
    pub fn kind(&self) -> Kind {
        match self {
            Choice::Gpu { math, .. } => math.kind(),
            Choice::Emulated { kind, .. } => *kind,
        }
    }

    /// Opens the device, for this thread. `exact`: the same sums in every run, where that costs something.
    ///
    /// # Errors
    /// A device or library that is not there; the message says what to do.
    pub fn open(&self, exact: bool) -> Result<CudaDevice> {
        Ok(CudaDevice(match self {
            Choice::Gpu { id, math, order } => {
                Rc::new(Nvidia::new(*id, *math, exact)?.ordered(*order))
            }
            Choice::Emulated { folder, kind, .. } => Rc::new(Emulator::new(folder)?.storing(*kind)),
        }))
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Gpu { id, math, order } => {
                write!(f, "GPU {id}")?;
                if *math != Math::F32 {
                    write!(f, " in {}", math.name())?;
                }
                if *order == math.order() { Ok(()) } else { write!(f, " as {}", order.name()) }
            }
            Choice::Emulated { kind: Kind::F32, .. } => f.write_str("an emulated CUDA device"),
            Choice::Emulated { kind, .. } => {
                write!(f, "an emulated CUDA device in {}", kind.name())
            }
        }
    }
}
