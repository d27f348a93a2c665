//! [`Clique`]: devices of one process that add arrays up among themselves, over links of their own,
//! instead of each by way of the host.
//!
//! Made before the devices' threads start. Each thread [attends](Clique::attend) first, so that nobody
//! waits for one that never comes, and its device then joins ([`Backend::join`]). A GPU's members meet by
//! NCCL, those of emulated devices here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::backend::Backend;
use super::choice::Choice;
use super::library::Library;
use super::nvidia::nccl::Invitation;
use crate::{Error, Result, bail};

/// How long somebody waits before looking whether the others are still there.
const PATIENCE: Duration = Duration::from_millis(20);

/// The devices, as all of them know it.
pub struct Clique {
    members: usize,
    /// A member has gone: whoever waits for it is to give up.
    broken: AtomicBool,
    /// What GPUs join by; `None`: emulated ones.
    invitation: Option<Invitation>,
    /// Arrays that emulated members have brought and the first has not yet taken, of each member.
    brought: Mutex<Vec<VecDeque<Vec<f32>>>>,
    more: Condvar,
}

impl Clique {
    /// Of these devices; `None` where they have no reason to meet: fewer than two, one of them twice, or
    /// no NCCL to be found.
    ///
    /// # Errors
    /// An NCCL that does not start.
    pub fn of(devices: &[Choice]) -> Result<Option<Arc<Clique>>> {
        let twice = (1..devices.len()).any(|i| devices[..i].contains(&devices[i]));
        if devices.len() < 2 || twice {
            return Ok(None);
        }
        let emulated = devices.iter().any(|device| matches!(device, Choice::Emulated { .. }));
        if !emulated && Library::Nccl.open().is_err() {
            return Ok(None);
        }
        let invitation = if emulated { None } else { Some(Invitation::new()?) };
        Ok(Some(Arc::new(Clique {
            members: devices.len(),
            broken: AtomicBool::new(false),
            invitation,
            brought: Mutex::new(vec![VecDeque::new(); devices.len()]),
            more: Condvar::new(),
        })))
    }

    /// Number of members.
    pub fn members(&self) -> usize {
        self.members
    }

    /// To be held by a member's thread as long as the others may count on it.
    pub fn attend(self: &Arc<Clique>) -> Attendance {
        Attendance(self.clone())
    }

    /// What GPUs join by.
    pub(super) fn invitation(&self) -> Option<&Invitation> {
        self.invitation.as_ref()
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

    /// An emulated member brings an array; the first gets the sum, in members' order, when all have.
    pub(super) fn bring(&self, member: usize, array: Vec<f32>) -> Result<Option<Vec<f32>>> {
        let mut brought = self.brought.lock();
        match brought.get_mut(member) {
            Some(queue) => queue.push_back(array),
            None => bail!("internal: a clique of {} has no member {member}", self.members),
        }
        self.more.notify_all();
        if member > 0 {
            return Ok(None);
        }
        while brought.iter().any(VecDeque::is_empty) {
            self.check()?;
            self.more.wait_for(&mut brought, PATIENCE);
        }
        let mut arrays = brought.iter_mut().filter_map(VecDeque::pop_front);
        let mut sum = arrays.next().unwrap_or_default();
        for array in arrays {
            if array.len() != sum.len() {
                return Err(Error::Invalid(format!(
                    "internal: members of a clique brought {} and {} floats",
                    sum.len(),
                    array.len()
                )));
            }
            sum.iter_mut().zip(array).for_each(|(sum, value)| *sum += value);
        }
        Ok(Some(sum))
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
        self.0.more.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::device::cuda::Kind;

    fn clique(members: usize) -> Arc<Clique> {
        let device = |id| Choice::Emulated { id, folder: PathBuf::new(), kind: Kind::F32 };
        Clique::of(&(0..members).map(device).collect::<Vec<_>>()).unwrap().unwrap()
    }

    #[test]
    fn only_several_devices_that_differ_meet() {
        let device = Choice::Emulated { id: 0, folder: PathBuf::new(), kind: Kind::F32 };
        assert!(Clique::of(&[]).unwrap().is_none());
        assert!(Clique::of(std::slice::from_ref(&device)).unwrap().is_none());
        assert!(Clique::of(&[device.clone(), device]).unwrap().is_none());
        assert_eq!(clique(3).members(), 3);
    }

    #[test]
    fn the_first_gets_sums_in_the_order_in_which_arrays_were_brought() {
        let clique = clique(3);
        let sums = std::thread::scope(|scope| {
            for member in [2, 1] {
                let clique = &clique;
                scope.spawn(move || {
                    for round in 0..50 {
                        let array = vec![(member * 100 + round) as f32; 3];
                        assert!(clique.bring(member, array).unwrap().is_none());
                    }
                });
            }
            (0..50).map(|_| clique.bring(0, vec![1.0; 3]).unwrap().unwrap()[2]).collect::<Vec<_>>()
        });
        assert_eq!(sums, (0..50).map(|round| (301 + 2 * round) as f32).collect::<Vec<_>>());
    }

    #[test]
    fn nobody_waits_for_a_member_that_has_gone() {
        let clique = clique(2);
        let other = clique.attend();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| clique.bring(0, vec![1.0]));
            std::thread::sleep(Duration::from_millis(5));
            drop(other);
            let error = first.join().unwrap().unwrap_err().to_string();
            assert!(error.contains("has ended"), "{error}");
        });
    }
}
