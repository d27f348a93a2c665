//! LSTM: long short-term memory over T steps of N sequences.
//!
//! ```text
//! layer { name: "lstm1" type: "LSTM" bottom: "x" bottom: "cont" top: "h"
//!         recurrent_param { num_output: 256 weight_filler { type: "uniform" min: -0.08 max: 0.08 }
//!                           bias_filler { value: 0 } } }
//! ```
//! Bottoms: x (T × N × …); `cont` (T × N), 0 where a sequence begins, else 1; an input that is the
//! same in all steps (N × …), if wanted; h_0 and c_0 (1 × N × num_output) with `expose_hidden`. Tops:
//! h of every step (T × N × num_output), and h_T and c_T with `expose_hidden`. Parameters, with D
//! for num_output: W_xc (4D × elements of x), b_c (4D), W_xc_static, W_hc (4D × D).

use super::cell::{self, Done};
use super::cuda::{self, Gradients, KERNELS, Step};
use super::{At, Cell, History, Recurrence, no_gradient, sizes::States};
use crate::Result;
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::layers::{
    Count, CudaLayer, DeviceIo, Differentiable, Io, Layer, LayerDef, Setup, per_channel,
};
use crate::params::ParamDef;

/// The cell, for all streams.
struct LstmCell;

impl Cell for LstmCell {
    const STATES: States = &["h", "c"];
    const GATES: usize = 4;

    fn forward(at: At<'_>, gates: &mut [f32], [h, c]: &mut History) {
        let ((_, h), (before, c)) = (at.split(h), at.split(c));
        let n = at.hidden;
        at.threads.par_zip3_mut((gates, 4 * n), (h, n), (c, n), |i, gates, h, c| {
            cell::forward(at.cont[i], gates, &before[i * n..][..n], c, h);
        });
    }

    fn backward(
        at: At<'_>,
        gates: &[f32],
        [_, c]: &History,
        dh: &[f32],
        dc: &mut [f32],
        dgates: &mut [f32],
    ) {
        let (n, len) = (at.hidden, at.len());
        let (before, c) = c[at.step * len..][..2 * len].split_at(len);
        at.threads.par_zip2_mut((dc, n), (dgates, 4 * n), |i, dc, dgates| {
            let here = i * n..(i + 1) * n;
            let done = Done {
                cont: at.cont[i],
                gates: &gates[4 * i * n..][..4 * n],
                before: &before[here.clone()],
                c: &c[here.clone()],
            };
            cell::backward(&done, &dh[here], dc, dgates);
        });
    }

    fn forward_on(at: Step<'_>) -> Result<()> {
        let [_, before] = at.states;
        let [h, c] = at.after();
        cuda::lstm_forward(at, [before, c, h])
    }

    fn backward_on(at: Step<'_>, gradients: Gradients) -> Result<()> {
        let ([_, before], [_, c]) = (at.states, at.after());
        cuda::lstm_backward(at, [before, c], gradients)
    }
}

/// The layer.
struct Lstm(Recurrence<LstmCell>);

impl Layer for Lstm {
    fn params(&self) -> Vec<ParamDef> {
        self.0.params()
    }

    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        self.0.reshape(bottoms)
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        self.0.forward(run, &io)?;
        io.top_mut(0)?.copy_from_slice(self.0.outputs());
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.top_has_diff(0) {
            return no_gradient(&io, 0);
        }
        self.0.backward(run, &io, io.top_diff(0)?)
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

impl CudaLayer for Lstm {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        self.0.forward_on(cuda, &io)?;
        cuda.device.copy(self.0.outputs_on(cuda)?, io.top_mut(0)?, io.top_shape(0).count())
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if !io.top_has_diff(0) {
            return cuda::no_gradient(cuda, &io, 0);
        }
        self.0.backward_on(cuda, &io, io.top_diff(0)?)
    }
}

fn build(setup: &Setup<'_>, bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.recurrent_param.as_deref().cloned().unwrap_or_default();
    Ok(Box::new(Lstm(Recurrence::new(param, bottoms, setup.tops)?)))
}

/// `LSTM`.
pub static DEF: LayerDef = LayerDef::new("LSTM", "long short-term memory over sequences", build)
    .kernels(&[&KERNELS, &per_channel::cuda::KERNELS])
    .counts(Count::Between(2, 5), Count::Between(1, 3))
    .differentiable(Differentiable::AllBut(1));
