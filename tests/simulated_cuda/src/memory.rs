//! Memory of devices, which lies on the host, and page-locked memory of the host.
//!
//! Full of ones when allocated and when freed: NaN in every floating type. A freed block stays for a while, so
//! that whoever still uses it reads NaN and does not crash.

use std::alloc::{Layout, alloc, dealloc};
use std::collections::{BTreeMap, VecDeque};

use cudarc::driver::sys::CUresult;

use crate::places;
use crate::world::Fault;

/// Bytes before and behind an allocation, and the alignment of allocations.
const GUARD: usize = 256;
/// Bytes of freed memory that are kept.
const KEPT: usize = 64 << 20;
/// What memory is full of.
pub const NOTHING: u8 = 0xff;

struct Block {
    bytes: usize,
    /// The device, or `None` for page-locked memory.
    device: Option<usize>,
    /// What to give back; none for memory of the caller's that was registered.
    raw: Option<(*mut u8, Layout)>,
}

// SAFETY: a block's memory belongs to no thread; everything here is behind one lock.
unsafe impl Send for Block {}

/// All of it.
pub struct Memory {
    blocks: BTreeMap<u64, Block>,
    freed: VecDeque<(u64, Block)>,
    used: Vec<usize>,
    limit: usize,
}

fn fault(code: CUresult, why: String) -> Fault {
    Fault::new(code, why)
}

impl Memory {
    /// None yet, of so many devices with so many bytes each.
    pub fn new(devices: usize, limit: usize) -> Memory {
        let (blocks, freed) = Default::default();
        Memory { blocks, freed, used: vec![0; devices], limit }
    }

    /// So many bytes a device from now on.
    pub fn limit(&mut self, bytes: usize) {
        self.limit = bytes;
    }

    /// Bytes of a device that are free, and all.
    pub fn room(&self, device: usize) -> (usize, usize) {
        (self.limit - self.used[device].min(self.limit), self.limit)
    }

    /// Memory of a device, or page-locked.
    pub fn allocate(&mut self, device: Option<usize>, bytes: usize) -> Result<u64, Fault> {
        if bytes == 0 {
            return Err(fault(CUresult::CUDA_ERROR_INVALID_VALUE, "zero bytes asked for".into()));
        }
        let none = || Fault::fair(CUresult::CUDA_ERROR_OUT_OF_MEMORY, format!("{bytes} bytes"));
        if device.is_some_and(|device| self.room(device).0 < bytes) {
            return Err(none());
        }
        let whole = bytes.next_multiple_of(GUARD) + 2 * GUARD;
        let layout = Layout::from_size_align(whole, GUARD).map_err(|_| none())?;
        // SAFETY: the size is not zero.
        let raw = unsafe { alloc(layout) };
        if raw.is_null() {
            return Err(none());
        }
        places::fill(raw as u64, NOTHING, whole);
        let at = raw as u64 + GUARD as u64;
        self.blocks.insert(at, Block { bytes, device, raw: Some((raw, layout)) });
        if let Some(device) = device {
            self.used[device] += bytes;
        }
        Ok(at)
    }

    /// Notes page-locked memory of the caller's.
    pub fn register(&mut self, at: u64, bytes: usize) -> Result<(), Fault> {
        let before = self.blocks.range(..at + bytes as u64).next_back();
        if bytes == 0 || before.is_some_and(|(start, block)| start + block.bytes as u64 > at) {
            let why = format!("{at:#x} is registered already, or empty");
            return Err(fault(CUresult::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, why));
        }
        self.blocks.insert(at, Block { bytes, device: None, raw: None });
        Ok(())
    }

    /// Forgets it.
    pub fn unregister(&mut self, at: u64) -> Result<(), Fault> {
        match self.blocks.get(&at) {
            Some(Block { device: None, raw: None, .. }) => drop(self.blocks.remove(&at)),
            _ => {
                let why = format!("{at:#x} is not registered");
                return Err(fault(CUresult::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, why));
            }
        }
        Ok(())
    }

