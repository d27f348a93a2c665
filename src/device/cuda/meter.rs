//! [`Meter`]: a device that computes nothing, counts the memory that it is asked for and lists the
//! correlations.
//!
//! A job that takes one step on it tells how much memory it needs on a device, layers' working memory
//! included, without one: [`Forecast`](crate::solver::Forecast). It notes what it is asked for as any device
//! does, and its graphs do as little as its kernels.

use std::cell::{Cell, RefCell};

use super::algorithms::{Direction, Wanted};
use super::backend::{Address, Arg, Backend, Correlation};
use super::kind::Kind;
use super::order::Order;
use super::pool::Pool;
use super::source::Source;
use super::work::{COPIED_IN, COPIED_OUT, Graph, Notes, Work};
use crate::device::cpu::gemm::Gemm;
use crate::{Result, bail};

/// A graph of no use but to be there.
struct Nothing;

impl Graph for Nothing {
    fn launch(&self) -> Result<()> {
        Ok(())
    }
}

/// The device. All that is read from it is zero.
pub struct Meter {
    pool: RefCell<Pool>,
    /// Whether anything was asked for that has a workspace.
    works: Cell<bool>,
    /// Bytes of the largest correlation's arrays together.
    largest: Cell<u64>,
    /// Bytes of the largest gradient of weights that is made in 16 bits or in another order.
    gradient: Cell<u64>,
    correlations: RefCell<Vec<Wanted>>,
    kind: Kind,
    order: Order,
    notes: Notes,
    frees: Cell<u64>,
}

impl Default for Meter {
    fn default() -> Self {
        Meter {
            pool: RefCell::new(Pool::new(u64::MAX)),
            works: Cell::new(false),
            largest: Cell::new(0),
            gradient: Cell::new(0),
            correlations: RefCell::default(),
            kind: Kind::F32,
            order: Order::Plain,
            notes: Notes::default(),
            frees: Cell::new(0),
        }
    }
}

impl Meter {
    /// The same with activations of this kind.
    pub fn storing(self, kind: Kind) -> Meter {
        Meter { kind, ..self }
    }

    /// The same with convolutions that want this order.
    pub fn ordered(self, order: Order) -> Meter {
        Meter { order, ..self }
    }

    /// Bytes held now.
    pub fn held(&self) -> u64 {
        self.pool.borrow().held()
    }

    /// Bytes of the block in which all that was asked for so far has room, gaps included.
    pub fn high(&self) -> u64 {
        self.pool.borrow().high()
    }

    /// Whether products or correlations were asked for.
    pub fn has_workspace(&self) -> bool {
        self.works.get()
    }

    /// Bytes of the arrays of the largest correlation together: what trying its algorithms takes.
    pub fn largest_correlation(&self) -> u64 {
        self.largest.get()
    }

    /// Bytes of the largest gradient of weights that is made in 16 bits or in another order, beside an
    /// algorithm's workspace.
    pub fn largest_gradient(&self) -> u64 {
        self.gradient.get()
    }

    /// What was asked for of correlations, each once, in order.
    pub fn correlations(&self) -> Vec<Wanted> {
        self.correlations.borrow().clone()
    }

    fn correlation(
        &self,
        direction: Direction,
        shape: &Correlation,
        kind: Kind,
        at: [Address; 3],
    ) -> Result<()> {
        self.notes.add(|| Work::Correlate(direction, shape.clone(), kind, at));
        let wanted = Wanted { direction, kind, shape: shape.clone() };
        let mut all = self.correlations.borrow_mut();
        if !all.contains(&wanted) {
            all.push(wanted);
        }
        let over = |first: usize, of: fn(&super::backend::Axis) -> usize| {
            shape.axes.iter().map(of).product::<usize>() * first
        };
        let floats = over(shape.images * shape.channels, |axis| axis.image)
            + over(shape.images * shape.outputs, |axis| axis.positions)
            + shape.weights();
        self.works.set(true);
        self.largest.set(self.largest.get().max((floats * kind.bytes()) as u64));
        Ok(())
    }
}

impl Backend for Meter {
    fn describe(&self) -> String {
        "a forecast of a CUDA device's memory".into()
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn order(&self) -> Order {
        self.order
    }

    fn free_memory(&self) -> Result<Option<u64>> {
        Ok(Some(u64::MAX))
    }

    fn allocate(&self, floats: usize) -> Result<Address> {
        let bytes = floats.checked_mul(size_of::<f32>());
        match bytes.and_then(|bytes| self.pool.borrow_mut().take(bytes)) {
            Some(at) => Ok(Address(at)),
            None => bail!("{floats} floats are more than any device has"),
        }
    }

    fn free(&self, at: Address) {
        self.frees.set(self.frees.get() + 1);
        self.pool.borrow_mut().give(at.0);
    }

    fn frees(&self) -> u64 {
        self.frees.get()
    }

    fn note(&self) {
        self.notes.begin();
    }

    fn noted(&self) -> std::result::Result<Vec<Work>, &'static str> {
        self.notes.end()
    }

    fn spoil(&self, why: &'static str) {
        self.notes.spoil(why);
    }

    fn graph(&self, _works: &[Work]) -> Result<Box<dyn Graph>> {
        Ok(Box::new(Nothing))
    }

    fn upload(&self, _from: &[f32], _to: Address) -> Result<()> {
        self.notes.spoil(COPIED_IN);
        Ok(())
    }

    fn upload_bytes(&self, _from: &[u8], _to: Address) -> Result<()> {
        self.notes.spoil(COPIED_IN);
        Ok(())
    }

    fn download(&self, _from: Address, to: &mut [f32]) -> Result<()> {
        self.notes.spoil(COPIED_OUT);
        to.fill(0.0);
        Ok(())
    }

    fn copy(&self, from: Address, to: Address, floats: usize) -> Result<()> {
        self.notes.add(|| Work::Copy(from, to, floats));
        Ok(())
    }

    fn zero(&self, at: Address, floats: usize) -> Result<()> {
        self.notes.add(|| Work::Zero(at, floats));
        Ok(())
    }

    fn launch(
        &self,
        source: &'static Source,
        kind: Kind,
        function: &'static str,
        blocks: usize,
        args: &[Arg],
    ) -> Result<()> {
        self.notes.add(|| Work::Launch(source, kind, function, blocks, args.to_vec()));
        Ok(())
    }

    fn product(&self, g: Gemm, kinds: [Kind; 2], a: Address, b: Address, c: Address) -> Result<()> {
        self.notes.add(|| Work::Product(g, kinds, [a, b, c]));
        self.works.set(true);
        Ok(())
    }

    fn correlate(
        &self,
        shape: &Correlation,
        kind: Kind,
        x: Address,
        w: Address,
        y: Address,
    ) -> Result<()> {
        self.correlation(Direction::Forward, shape, kind, [x, w, y])
    }

    fn correlate_back(
        &self,
        shape: &Correlation,
        kind: Kind,
        w: Address,
        dy: Address,
        dx: Address,
    ) -> Result<()> {
        self.correlation(Direction::Back, shape, kind, [w, dy, dx])
    }

    fn correlate_weights(
        &self,
        shape: &Correlation,
        kind: Kind,
        x: Address,
        dy: Address,
        dw: Address,
    ) -> Result<()> {
        if kind != Kind::F32 || shape.turns_weights() {
            let bytes = (shape.weights() * kind.bytes()) as u64;
            self.gradient.set(self.gradient.get().max(bytes));
        }
        self.correlation(Direction::Weights, shape, kind, [x, dy, dw])
    }
}
