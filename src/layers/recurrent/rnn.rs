//! RNN: the plain recurrent layer over T steps of N sequences,
//!
//! ```text
//! h_t = tanh(W_xh · x_t + b_h + W_xh_static · x_s + W_hh · (cont_t · h_{t−1}))
//! y_t = tanh(W_ho · h_t + b_o)
//!
//! layer { name: "rnn" type: "RNN" bottom: "x" bottom: "cont" top: "y"
//!         recurrent_param { num_output: 256 weight_filler { type: "uniform" min: -0.08 max: 0.08 } } }
//! ```
//! Bottoms and tops are those of LSTM, with one state, h (h_0 and h_T with `expose_hidden`).
//! Parameters: W_xh, b_h, W_xh_static (if there is such a bottom), W_hh, W_ho, b_o.

use super::cuda::{self, Gradients, KERNELS, Step};
use super::{At, Cell, GRAIN, History, Recurrence, no_gradient, sizes::States};
use crate::Result;
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cpu::gemm::Gemm;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::Address;
use crate::device::cuda::memory::Scratch;
use crate::layers::{
    Count, CudaLayer, DeviceIo, Differentiable, Io, Layer, LayerDef, Setup, inner_product,
    per_channel,
};
use crate::params::ParamDef;

/// h_t = tanh(a_t), for all streams.
struct TanhCell;

impl Cell for TanhCell {
    const STATES: States = &["h"];
    const GATES: usize = 1;

    fn forward(at: At<'_>, gates: &mut [f32], [h, _]: &mut History) {
        let (_, h) = at.split(h);
        at.threads.par_zip2_mut((gates, at.hidden), (h, at.hidden), |_, gates, h| {
            gates.iter_mut().for_each(|v| *v = v.tanh());
            h.copy_from_slice(gates);
        });
    }

    fn backward(
        _at: At<'_>,
        gates: &[f32],
        _history: &History,
        dh: &[f32],
        _dc: &mut [f32],
        dgates: &mut [f32],
    ) {
        for ((da, h), dh) in dgates.iter_mut().zip(gates).zip(dh) {
            *da = dh * (1.0 - h * h);
        }
    }

    fn forward_on(at: Step<'_>) -> Result<()> {
        let (gates, [h, _]) = (at.gates.into(), at.after());
        let args = [gates, h.into(), gates, at.hidden.into(), 0.into()];
        at.cuda.each(&KERNELS, "rnn_forward", at.len, &args)
    }

    fn backward_on(at: Step<'_>, by: Gradients) -> Result<()> {
        let args = [at.gates.into(), by.dh.into(), by.dgates.into()];
        at.cuda.each(&KERNELS, "rnn_backward", at.len, &args)
    }
}

/// The layer.
struct Rnn {
    recurrence: Recurrence<TanhCell>,
    /// y of the last forward pass: the next layer may overwrite the top.
    outputs: Vec<f32>,
    /// Gradients by W_ho · h_t + b_o, and by h_t.
    doutputs: Vec<f32>,
    dh: Vec<f32>,
    /// The same three on a device.
    on_device: [Scratch; 3],
}

impl Rnn {
    /// Number of the parameter W_ho; b_o is the next one.
    fn w_ho(&self) -> usize {
        self.recurrence.w_h() + 1
    }
}

