//! InnerProduct: y = W · x + b for every record; the axes from `axis` on are one vector x.
//!
//! ```text
//! layer { name: "fc6" type: "InnerProduct" bottom: "pool5" top: "fc6"
//!         param { lr_mult: 1 } param { lr_mult: 2 }
//!         inner_product_param { num_output: 4096 weight_filler { type: "xavier" } bias_term: true } }
//! ```
//! Parameters: W (num_output × elements of x; the other way round with `transpose`) and
//! b (num_output). One matrix multiplication each way, on plain memory: packing W for a private
//! layout anew in every step would cost more than it brings.

use caffe_proto::InnerProductParameter;

use super::dims::Around;
use super::per_channel::{Channels, cuda::KERNELS};
use super::{CudaLayer, DeviceIo, Io, Layer, LayerDef, Reals, Setup};
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cpu::gemm::Gemm;
use crate::device::cpu::threads::Threads;
use crate::device::cuda::CudaRun;
use crate::params::ParamDef;
use crate::{Result, ensure};

/// Elements that make it worth waking a thread.
const GRAIN: usize = 1 << 14;

/// Outputs per task in sums over the records.
const CHUNK: usize = 128;

/// The layer.
struct InnerProduct {
    param: InnerProductParameter,
    /// Rows of x and y.
    records: usize,
    /// Elements of a row of x.
    inputs: usize,
    /// Elements of a row of y.
    outputs: usize,
    /// On a device: the ReLU behind it is its work.
    relu: bool,
}

impl Layer for InnerProduct {
    fn params(&self) -> Vec<ParamDef> {
        let (outputs, inputs) = (self.outputs, self.inputs);
        let shape = if self.param.transpose() { [inputs, outputs] } else { [outputs, inputs] };
        let weights = self.param.weight_filler.clone().unwrap_or_default();
        let mut params = vec![ParamDef::learned(Shape::from(shape), weights)];
        if self.param.bias_term() {
            let filler = self.param.bias_filler.clone().unwrap_or_default();
            params.push(ParamDef::learned(Shape::from([outputs]), filler));
        }
        params
    }

    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let axis = bottoms[0].axis(self.param.axis())?;
        let inputs = bottoms[0].count_from(axis);
        ensure!(
            inputs == self.inputs,
            "was set up for vectors of {} elements, the bottom of shape {} has {inputs}",
            self.inputs,
            bottoms[0]
        );
        self.records = bottoms[0].count_to(axis);
        let mut dims = bottoms[0].dims()[..axis].to_vec();
        dims.push(self.outputs);
        Ok(vec![Shape::new(dims)])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let (x, y) = (io.bottom(0)?, io.top_mut(0)?);
        // y ← x · Wᵀ
        let w_transposed = !self.param.transpose();
        let product = Gemm::dense(false, w_transposed, self.records, self.outputs, self.inputs);
        run.cpu()?.sgemm(product, x, io.param(0)?, y)?;
        if self.param.bias_term() {
            let b = io.param(1)?;
            run.threads().limited(y.len(), GRAIN).par_chunks_mut(y, self.outputs, |_, y| {
                y.iter_mut().zip(b).for_each(|(y, b)| *y += b);
            });
        }
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let threads = run.threads();
        let dy = io.top_diff(0)?;
        if io.param_needs_diff(0) {
            // dW ← dW + dyᵀ · x
            let (x, dw) = (io.bottom(0)?, io.param_diff_mut(0)?);
            let (rows, columns, a, b) = match self.param.transpose() {
                true => (self.inputs, self.outputs, x, dy),
                false => (self.outputs, self.inputs, dy, x),
            };
            let product = Gemm::dense(true, false, rows, columns, self.records).accumulate();
            run.cpu()?.sgemm(product, a, b, dw)?;
        }
        if self.param.bias_term() && io.param_needs_diff(1) {
            add_rows(threads, dy, io.param_diff_mut(1)?);
        }
        if io.propagate_down(0) {
            // dx ← dy · W
            let transpose = self.param.transpose();
            let product = Gemm::dense(false, transpose, self.records, self.inputs, self.outputs);
            run.cpu()?.sgemm(product, dy, io.param(0)?, io.bottom_diff_mut(0)?)?;
        }
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

impl InnerProduct {
    /// Rows of y, or of its gradient, as channels.
    fn rows(&self) -> Channels {
        Channels::plain(Around { outer: self.records, extent: self.outputs, inner: 1 })
    }
}

impl CudaLayer for InnerProduct {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let (x, y) = (io.bottom(0)?, io.top_mut(0)?);
        let w_transposed = !self.param.transpose();
        let product = Gemm::dense(false, w_transposed, self.records, self.outputs, self.inputs);
        cuda.product(product, x, io.weights(0)?, y)?;
        if self.param.bias_term() {
            self.rows().add_then_on(cuda, y, io.param(1)?, y, self.relu)?;
        }
        Ok(())
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let dy = io.top_diff(0)?;
        let transpose = self.param.transpose();
        if io.param_needs_diff(0) {
            let (x, dw) = (io.bottom(0)?, io.param_diff_mut(0)?);
            let (rows, columns, a, b) = match transpose {
                true => (self.inputs, self.outputs, x, dy),
                false => (self.outputs, self.inputs, dy, x),
            };
            let product = Gemm::dense(true, false, rows, columns, self.records).accumulate();
            cuda.product_in_f32(product, a, b, dw)?;
        }
        if self.param.bias_term() && io.param_needs_diff(1) {
            self.rows().sums_on(cuda, dy, None, (io.param_diff_mut(1)?, true))?;
        }
        if io.propagate_down(0) {
            let product = Gemm::dense(false, transpose, self.records, self.inputs, self.outputs);
            cuda.product(product, dy, io.weights(0)?, io.bottom_diff_mut(0)?)?;
        }
        Ok(())
    }

    fn take_relu(&mut self) -> bool {
        // With the bias it costs nothing.
        self.relu = self.param.bias_term();
        self.relu
    }

    fn reals(&self) -> Reals {
        Reals::FIRST
    }
}

/// sums ← sums + the rows, added up in double precision: a bias's gradient.
pub(super) fn add_rows(threads: Threads, rows: &[f32], sums: &mut [f32]) {
    let len = sums.len();
    threads.limited(rows.len(), GRAIN).par_chunks_mut(sums, CHUNK, |i, sums| {
        let mut totals = [0.0; CHUNK];
        for row in rows.chunks(len) {
            totals.iter_mut().zip(&row[i * CHUNK..]).for_each(|(t, v)| *t += f64::from(*v));
        }
        sums.iter_mut().zip(totals).for_each(|(sum, t)| *sum += t as f32);
    });
}

fn build(setup: &Setup<'_>, bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.inner_product_param.as_deref().cloned().unwrap_or_default();
    ensure!(param.num_output() > 0, "needs num_output");
    let axis = bottoms[0].axis(param.axis())?;
    Ok(Box::new(InnerProduct {
        records: bottoms[0].count_to(axis),
        inputs: bottoms[0].count_from(axis),
        outputs: param.num_output() as usize,
        relu: false,
        param,
    }))
}

/// `InnerProduct`.
pub static DEF: LayerDef =
    LayerDef::new("InnerProduct", "y = W · x + b, every output sees every input", build)
        .kernels(&[&KERNELS]);
