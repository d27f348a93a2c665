//! [`Clique`]: GPUs of one process that add arrays up among themselves by NCCL, over links of their own,
//! instead of each by way of the host.
//!
//! Made before the devices' threads start. Each thread [attends](Clique::attend) first, so that nobody
//! waits for one that never comes, and its device then joins ([`Backend::join`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::backend::Backend;
use super::choice::Choice;
use super::library::Library;
use super::nvidia::nccl::Invitation;
use crate::{Result, bail};

/// The devices, as all of them know it.
pub struct Clique {
    /// The members' numbers, as `caffe device_query` counts.
    devices: Vec<usize>,
    /// A member has gone: whoever waits for it is to give up.
    broken: AtomicBool,
    invitation: Invitation,
}

impl Clique {
    /// Of these devices; `None` where they have no reason to meet: fewer than two, one of them twice, or
    /// no NCCL to be found.
    ///
    /// # Errors
    /// An NCCL that does not start.
    pub fn of(devices: &[Choice]) -> Result<Option<Arc<Clique>>> {
        let twice = (1..devices.len()).any(|i| devices[..i].contains(&devices[i]));
        if devices.len() < 2 || twice || Library::Nccl.open().is_err() {
            return Ok(None);
        }
        Ok(Some(Arc::new(Clique {
            devices: devices.iter().map(|choice| choice.id).collect(),
            broken: AtomicBool::new(false),
            invitation: Invitation::new()?,
        })))
    }

    /// Number of members.
    pub fn members(&self) -> usize {
        self.devices.len()
    }

    /// Their devices' numbers.
    pub(super) fn devices(&self) -> &[usize] {
        &self.devices
    }

    /// To be held by a member's thread as long as the others may count on it.
    pub fn attend(self: &Arc<Clique>) -> Attendance {
        Attendance(self.clone())
    }

    /// What members find one another by.
    pub(super) fn invitation(&self) -> &Invitation {
        &self.invitation
    }

    /// Whether everybody can still come.
    ///
    /// # Errors
    /// When somebody has gone.
    pub(super) fn check(&self) -> Result<()> {
        match self.broken.load(Ordering::Acquire) {
            false => Ok(()),
            true => bail!(
                "another replica of this node, whose gradients are added to this one's, has ended"
            ),
        }
    }
}

/// A member's word that it takes part; when it is dropped, nobody waits for the member any longer.
pub struct Attendance(Arc<Clique>);

impl Attendance {
    /// Lets a device join.
    ///
    /// # Errors
    /// A device that cannot, or others that have gone.
    pub fn join(&self, device: &dyn Backend, member: usize) -> Result<()> {
        device.join(&self.0, member)
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.0.broken.store(true, Ordering::Release);
    }
}