    /// Gives back an allocation of a device's or, with `device` false, of page-locked memory.
    pub fn free(&mut self, at: u64, device: bool) -> Result<(), Fault> {
        let known = |block: &Block| block.device.is_some() == device && block.raw.is_some();
        if !self.blocks.get(&at).is_some_and(known) {
            let why = format!("{at:#x} is no such allocation{}", self.past(at));
            return Err(fault(CUresult::CUDA_ERROR_INVALID_VALUE, why));
        }
        let intact = self.intact(at);
        if let Some(block) = self.blocks.remove(&at) {
            if let Some(device) = block.device {
                self.used[device] -= block.bytes;
            }
            places::fill(at, NOTHING, block.bytes);
            self.freed.push_back((at, block));
            self.forget(KEPT);
        }
        intact
    }

    /// Gives the oldest freed blocks back until so many bytes are kept.
    fn forget(&mut self, keep: usize) {
        let mut held: usize = self.freed.iter().map(|(_, block)| block.bytes).sum();
        while held > keep
            && let Some((_, block)) = self.freed.pop_front()
        {
            held -= block.bytes;
            if let Some((raw, layout)) = block.raw {
                // SAFETY: from `alloc` with this layout, given back once.
                unsafe { dealloc(raw, layout) };
            }
        }
    }

    fn past(&self, at: u64) -> &'static str {
        let in_it =
            |(start, block): &(u64, Block)| (*start..start + block.bytes as u64).contains(&at);
        if self.freed.iter().any(in_it) { ": it was freed" } else { "" }
    }

    fn holder(&self, at: u64) -> Option<(u64, &Block)> {
        let (start, block) = self.blocks.range(..=at).next_back()?;
        (at <= start + block.bytes as u64).then_some((*start, block))
    }

    /// Bytes of the allocation that starts here.
    pub fn size(&self, at: u64) -> usize {
        self.blocks.get(&at).map_or(0, |block| block.bytes)
    }

    /// Whether so many bytes from `at` are memory that a device reaches.
    pub fn check(&self, at: u64, bytes: usize) -> Result<(), Fault> {
        let why = match self.holder(at) {
            Some((start, block)) if at + bytes as u64 <= start + block.bytes as u64 => {
                return Ok(());
            }
            Some((start, block)) => {
                format!("{bytes} bytes from byte {} of {} allocated", at - start, block.bytes)
            }
            None => format!("{bytes} bytes at {at:#x}, which is no memory{}", self.past(at)),
        };
        Err(fault(CUresult::CUDA_ERROR_INVALID_VALUE, why))
    }

    /// Whether it is page-locked memory of the host.
    pub fn locked(&self, at: u64, bytes: usize) -> bool {
        self.holder(at).is_some_and(|(start, block)| {
            block.device.is_none() && at + bytes as u64 <= start + block.bytes as u64
        })
    }

    /// Whether nobody has written around the allocation that holds `at`.
    pub fn intact(&self, at: u64) -> Result<(), Fault> {
        let Some((start, Block { bytes, raw: Some((raw, layout)), .. })) = self.holder(at) else {
            return Ok(());
        };
        let behind = start + *bytes as u64;
        let end = *raw as u64 + layout.size() as u64;
        let (before, behind) = (*raw as u64..start, behind..end);
        // SAFETY: bytes of an allocation that is alive.
        let touched = |at: u64| unsafe { *(at as *const u8) } != NOTHING;
        match before.chain(behind).find(|at| touched(*at)) {
            None => Ok(()),
            Some(place) => {
                let off = place as i64 - start as i64;
                let why =
                    format!("something wrote to byte {off} of an allocation of {bytes} bytes");
                Err(fault(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, why))
            }
        }
    }

    /// Frees all of a device; how many allocations there were.
    pub fn retire(&mut self, device: usize) -> usize {
        let of = |(at, block): (&u64, &Block)| (block.device == Some(device)).then_some(*at);
        let left: Vec<u64> = self.blocks.iter().filter_map(of).collect();
        left.iter().filter(|at| self.free(**at, true).is_ok()).count()
    }
}
