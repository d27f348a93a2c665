//! The plain path: one matrix multiplication each way.

use crate::device::cpu::threads::Threads;
use crate::layers::matrix::Product;

/// Sizes of the matrices.
pub struct Plain {
    /// Rows of x and y.
    pub records: usize,
    /// Elements of a row of x.
    pub inputs: usize,
    /// Elements of a row of y.
    pub outputs: usize,
    /// W is stored inputs × outputs.
    pub transpose: bool,
}

impl Plain {
    /// y ← x · Wᵀ.
    pub fn forward(&self, threads: Threads, x: &[f32], w: &[f32], y: &mut [f32]) {
        let product = Product::new(self.records, self.outputs, self.inputs);
        let product = if self.transpose { product } else { product.b_transposed() };
        product.run(threads, x, w, y);
    }

    /// dx ← dy · W.
    pub fn backward(&self, threads: Threads, dy: &[f32], w: &[f32], dx: &mut [f32]) {
        let product = Product::new(self.records, self.inputs, self.outputs);
        let product = if self.transpose { product.b_transposed() } else { product };
        product.run(threads, dy, w, dx);
    }

    /// dw ← dw + dyᵀ · x.
    pub fn weights(&self, threads: Threads, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        let (rows, columns, a, b) = match self.transpose {
            true => (self.inputs, self.outputs, x, dy),
            false => (self.outputs, self.inputs, dy, x),
        };
        let product = Product::new(rows, columns, self.records).a_transposed().accumulate();
        product.run(threads, a, b, dw);
    }
}
