//! [`Work`]: what a device was asked to compute, as a value; [`Graph`]: what asks for a lot of it at once.
//!
//! A pass of a net asks for hundreds of kernels, each call of which costs the host some microseconds. A
//! device notes what it is asked for ([`Backend::note`](super::backend::Backend::note)); two passes that
//! have asked for the same will go on doing so, and a graph of it takes the place of the calls.

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
