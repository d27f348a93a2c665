//! Recurrent layers: [`lstm`], [`rnn`], and the LSTM's bare cell [`lstm_unit`].
//!
//! A pass runs T steps of N independent sequences. Step t computes from its input x_t and the state
//! h_{t−1}; where `cont` is 0 a sequence begins and its state counts as 0. The state after the last
//! step is where the next pass begins, so that sequences may be longer than T; gradients end at the
//! pass's first step. With `expose_hidden` the states come from bottoms and go to tops instead;
//! these carry no gradient, as in BVLC Caffe.
//!
//! The input's share of all steps is one matrix product, then every step adds its own:
//!
//! ```text
//! a_t = W_x · x_t + b + W_s · x_s + W_h · (cont_t · h_{t−1})
//! ```
//! with an input x_s that is the same in all steps, where there is one. What becomes of a_t is the
//! matter of a [`Cell`]. Nothing is unrolled into a net: the recurrence is a loop.

mod cell;
mod cuda;
pub mod lstm;
pub mod lstm_unit;
pub mod rnn;
mod sizes;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;

use caffe_proto::RecurrentParameter;

use super::{Io, inner_product};
use crate::Result;
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cpu::gemm::Gemm;
use crate::device::cpu::threads::Threads;
use crate::params::ParamDef;
use sizes::{Sizes, States};

/// Elements that make it worth waking a thread.
const GRAIN: usize = 1 << 10;

/// States of all streams after each step, the start first: h, and c where there is one.
type History = [Vec<f32>; 2];

/// What happens in one step of all streams, element by element.
trait Cell {
    /// The states, h first.
    const STATES: States;
    /// Sums (elements of a_t) for each element of h.
    const GATES: usize;

    /// Turns sums into values of gates and writes the states after the step.
    fn forward(at: At<'_>, gates: &mut [f32], history: &mut History);

    /// Overwrites the gradient by the sums, from that by h after the step; `dc`, the gradient by
    /// the other state after the step, becomes that by the one before.
    fn backward(
        at: At<'_>,
        gates: &[f32],
        history: &History,
        dh: &[f32],
        dc: &mut [f32],
        dgates: &mut [f32],
    );

    /// [`forward`](Cell::forward) on a device.
    fn forward_on(at: cuda::Step<'_>) -> Result<()>;

    /// [`backward`](Cell::backward) on a device.
    fn backward_on(at: cuda::Step<'_>, gradients: cuda::Gradients) -> Result<()>;
}

/// Which step.
#[derive(Clone, Copy)]
struct At<'a> {
    threads: Threads,
    /// Its number.
    step: usize,
    /// Of each stream, whether its sequence goes on.
    cont: &'a [f32],
    /// Elements of a stream's state.
    hidden: usize,
}

impl At<'_> {
    /// Elements of all streams' states.
    fn len(&self) -> usize {
        self.cont.len() * self.hidden
    }

    /// A history cut into the states before the step and those after it.
    fn split<'h>(&self, history: &'h mut [f32]) -> (&'h [f32], &'h mut [f32]) {
        let (past, future) = history.split_at_mut((self.step + 1) * self.len());
        (&past[self.step * self.len()..], &mut future[..self.len()])
    }
}

/// The recurrence of one kind of cell, with its parameters W_x, b, W_s (for an input that is the
/// same in all steps) and W_h.
struct Recurrence<C> {
    param: RecurrentParameter,
    sizes: Sizes,
    history: History,
    /// Of every step: values of the gates, and cont_t · h_{t−1}.
    gates: Vec<f32>,
    before: Vec<f32>,
    /// Of every step: gradients by the gates' sums.
    dgates: Vec<f32>,
    /// Gradients by the states at the present step.
    carried: [Vec<f32>; 2],
    /// Per stream: the share of the input that is the same in all steps, or its gradient.
    fixed: Vec<f32>,
    on_device: cuda::Kept,
    cell: PhantomData<C>,
}

impl<C: Cell> Recurrence<C> {
    fn new(param: RecurrentParameter, bottoms: &[Shape], tops: usize) -> Result<Self> {
        Ok(Recurrence {
            sizes: Sizes::new(&param, C::STATES, bottoms, tops)?,
            param,
            history: History::default(),
            gates: Vec::new(),
            before: Vec::new(),
            dgates: Vec::new(),
            carried: Default::default(),
            fixed: Vec::new(),
            on_device: cuda::Kept::default(),
            cell: PhantomData,
        })
    }

    /// Elements of a_t for one stream.
    fn columns(&self) -> usize {
        C::GATES * self.sizes.hidden
    }

