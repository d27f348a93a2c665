//! Which device somebody wants: [`Choice`], which may go to the thread that will use it.

use std::fmt;
use std::rc::Rc;

use super::nvidia::Nvidia;
use super::{CudaDevice, Kind, Math};
use crate::Result;

/// A GPU to be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its number, as `caffe device_query` counts.
    pub id: usize,
    /// What it computes products with.
    pub math: Math,
}

impl Choice {
    /// What activations are stored as.
    pub fn kind(&self) -> Kind {
        self.math.kind()
    }

    /// Opens the device, for this thread. `exact`: the same sums in every run, where that costs something.
    ///
    /// # Errors
    /// A device or library that is not there; the message says what to do.
    pub fn open(&self, exact: bool) -> Result<CudaDevice> {
        Ok(CudaDevice(Rc::new(Nvidia::new(self.id, self.math, exact)?)))
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.math {
            Math::F32 => write!(f, "GPU {}", self.id),
            math => write!(f, "GPU {} in {}", self.id, math.name()),
        }
    }
}
