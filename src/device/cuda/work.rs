//! [`Work`]: what a device was asked to compute, as a value; [`Graph`]: what asks for a lot of it at once.
//!
//! A pass of a net asks for hundreds of kernels, each call of which costs the host some microseconds. A
//! device notes what it is asked for ([`Backend::note`](super::backend::Backend::note)); two passes that
//! have asked for the same will go on doing so, and a graph of it takes the place of the calls.

use std::cell::RefCell;

use super::algorithms::Direction;
use super::backend::{Address, Arg, Correlation};
use super::kind::Kind;
use super::source::Source;
use crate::Result;
use crate::device::cpu::gemm::Gemm;

/// A piece of computation, with its arguments.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// A copy within the device, of so many floats.
    Copy(Address, Address, usize),
    /// So many floats become zero.
    Zero(Address, usize),
    /// A kernel: text, what `real` is in it, function, blocks, arguments.
    Launch(&'static Source, Kind, &'static str, usize, Vec<Arg>),
    /// A product, with its kinds and matrices.
    Product(Gemm, [Kind; 2], [Address; 3]),
    /// A correlation, with its arrays in the order in which they are given.
    Correlate(Direction, Correlation, Kind, [Address; 3]),
}

/// Work that can be asked for in one call, with the addresses and numbers it was noted with.
pub trait Graph {
    /// Asks for all of it, in the queue of computation.
    ///
    /// # Errors
    /// A device that failed.
    fn launch(&self) -> Result<()>;
}

/// Why a pass that copies from the host is not the same again.
pub(super) const COPIED_IN: &str = "something is copied from the host in the middle of a pass";
/// Why one is not that is waited for.
pub(super) const COPIED_OUT: &str = "the host looks at something in the middle of a pass";

/// Work that is being noted.
#[derive(Default)]
pub(super) struct Notes(RefCell<Option<Noted>>);

/// What was noted, or why it is of no use.
pub(super) type Noted = std::result::Result<Vec<Work>, &'static str>;

impl Notes {
    pub(super) fn begin(&self) {
        *self.0.borrow_mut() = Some(Ok(Vec::new()));
    }

    pub(super) fn end(&self) -> Noted {
        self.0.borrow_mut().take().unwrap_or(Err("nothing was noted"))
    }

    /// Notes a piece of work, which is only made if somebody wants to know.
    pub(super) fn add(&self, work: impl FnOnce() -> Work) {
        if let Some(Ok(works)) = &mut *self.0.borrow_mut() {
            works.push(work());
        }
    }

    /// Notes nothing until [`go_on`](Notes::go_on): for what is a part of work that was noted.
    pub(super) fn pause(&self) -> Option<Noted> {
        self.0.borrow_mut().take()
    }

    pub(super) fn go_on(&self, paused: Option<Noted>) {
        *self.0.borrow_mut() = paused;
    }

    /// Something was asked for that cannot be repeated.
    pub(super) fn spoil(&self, why: &'static str) {
        if let Some(noted @ Ok(_)) = &mut *self.0.borrow_mut() {
            *noted = Err(why);
        }
    }
}