    /// Number of the parameter W_h; W_x is number 0, b number 1, W_s number 2.
    fn w_h(&self) -> usize {
        2 + usize::from(self.sizes.fixed.is_some())
    }

    /// A matrix of weights, `rows` × `columns`.
    fn weights(&self, rows: usize, columns: usize) -> ParamDef {
        let filler = self.param.weight_filler.clone().unwrap_or_default();
        ParamDef::learned(Shape::from([rows, columns]), filler)
    }

    fn bias(&self, len: usize) -> ParamDef {
        ParamDef::learned(Shape::from([len]), self.param.bias_filler.clone().unwrap_or_default())
    }

    fn params(&self) -> Vec<ParamDef> {
        let (columns, sizes) = (self.columns(), &self.sizes);
        let mut params = vec![self.weights(columns, sizes.inputs), self.bias(columns)];
        params.extend(sizes.fixed.map(|inputs| self.weights(columns, inputs)));
        params.push(self.weights(columns, sizes.hidden));
        params
    }

    fn reshape(&mut self, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let old = self.sizes.clone();
        self.sizes.measure(bottoms)?;
        self.sizes.expect_weights_of(&old, bottoms)?;
        let Sizes { streams, hidden, steps, .. } = self.sizes;
        if old != self.sizes || self.history[0].is_empty() {
            self.on_device.forget();
            for state in self.history.iter_mut().take(C::STATES.len()) {
                state.clear();
                state.resize((steps + 1) * streams * hidden, 0.0);
            }
        }
        self.gates.resize(self.sizes.rows() * self.columns(), 0.0);
        self.before.resize(self.sizes.rows() * hidden, 0.0);
        self.carried.iter_mut().for_each(|c| c.resize(streams * hidden, 0.0));
        if self.sizes.fixed.is_some() {
            self.fixed.resize(streams * self.columns(), 0.0);
        }
        Ok(self.sizes.tops(C::STATES))
    }

    /// h after every step.
    fn outputs(&self) -> &[f32] {
        &self.history[0][self.sizes.streams * self.sizes.hidden..]
    }

    /// Runs all steps; writes the tops that are states.
    fn forward(&mut self, run: &mut Run, io: &Io<'_>) -> Result<()> {
        self.begin(io)?;
        self.input_shares(run, io)?;
        let Sizes { steps, streams, hidden, .. } = self.sizes;
        let (columns, len) = (self.columns(), streams * hidden);
        let (cont, w_h) = (io.bottom(1)?, io.param(self.w_h())?);
        let threads = run.threads().limited(streams * columns, GRAIN);
        let product = Gemm::dense(false, true, streams, columns, hidden).accumulate();
        for step in 0..steps {
            let at = At { threads, step, cont: &cont[step * streams..][..streams], hidden };
            let before = &mut self.before[step * len..][..len];
            scale(at, &self.history[0][step * len..][..len], before);
            let gates = &mut self.gates[step * streams * columns..][..streams * columns];
            run.cpu()?.sgemm(product, before, w_h, gates)?;
            C::forward(at, gates, &mut self.history);
        }
        for i in 1..io.tops() {
            io.top_mut(i)?.copy_from_slice(&self.history[i - 1][steps * len..]);
        }
        Ok(())
    }

    /// States before the first step: the bottoms' or those that the last pass ended with.
    fn begin(&mut self, io: &Io<'_>) -> Result<()> {
        let Sizes { steps, streams, hidden, exposed, .. } = self.sizes;
        let len = streams * hidden;
        for (i, state) in self.history.iter_mut().take(C::STATES.len()).enumerate() {
            if exposed {
                state[..len].copy_from_slice(io.bottom(self.sizes.first_state() + i)?);
            } else {
                state.copy_within(steps * len.., 0);
            }
        }
        Ok(())
    }

    /// gates ← W_x · x_t + b + W_s · x_s, for all steps.
    fn input_shares(&mut self, run: &mut Run, io: &Io<'_>) -> Result<()> {
        let (columns, streams) = (self.columns(), self.sizes.streams);
        let product = Gemm::dense(false, true, self.sizes.rows(), columns, self.sizes.inputs);
        run.cpu()?.sgemm(product, io.bottom(0)?, io.param(0)?, &mut self.gates)?;
        if let Some(inputs) = self.sizes.fixed {
            let product = Gemm::dense(false, true, streams, columns, inputs);
            run.cpu()?.sgemm(product, io.bottom(2)?, io.param(2)?, &mut self.fixed)?;
        }
        let (b, fixed) = (io.param(1)?, &self.fixed);
        run.threads().par_chunks_mut(&mut self.gates, columns, |row, gates| {
            gates.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            if !fixed.is_empty() {
                let fixed = &fixed[row % streams * columns..][..columns];
                gates.iter_mut().zip(fixed).for_each(|(a, f)| *a += f);
            }
        });
        Ok(())
    }

