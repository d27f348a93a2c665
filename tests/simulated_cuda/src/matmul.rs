//! A matrix product from its description: D = alpha · op(A) · op(B) + beta · C, and an epilogue.

use std::ops::Range;

use crate::memory::Memory;
use crate::numbers::{Kind, tf32};
use crate::places::fill;
use crate::world::Fault;

use cudarc::driver::sys::CUresult;

/// A matrix in memory; columns one after another unless `row_major`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    pub kind: Kind,
    pub rows: usize,
    pub columns: usize,
    /// Elements from one column (row) to the next.
    pub ld: usize,
    pub row_major: bool,
    /// Matrices, and elements from one to the next.
    pub batch: usize,
    pub step: usize,
}

impl Matrix {
    fn index(&self, row: usize, column: usize) -> usize {
        let (along, across) = if self.row_major { (column, row) } else { (row, column) };
        across * self.ld + along
    }

    /// Elements from the first to the last, both included.
    pub fn extent(&self) -> usize {
        match self.rows * self.columns * self.batch {
            0 => 0,
            _ => (self.batch - 1) * self.step + self.index(self.rows - 1, self.columns - 1) + 1,
        }
    }

    /// What is wrong with it.
    pub fn fault(&self) -> Option<String> {
        let least = if self.row_major { self.columns } else { self.rows };
        (self.ld < least).then(|| format!("a leading dimension of {} for {least}", self.ld))
    }
}

/// What happens to a sum before it is stored.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue {
    pub relu: bool,
    /// One number for each row of D.
    pub bias: Option<(u64, Kind)>,
}

/// One product.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    pub transposed: [bool; 2],
    /// A, B, C, D.
    pub matrices: [Matrix; 4],
    pub at: [u64; 4],
    pub alpha: f32,
    pub beta: f32,
    pub tf32: bool,
    /// Whether sums are made in two parts, the first of which is kept as a number of the result's kind.
    pub parts: bool,
    pub epilogue: Epilogue,
    pub workspace: (u64, usize),
}

impl Product {
    /// Rows and columns of D, and the terms of a sum; or what does not fit.
    pub fn sizes(transposed: [bool; 2], matrices: &[Matrix; 4]) -> Result<[usize; 3], String> {
        let of = |i: usize| {
            let Matrix { rows, columns, .. } = matrices[i];
            if transposed[i] { (columns, rows) } else { (rows, columns) }
        };
        let ((m, k), (k2, n)) = (of(0), of(1));
        let [.., c, d] = matrices;
        if k != k2 || [c, d].iter().any(|x| (x.rows, x.columns) != (m, n)) {
            return Err(format!(
                "op(A) is {m} × {k}, op(B) {k2} × {n}, C {} × {}, D {} × {}",
                c.rows, c.columns, d.rows, d.columns
            ));
        }
        if matrices.iter().any(|x| x.batch != d.batch) {
            return Err("batches of several lengths".into());
        }
        match matrices.iter().find_map(Matrix::fault) {
            Some(why) => Err(why),
            None => Ok([m, n, k]),
        }
    }

    /// Whether all of it lies in memory, and the result on none of the factors.
    pub fn check(&self, memory: &Memory) -> Result<(), Fault> {
        let mut ranges = Vec::new();
        for (i, (matrix, at)) in self.matrices.iter().zip(self.at).enumerate() {
            if i == 2 && self.beta == 0.0 {
                continue;
            }
            let bytes = matrix.extent() * matrix.kind.bytes();
            memory.check(at, bytes).map_err(|fault| Fault {
                why: format!("{}: {}", ["A", "B", "C", "D"][i], fault.why),
                ..fault
            })?;
            ranges.push((i, at..at + bytes as u64));
        }
        let meet = |a: &Range<u64>, b: &Range<u64>| a.start < b.end && b.start < a.end;
        let (at, bytes) = self.workspace;
        memory.check(at, bytes)?;
        ranges.push((4, at..at + bytes as u64));
        let wrong = |why: &str| Fault::new(CUresult::CUDA_ERROR_INVALID_VALUE, why);
        let d = ranges.iter().find(|(i, _)| *i == 3).map(|(_, range)| range.clone());
        for (i, range) in &ranges {
            if let Some(d) = &d
                && *i < 2
                && meet(d, range)
            {
                return Err(wrong("the result lies on a factor"));
            }
            if *i < 4 && bytes > 0 && meet(range, &(at..at + bytes as u64)) {
                return Err(wrong("the workspace lies on a matrix"));
            }
        }
        Ok(())
    }

    /// Computes it.
    pub fn run(&self, memory: &Memory) -> Result<(), Fault> {
        self.check(memory)?;
        // Working memory holds nothing for whoever comes next.
        fill(self.workspace.0, 0xff, self.workspace.1);
        let sizes = Product::sizes(self.transposed, &self.matrices);
        let [m, n, k] = sizes.map_err(|why| Fault::new(CUresult::CUDA_ERROR_INVALID_VALUE, why))?;
        let rounds = self.matrices[3].kind;
        for batch in 0..self.matrices[3].batch {
            let a = self.factor(0, batch, m, k)?;
            let b = self.factor(1, batch, n, k)?;
            for row in 0..m {
                for column in 0..n {
                    let (a, b) = (&a[row * k..][..k], &b[column * k..][..k]);
                    let sum = |terms: Range<usize>| -> f64 {
                        let pairs = a[terms.clone()].iter().zip(&b[terms]);
                        pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
                    };
                    let sum = match self.parts {
                        true => f64::from(rounds.round(sum(0..k / 2) as f32)) + sum(k / 2..k),
                        false => sum(0..k),
                    };
                    self.store(batch, row, column, sum)?;
                }
            }
        }
        memory.intact(self.at[3])
    }

    /// The rows of op(A), or the columns of op(B).
    fn factor(&self, i: usize, batch: usize, count: usize, k: usize) -> Result<Vec<f32>, Fault> {
        let matrix = &self.matrices[i];
        let start = batch * matrix.step;
        let mut values = Vec::with_capacity(count * k);
        for line in 0..count {
            for term in 0..k {
                // op(A) runs over (line, term), op(B) over (term, line); transposing turns either.
                let (row, column) =
                    if (i == 0) != self.transposed[i] { (line, term) } else { (term, line) };
                let value = matrix.kind.read(self.at[i], start + matrix.index(row, column))?;
                values.push(if self.tf32 { tf32(value) } else { value });
            }
        }
        Ok(values)
    }

    fn store(&self, batch: usize, row: usize, column: usize, sum: f64) -> Result<(), Fault> {
        let [.., c, d] = &self.matrices;
        let mut value = f64::from(self.alpha) * sum;
        if self.beta != 0.0 {
            let old = c.kind.read(self.at[2], batch * c.step + c.index(row, column))?;
            value += f64::from(self.beta) * f64::from(old);
        }
        if let Some((at, kind)) = self.epilogue.bias {
            value += f64::from(kind.read(at, row)?);
        }
        if self.epilogue.relu {
            value = value.max(0.0);
        }
        d.kind.write(self.at[3], batch * d.step + d.index(row, column), value as f32)
    }
}
