//! What changes from pass to pass, in device memory ([`StepRecord`]), and what a pass has to report
//! ([`Report`]).
//!
//! A kernel whose argument depends on the iteration would make every pass another one. So it takes the
//! record's address, and the numbers are written there before the pass.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::backend::{Address, Backend, Queue};
use super::locked::Locked;
use super::memory::Memory;
use crate::Result;

/// The record as kernels see it; [`Now`] as words.
pub const TEXT: &str = r#"
// What changes from pass to pass.
struct Step {
  // Position of the batch's first record in the job's order of records.
  uint64 first_record;
  // What the loss is multiplied by before it is differentiated.
  float loss_scale;
  // In which of a data layer's two places its batch lies.
  uint32 place;
};
"#;

/// The record's numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Now {
    /// Position of the batch's first record in the job's order of records.
    pub first_record: u64,
    /// What the loss is multiplied by before it is differentiated.
    pub loss_scale: f32,
    /// In which of a data layer's two places its batch lies.
    pub place: u32,
}

/// Words of the record.
const WORDS: usize = 4;

impl Now {
    /// As [`TEXT`] lays it out, in words that may be anything but numbers.
    fn words(&self) -> [f32; WORDS] {
        let [low, high] = [self.first_record as u32, (self.first_record >> 32) as u32];
        [f32::from_bits(low), f32::from_bits(high), self.loss_scale, f32::from_bits(self.place)]
    }
}

/// The record, on a device.
pub struct StepRecord {
    there: Memory,
    here: RefCell<Locked>,
    /// What is there.
    now: Cell<Option<Now>>,
}

impl StepRecord {
    /// Nothing yet.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn new(device: &Rc<dyn Backend>) -> Result<StepRecord> {
        let there = Memory::new(device, WORDS)?;
        Ok(StepRecord {
            there,
            here: RefCell::new(Locked::new(device, WORDS)?),
            now: Cell::default(),
        })
    }

    /// Where it is, for kernels.
    pub fn at(&self) -> Address {
        self.there.at()
    }

    /// Writes it, for what is asked for from now on.
    ///
    /// # Errors
    /// A device that failed.
    pub fn write(&self, now: Now) -> Result<()> {
        if self.now.get() != Some(now) {
            let mut here = self.here.borrow_mut();
            here.values()?[..WORDS].copy_from_slice(&now.words());
            here.upload(Queue::Compute, WORDS, self.at())?;
            self.now.set(Some(now));
        }
        Ok(())
    }
}

/// What a pass reports.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reported {
    /// The loss, without its scale.
    pub loss: f32,
    /// The gradient's norm that was measured last; not finite where the loss is not.
    pub norm: f32,
    /// Whether a layer has met something that it cannot use.
    pub fault: bool,
}

/// Floats of a report: the loss, the norm, the factor that clips a gradient of that norm, and what is not 0
/// after a fault.
const FLOATS: usize = 4;

/// The report, which the host asks for once a pass and waits for when it needs it.
pub struct Report {
    device: Rc<dyn Backend>,
    there: Memory,
    here: RefCell<Locked>,
    /// Whether the newest has been asked for.
    asked: Cell<bool>,
    judged: Cell<bool>,
    /// What came back last, until the next is asked for.
    known: Cell<Option<Reported>>,
}

impl Report {
    /// A loss and a norm of zero.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn new(device: &Rc<dyn Backend>) -> Result<Report> {
        let there = Memory::new(device, FLOATS)?;
        there.upload(&[0.0, 0.0, 1.0, 0.0])?;
        let here = RefCell::new(Locked::new(device, FLOATS)?);
        let (asked, judged, known) = Default::default();
        Ok(Report { device: device.clone(), there, here, asked, judged, known })
    }

    /// Where the loss goes.
    pub fn loss(&self) -> Address {
        self.there.at()
    }

    /// Where the norm goes, and behind it the factor that clips.
    pub fn norm(&self) -> Address {
        self.there.at().plus(1)
    }

    /// Where somebody says that it has met something it cannot use. From then on every pass is asked for its
    /// report.
    pub fn fault(&self) -> Address {
        self.judged.set(true);
        self.fault_place()
    }

    /// The same place, for who only looks.
    pub fn fault_place(&self) -> Address {
        self.there.at().plus(3)
    }

    /// Whether somebody may say so.
    pub fn judged(&self) -> bool {
        self.judged.get()
    }

    /// Nobody has met anything yet.
    ///
    /// # Errors
    /// A device that failed.
    pub fn clear_fault(&self) -> Result<()> {
        self.device.zero(self.fault_place(), 1)
    }

    /// The device has been asked for something that will change it.
    pub fn changes(&self) {
        self.asked.set(false);
    }

    /// Asks for it, as it is when everything asked for before is done, unless that has been done.
    ///
    /// # Errors
    /// A device that failed.
    pub fn ask(&self) -> Result<()> {
        if self.asked.replace(true) {
            return Ok(());
        }
        self.known.set(None);
        self.here.borrow_mut().download(Queue::Compute, self.there.at(), FLOATS)
    }

    /// Waits for what was asked for last.
    ///
    /// # Errors
    /// A device that failed.
    pub fn get(&self) -> Result<Reported> {
        if let Some(known) = self.known.get() {
            return Ok(known);
        }
        let mut here = self.here.borrow_mut();
        let values = here.values()?;
        let reported = Reported { loss: values[0], norm: values[1], fault: values[3] != 0.0 };
        self.known.set(Some(reported));
        Ok(reported)
    }

    /// The device that reports.
    pub fn device(&self) -> &Rc<dyn Backend> {
        &self.device
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lie_as_the_kernels_read_them() {
        let now = Now { first_record: 0x1_0000_0002, loss_scale: 0.5, place: 1 };
        let bits = now.words().map(f32::to_bits);
        assert_eq!(bits, [2, 1, 0.5f32.to_bits(), 1]);
    }
}