impl Layer for Rnn {
    fn params(&self) -> Vec<ParamDef> {
        let hidden = self.recurrence.sizes.hidden;
        let mut params = self.recurrence.params();
        params.push(self.recurrence.weights(hidden, hidden));
        params.push(self.recurrence.bias(hidden));
        params
    }

    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let tops = self.recurrence.reshape(bottoms)?;
        self.outputs.resize(tops[0].count(), 0.0);
        Ok(tops)
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        self.recurrence.forward(run, &io)?;
        let (rows, hidden) = (self.recurrence.sizes.rows(), self.recurrence.sizes.hidden);
        let (w, b) = (io.param(self.w_ho())?, io.param(self.w_ho() + 1)?);
        let product = Gemm::dense(false, true, rows, hidden, hidden);
        run.cpu()?.sgemm(product, self.recurrence.outputs(), w, &mut self.outputs)?;
        let threads = run.threads().limited(rows * hidden, GRAIN);
        threads.par_chunks_mut(&mut self.outputs, hidden, |_, y| {
            y.iter_mut().zip(b).for_each(|(y, b)| *y = (*y + b).tanh());
        });
        io.top_mut(0)?.copy_from_slice(&self.outputs);
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.top_has_diff(0) {
            return no_gradient(&io, 0);
        }
        let (rows, hidden) = (self.recurrence.sizes.rows(), self.recurrence.sizes.hidden);
        let dy = io.top_diff(0)?.iter().zip(&self.outputs);
        self.doutputs.clear();
        self.doutputs.extend(dy.map(|(dy, y)| dy * (1.0 - y * y)));
        let w_ho = self.w_ho();
        if io.param_needs_diff(w_ho) {
            let product = Gemm::dense(true, false, hidden, hidden, rows).accumulate();
            let h = self.recurrence.outputs();
            run.cpu()?.sgemm(product, &self.doutputs, h, io.param_diff_mut(w_ho)?)?;
        }
        if io.param_needs_diff(w_ho + 1) {
            inner_product::add_rows(run.threads(), &self.doutputs, io.param_diff_mut(w_ho + 1)?);
        }
        self.dh.resize(rows * hidden, 0.0);
        let product = Gemm::dense(false, false, rows, hidden, hidden);
        run.cpu()?.sgemm(product, &self.doutputs, io.param(w_ho)?, &mut self.dh)?;
        self.recurrence.backward(run, &io, &self.dh)
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

impl Rnn {
    /// On a device: outputs, and gradients by their sums and by h_t.
    fn room(&mut self, cuda: &CudaRun) -> Result<[Address; 3]> {
        let sizes = &self.recurrence.sizes;
        let mut at = [Address(0); 3];
        for (at, scratch) in at.iter_mut().zip(&mut self.on_device) {
            *at = scratch.room(&cuda.device, sizes.rows() * sizes.hidden)?;
        }
        Ok(at)
    }
}

impl CudaLayer for Rnn {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        self.recurrence.forward_on(cuda, &io)?;
        let (rows, hidden) = (self.recurrence.sizes.rows(), self.recurrence.sizes.hidden);
        let ([y, ..], h) = (self.room(cuda)?, self.recurrence.outputs_on(cuda)?);
        let product = Gemm::dense(false, true, rows, hidden, hidden);
        cuda.product(product, h, io.param(self.w_ho())?, y)?;
        let (top, b) = (io.top_mut(0)?.into(), io.param(self.w_ho() + 1)?.into());
        let args = [y.into(), top, b, hidden.into(), 1.into()];
        cuda.each(&KERNELS, "rnn_forward", rows * hidden, &args)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if !io.top_has_diff(0) {
            return cuda::no_gradient(cuda, &io, 0);
        }
        let (rows, hidden) = (self.recurrence.sizes.rows(), self.recurrence.sizes.hidden);
        let ([y, dy, dh], w_ho) = (self.room(cuda)?, self.w_ho());
        let args = [y.into(), io.top_diff(0)?.into(), dy.into()];
        cuda.each(&KERNELS, "rnn_backward", rows * hidden, &args)?;
        if io.param_needs_diff(w_ho) {
            let product = Gemm::dense(true, false, hidden, hidden, rows).accumulate();
            let h = self.recurrence.outputs_on(cuda)?;
            cuda.product(product, dy, h, io.param_diff_mut(w_ho)?)?;
        }
        if io.param_needs_diff(w_ho + 1) {
            let db = io.param_diff_mut(w_ho + 1)?;
            cuda::columns(rows, hidden).sums_on(cuda, dy, None, (db, true))?;
        }
        let product = Gemm::dense(false, false, rows, hidden, hidden);
        cuda.product(product, dy, io.param(w_ho)?, dh)?;
        self.recurrence.backward_on(cuda, &io, dh)
    }
}

fn build(setup: &Setup<'_>, bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.recurrent_param.as_deref().cloned().unwrap_or_default();
    Ok(Box::new(Rnn {
        recurrence: Recurrence::new(param, bottoms, setup.tops)?,
        outputs: Vec::new(),
        doutputs: Vec::new(),
        dh: Vec::new(),
        on_device: Default::default(),
    }))
}

/// `RNN`.
pub static DEF: LayerDef = LayerDef::new("RNN", "the plain recurrent layer over sequences", build)
    .kernels(&[&KERNELS, &per_channel::cuda::KERNELS])
    .counts(Count::Between(2, 4), Count::Between(1, 2))
    .differentiable(Differentiable::AllBut(1));
