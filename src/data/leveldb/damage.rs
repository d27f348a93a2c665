//! Damage to a database file: what is wrong, in which file, at which byte.
//!
//! rusty-leveldb steps over damaged blocks in silence, so the places that check bytes cannot only
//! return an error: they also leave it in a [`FaultCell`] that the cursor looks at after every
//! step.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// One damaged or unreadable place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) file: PathBuf,
    pub(super) offset: u64,
    pub(super) what: String,
}

impl Damage {
    pub(super) fn new(file: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), offset, what: what.into() }
    }

    /// The same as the status rusty-leveldb passes around.
    pub(super) fn status(&self) -> rusty_leveldb::Status {
        let text = format!("{}: {} at byte {}", self.file.display(), self.what, self.offset);
        rusty_leveldb::Status::new(rusty_leveldb::StatusCode::Corruption, &text)
    }
}

impl From<Damage> for crate::data::DataError {
    fn from(damage: Damage) -> Self {
        let Damage { file, offset, what } = damage;
        Self::Corrupt { file, offset, what }
    }
}

/// The first damage met through one opened database; it stays.
#[derive(Debug, Clone, Default)]
pub(super) struct FaultCell(Rc<RefCell<Option<Damage>>>);

impl FaultCell {
    /// Keeps `damage` unless something was there first, and gives it back as a status.
    pub(super) fn report(&self, damage: Damage) -> rusty_leveldb::Status {
        let status = damage.status();
        self.0.borrow_mut().get_or_insert(damage);
        status
    }

    /// `Err` once anything was reported.
    pub(super) fn check(&self) -> Result<(), Damage> {
        match self.0.borrow().as_ref() {
            None => Ok(()),
            Some(damage) => Err(damage.clone()),
        }
    }
}
