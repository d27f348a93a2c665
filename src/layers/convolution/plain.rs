//! The plain path: every image's patches as a matrix, and matrix multiplications.
//!
//! Images are dealt to a fixed number of tasks, each with a matrix of its own. The weights' gradient
//! is summed image by image, as in BVLC Caffe. Results do not depend on the number of threads.

use std::sync::OnceLock;

use super::geometry::Patches;
use crate::Result;
use crate::blob::Shape;
use crate::device::cpu::gemm::{Gemm, sgemm};
use crate::device::cpu::onednn::Error;
use crate::device::cpu::threads::Threads;

/// Tasks that images are dealt to: enough for the threads of a desktop, few enough that their
/// matrices stay small beside the activations.
const TASKS: usize = 16;

/// A convolution of one size. "Image" is the side that kernels move over: the bottom of a
/// Convolution, the top of a Deconvolution. "Output" is the side with one element per position.
#[derive(Default)]
pub struct Plain {
    patches: Patches,
    outputs: usize,
    groups: usize,
    /// Images per task.
    each: usize,
    /// One matrix per task.
    matrices: Vec<f32>,
}

/// The first error of several tasks.
#[derive(Default)]
struct Fault(OnceLock<Error>);

impl Fault {
    fn note(&self, result: std::result::Result<(), Error>) {
        if let Err(e) = result {
            // Further ones say the same.
            let _ = self.0.set(e);
        }
    }

    fn end(self) -> Result<()> {
        self.0.into_inner().map_or(Ok(()), |e| Err(e.into()))
    }
}

/// Sizes of one group's multiplication.
struct Group {
    outputs: usize,
    positions: usize,
    /// Channels of the group times kernel elements.
    rows: usize,
}

impl Plain {
    /// Prepares for `images` images.
    ///
    /// # Errors
    /// When the patches of one would make too large a matrix.
    pub fn reshape(
        &mut self,
        images: usize,
        patches: Patches,
        outputs: usize,
        groups: usize,
    ) -> Result<()> {
        Shape::from([patches.channels, patches.kernel(), patches.positions()]).check_size()?;
        self.each = images.div_ceil(TASKS).max(1);
        let tasks = images.div_ceil(self.each);
        *self = Plain { patches, outputs, groups, ..std::mem::take(self) };
        self.matrices.resize(tasks * self.matrix_len(), 0.0);
        Ok(())
    }

    /// Elements of a task's matrix; at least one, so that every task has a piece.
    fn matrix_len(&self) -> usize {
        if self.patches.is_image() { 1 } else { self.patches.matrix_len().max(1) }
    }

    fn output_len(&self) -> usize {
        self.outputs * self.patches.positions()
    }

    fn group(&self) -> Group {
        Group {
            outputs: self.outputs / self.groups,
            positions: self.patches.positions(),
            rows: self.patches.channels / self.groups * self.patches.kernel(),
        }
    }

    /// Threads for the work inside a task: all of them when there is one task only.
    fn inside(&self, threads: Threads) -> Threads {
        if self.matrices.len() == self.matrix_len() { threads } else { Threads::one() }
    }

    /// The matrix of an image: gathered, or the image itself.
    fn matrix<'a>(&self, threads: Threads, image: &'a [f32], matrix: &'a mut [f32]) -> &'a [f32] {
        if self.patches.is_image() {
            return image;
        }
        self.patches.gather(threads, image, matrix);
        matrix
    }

    /// outputs ← weights ∗ images.
    pub fn correlate(
        &mut self,
        threads: Threads,
        images: &[f32],
        w: &[f32],
        outputs: &mut [f32],
    ) -> Result<()> {
        let fault = Fault::default();
        let (image_len, output_len) = (self.patches.image_len(), self.output_len());
        let (each, g, inside) = (self.each, self.group(), self.inside(threads));
        let mut matrices = std::mem::take(&mut self.matrices);
        let task = |t: usize, matrix: &mut [f32], outputs: &mut [f32]| {
            for (i, output) in outputs.chunks_mut(output_len).enumerate() {
                let image = &images[(t * each + i) * image_len..][..image_len];
                let matrix = self.matrix(inside, image, matrix);
                let product = Gemm::dense(false, false, g.outputs, g.positions, g.rows);
                let parts = output.chunks_mut(g.outputs * g.positions);
                let weights = w.chunks(g.outputs * g.rows);
                for ((y, w), x) in parts.zip(weights).zip(matrix.chunks(g.rows * g.positions)) {
                    fault.note(sgemm(inside, product, w, x, y));
                }
            }
        };
        let pieces = (&mut matrices[..], self.matrix_len());
        threads.par_zip2_mut(pieces, (outputs, each * output_len), task);
        self.matrices = matrices;
        fault.end()
    }

    /// images ← the transposed: every output's share of every image element under its kernel.
    pub fn spread(
        &mut self,
        threads: Threads,
        outputs: &[f32],
        w: &[f32],
        images: &mut [f32],
    ) -> Result<()> {
        let fault = Fault::default();
        let (image_len, output_len) = (self.patches.image_len(), self.output_len());
        let (each, g, inside) = (self.each, self.group(), self.inside(threads));
        let mut matrices = std::mem::take(&mut self.matrices);
        let task = |t: usize, matrix: &mut [f32], images: &mut [f32]| {
            for (i, image) in images.chunks_mut(image_len).enumerate() {
                let output = &outputs[(t * each + i) * output_len..][..output_len];
                let direct = self.patches.is_image();
                let target = if direct { &mut *image } else { &mut *matrix };
                let product = Gemm::dense(true, false, g.rows, g.positions, g.outputs);
                let parts = target.chunks_mut(g.rows * g.positions);
                let weights = w.chunks(g.outputs * g.rows);
                for ((x, w), y) in parts.zip(weights).zip(output.chunks(g.outputs * g.positions)) {
                    fault.note(sgemm(inside, product, w, y, x));
                }
                if !direct {
                    self.patches.scatter(inside, matrix, image);
                }
            }
        };
        let pieces = (&mut matrices[..], self.matrix_len());
        threads.par_zip2_mut(pieces, (images, each * image_len), task);
        self.matrices = matrices;
        fault.end()
    }

    /// dw ← dw + the weights' gradient.
    pub fn weights(
        &mut self,
        threads: Threads,
        images: &[f32],
        outputs: &[f32],
        dw: &mut [f32],
    ) -> Result<()> {
        let fault = Fault::default();
        let (image_len, output_len) = (self.patches.image_len(), self.output_len());
        let (g, len) = (self.group(), self.matrix_len());
        let mut matrices = std::mem::take(&mut self.matrices);
        for (image, output) in images.chunks(image_len).zip(outputs.chunks(output_len)) {
            let matrix = self.matrix(threads, image, &mut matrices[..len]);
            let product = Gemm::dense(false, true, g.outputs, g.rows, g.positions).accumulate();
            let parts = dw.chunks_mut(g.outputs * g.rows);
            let dys = output.chunks(g.outputs * g.positions);
            for ((dw, dy), x) in parts.zip(dys).zip(matrix.chunks(g.rows * g.positions)) {
                fault.note(sgemm(threads, product, dy, x, dw));
            }
        }
        self.matrices = matrices;
        fault.end()
    }
}