    /// Adds to the gradients of the parameters and overwrites those of the bottoms; `dh` is the
    /// gradient by the outputs.
    fn backward(&mut self, run: &mut Run, io: &Io<'_>, dh: &[f32]) -> Result<()> {
        self.back_through_time(run, io, dh)?;
        let Sizes { streams, inputs, hidden, .. } = self.sizes;
        let (rows, columns, w_h) = (self.sizes.rows(), self.columns(), self.w_h());
        if io.param_needs_diff(0) {
            let product = Gemm::dense(true, false, columns, inputs, rows).accumulate();
            run.cpu()?.sgemm(product, &self.dgates, io.bottom(0)?, io.param_diff_mut(0)?)?;
        }
        if io.param_needs_diff(1) {
            inner_product::add_rows(run.threads(), &self.dgates, io.param_diff_mut(1)?);
        }
        if io.param_needs_diff(w_h) {
            let product = Gemm::dense(true, false, columns, hidden, rows).accumulate();
            run.cpu()?.sgemm(product, &self.dgates, &self.before, io.param_diff_mut(w_h)?)?;
        }
        if io.propagate_down(0) {
            let product = Gemm::dense(false, false, rows, inputs, columns);
            run.cpu()?.sgemm(product, &self.dgates, io.param(0)?, io.bottom_diff_mut(0)?)?;
        }
        if let Some(inputs) = self.sizes.fixed {
            self.fixed.fill(0.0);
            for step in self.dgates.chunks(streams * columns) {
                self.fixed.iter_mut().zip(step).for_each(|(sum, d)| *sum += d);
            }
            if io.param_needs_diff(2) {
                let product = Gemm::dense(true, false, columns, inputs, streams).accumulate();
                run.cpu()?.sgemm(product, &self.fixed, io.bottom(2)?, io.param_diff_mut(2)?)?;
            }
            if io.propagate_down(2) {
                let product = Gemm::dense(false, false, streams, inputs, columns);
                run.cpu()?.sgemm(product, &self.fixed, io.param(2)?, io.bottom_diff_mut(2)?)?;
            }
        }
        no_gradient(io, self.sizes.first_state())
    }

    /// Fills `dgates`, last step first.
    fn back_through_time(&mut self, run: &mut Run, io: &Io<'_>, dh: &[f32]) -> Result<()> {
        let Sizes { steps, streams, hidden, .. } = self.sizes;
        let (columns, len) = (self.columns(), streams * hidden);
        let (cont, w_h) = (io.bottom(1)?, io.param(self.w_h())?);
        let threads = run.threads().limited(streams * columns, GRAIN);
        let product = Gemm::dense(false, false, streams, hidden, columns);
        self.dgates.resize(steps * streams * columns, 0.0);
        let [carried, dc] = &mut self.carried;
        carried.fill(0.0);
        dc.fill(0.0);
        for step in (0..steps).rev() {
            let at = At { threads, step, cont: &cont[step * streams..][..streams], hidden };
            let here = step * streams * columns..(step + 1) * streams * columns;
            carried.iter_mut().zip(&dh[step * len..]).for_each(|(c, dh)| *c += dh);
            let dgates = &mut self.dgates[here.clone()];
            C::backward(at, &self.gates[here], &self.history, carried, dc, dgates);
            run.cpu()?.sgemm(product, dgates, w_h, carried)?;
            for (carried, cont) in carried.chunks_mut(hidden).zip(at.cont) {
                carried.iter_mut().for_each(|c| *c *= cont);
            }
        }
        Ok(())
    }
}

/// to ← cont · from, for each stream; 0 for one that begins, whatever its state was.
fn scale(at: At<'_>, from: &[f32], to: &mut [f32]) {
    let streams = from.chunks(at.hidden).zip(to.chunks_mut(at.hidden));
    for ((from, to), &cont) in streams.zip(at.cont) {
        match cont {
            0.0 => to.fill(0.0),
            1.0 => to.copy_from_slice(from),
            _ => to.iter_mut().zip(from).for_each(|(to, from)| *to = cont * from),
        }
    }
}

/// Sets the gradient of all bottoms from number `first` on to zero, where one is asked for.
fn no_gradient(io: &Io<'_>, first: usize) -> Result<()> {
    for i in (first..io.bottoms()).filter(|&i| io.propagate_down(i)) {
        io.bottom_diff_mut(i)?.fill(0.0);
    }
    Ok(())
}
