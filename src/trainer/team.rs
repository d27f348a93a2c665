//! [`Team`]: a replica's part in a node's devices that add gradients up among themselves.

use std::ops::Range;

use crate::Result;
use crate::device::cuda::CudaDevice;
use crate::device::cuda::clique::Attendance;
use crate::params::ParamArena;

/// One replica's part.
pub struct Team {
    device: CudaDevice,
    /// Whether the sums are this replica's to give.
    first: bool,
    /// Last, so that the device has left before the others may stop waiting for it.
    _attendance: Attendance,
}

impl Team {
    /// Lets a replica's device join, as number `local` of the node; returns when all have.
    ///
    /// # Errors
    /// A device that cannot, or another replica that has ended.
    pub fn join(attendance: Attendance, device: &CudaDevice, local: usize) -> Result<Team> {
        attendance.join(&*device.0, local)?;
        Ok(Team { device: device.clone(), first: local == 0, _attendance: attendance })
    }

    /// Adds up everybody's gradient of a part of the arena; whether this replica has the sum.
    ///
    /// # Errors
    /// A device that failed, or another replica that has ended.
    pub fn sum(&self, params: &mut ParamArena, part: &Range<usize>) -> Result<bool> {
        let at = params.diff_part_on(&self.device.0, part)?;
        self.device.0.sum_into_first(at, part.len())?;
        Ok(self.first)
    }
}
