//! Recurrent layers on a CUDA device: the same loop over steps, with the states and gates of all
//! steps in device memory.

use super::{Cell, Recurrence, sizes::Sizes};
use crate::Result;
use crate::device::cpu::gemm::Gemm;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::Address;
use crate::device::cuda::memory::{Memory, Scratch};
use crate::device::cuda::source::Source;
use crate::layers::DeviceIo;
use crate::layers::dims::Around;
use crate::layers::per_channel::Channels;

/// Kernels of all recurrent layers. An element is one of the state of one stream.
pub static KERNELS: Source = Source {
    name: "recurrent",
    text: r#"
#define SIGMOID(v) (1.0f / (1.0f + expf(-(v))))

// Gates i, f, o, g of element i: their sums become their values.
extern "C" __global__ void lstm_forward(int64 n, const float* cont, float* gates,
                                        const float* before, float* c, float* h, int64 hidden) {
  KERNEL_LOOP(i, n) {
    float* a = gates + i / hidden * 4 * hidden + i % hidden;
    float on = cont[i / hidden];
    float in = SIGMOID(a[0]), f = SIGMOID(a[hidden]), o = SIGMOID(a[2 * hidden]);
    float g = tanhf(a[3 * hidden]);
    a[0] = in;
    a[hidden] = f;
    a[2 * hidden] = o;
    a[3 * hidden] = g;
    // Nothing of a state that is forgotten, not even a NaN.
    float now = (on == 0.0f ? 0.0f : on * f * before[i]) + in * g;
    c[i] = now;
    h[i] = o * tanhf(now);
  }
}

// dc, by c, becomes that by the state before.
extern "C" __global__ void lstm_backward(int64 n, const float* cont, const float* gates,
                                         const float* before, const float* c, const float* dh,
                                         float* dc, float* dgates, int64 hidden) {
  KERNEL_LOOP(i, n) {
    int64 at = i / hidden * 4 * hidden + i % hidden;
    float in = gates[at], f = gates[at + hidden], o = gates[at + 2 * hidden];
    float g = gates[at + 3 * hidden], on = cont[i / hidden], squashed = tanhf(c[i]);
    float all = dc[i] + dh[i] * o * (1.0f - squashed * squashed);
    dgates[at] = all * g * in * (1.0f - in);
    dgates[at + hidden] = on == 0.0f ? 0.0f : all * on * before[i] * f * (1.0f - f);
    dgates[at + 2 * hidden] = dh[i] * squashed * o * (1.0f - o);
    dgates[at + 3 * hidden] = all * in * (1.0f - g * g);
    dc[i] = on == 0.0f ? 0.0f : all * on * f;
  }
}

// y = h = tanh(y + b), where there is a b.
extern "C" __global__ void rnn_forward(int64 n, float* y, float* h, const float* b, int64 hidden,
                                       int has_b) {
  KERNEL_LOOP(i, n) {
    y[i] = tanhf(y[i] + (has_b ? b[i % hidden] : 0.0f));
    h[i] = y[i];
  }
}

extern "C" __global__ void rnn_backward(int64 n, const float* y, const float* dy, float* da) {
  KERNEL_LOOP(i, n) { da[i] = dy[i] * (1.0f - y[i] * y[i]); }
}

// to = cont * from; 0 for a stream that begins, whatever its state was.
extern "C" __global__ void carry_on(int64 n, const float* cont, const float* from, float* to,
                                    int64 hidden) {
  KERNEL_LOOP(i, n) {
    float on = cont[i / hidden];
    to[i] = on == 0.0f ? 0.0f : on * from[i];
  }
}

// y += x, again and again.
extern "C" __global__ void add_repeated(int64 n, const float* x, float* y, int64 period) {
  KERNEL_LOOP(i, n) { y[i] += x[i % period]; }
}
"#,
    functions: &[
        "lstm_forward",
        "lstm_backward",
        "rnn_forward",
        "rnn_backward",
        "carry_on",
        "add_repeated",
    ],
};

/// What a recurrence keeps in device memory; the names are those of the host's.
#[derive(Default)]
pub struct Kept {
    history: Vec<Memory>,
    gates: Scratch,
    before: Scratch,
    dgates: Scratch,
    carried: [Scratch; 2],
    fixed: Scratch,
}

impl Kept {
    /// Begins anew, with states of 0.
    pub fn forget(&mut self) {
        self.history.clear();
    }
}

/// One step of all streams.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    /// The device.
    pub cuda: &'a CudaRun,
    /// Elements of all streams' states, and of one.
    pub len: usize,
    pub hidden: usize,
    /// Of each stream, whether its sequence goes on.
    pub cont: Address,
    /// Sums, or values, of the gates.
    pub gates: Address,
    /// States before the step, h first; those after it follow.
    pub states: [Address; 2],
}

/// Gradients of one step.
#[derive(Clone, Copy)]
pub struct Gradients {
    /// By h after the step.
    pub dh: Address,
    /// By the other state: after the step, then before it.
    pub dc: Address,
    /// By the gates' sums, to be written.
    pub dgates: Address,
}

impl Step<'_> {
    /// States after the step.
    pub fn after(self) -> [Address; 2] {
        self.states.map(|state| state.plus(self.len))
    }
}

/// The LSTM cell: from the state before to c and h.
pub fn lstm_forward(at: Step<'_>, [before, c, h]: [Address; 3]) -> Result<()> {
    let (cont, gates) = (at.cont.into(), at.gates.into());
    let args = [cont, gates, before.into(), c.into(), h.into(), at.hidden.into()];
    at.cuda.each(&KERNELS, "lstm_forward", at.len, &args)
}

/// Its way back, with the states before and after.
pub fn lstm_backward(at: Step<'_>, [before, c]: [Address; 2], by: Gradients) -> Result<()> {
    let args = [
        at.cont.into(),
        at.gates.into(),
        before.into(),
        c.into(),
        by.dh.into(),
        by.dc.into(),
        by.dgates.into(),
        at.hidden.into(),
    ];
    at.cuda.each(&KERNELS, "lstm_backward", at.len, &args)
}

/// Sets the gradient of all bottoms from number `first` on to zero, where one is asked for.
pub fn no_gradient(cuda: &CudaRun, io: &DeviceIo<'_>, first: usize) -> Result<()> {
    for i in (first..io.bottoms()).filter(|&i| io.propagate_down(i)) {
        cuda.device.zero(io.bottom_diff_mut(i)?, io.bottom_shape(i).count())?;
    }
    Ok(())
}

/// Rows of a matrix, with a bias for every column.
pub fn columns(rows: usize, columns: usize) -> Channels {
    Channels::plain(Around { outer: rows, extent: columns, inner: 1 })
}

impl<C: Cell> Recurrence<C> {
    /// Elements of all streams' states after one step.
    fn len(&self) -> usize {
        self.sizes.streams * self.sizes.hidden
    }

    /// The states before the first step; where the cell has one only, that one twice.
    fn history_on(&mut self, cuda: &CudaRun) -> Result<[Address; 2]> {
        let floats = (self.sizes.steps + 1) * self.len();
        while self.on_device.history.len() < C::STATES.len() {
            self.on_device.history.push(Memory::zeroed(&cuda.device, floats)?);
        }
        let history = &self.on_device.history;
        Ok([0, C::STATES.len() - 1].map(|i| history[i].at()))
    }

    /// h after every step.
    pub(super) fn outputs_on(&mut self, cuda: &CudaRun) -> Result<Address> {
        Ok(self.history_on(cuda)?[0].plus(self.len()))
    }

    fn gates_on(&mut self, cuda: &CudaRun) -> Result<Address> {
        self.on_device.gates.room(&cuda.device, self.sizes.rows() * self.columns())
    }

    fn step_on<'a>(
        &mut self,
        cuda: &'a CudaRun,
        io: &DeviceIo<'_>,
        step: usize,
    ) -> Result<Step<'a>> {
        let Sizes { streams, hidden, .. } = self.sizes;
        let len = self.len();
        Ok(Step {
            cuda,
            len,
            hidden,
            cont: io.bottom(1)?.plus(step * streams),
            gates: self.gates_on(cuda)?.plus(step * streams * self.columns()),
            states: self.history_on(cuda)?.map(|state| state.plus(step * len)),
        })
    }

    /// Runs all steps; writes the tops that are states.
    pub(super) fn forward_on(&mut self, cuda: &CudaRun, io: &DeviceIo<'_>) -> Result<()> {
        let Sizes { steps, streams, hidden, exposed, .. } = self.sizes;
        let (columns, len, first) = (self.columns(), self.len(), self.sizes.first_state());
        let history = self.history_on(cuda)?;
        for (i, state) in history.into_iter().take(C::STATES.len()).enumerate() {
            let from = if exposed { io.bottom(first + i)? } else { state.plus(steps * len) };
            cuda.device.copy(from, state, len)?;
        }
        self.input_shares_on(cuda, io)?;
        let before = self.on_device.before.room(&cuda.device, steps * len)?;
        let product = Gemm::dense(false, true, streams, columns, hidden).accumulate();
        let w_h = io.param(self.w_h())?;
        for step in 0..steps {
            let at = self.step_on(cuda, io, step)?;
            let before = before.plus(step * len);
            let args = [at.cont.into(), at.states[0].into(), before.into(), hidden.into()];
            cuda.each(&KERNELS, "carry_on", len, &args)?;
            cuda.product(product, before, w_h, at.gates)?;
            C::forward_on(at)?;
        }
        for i in 1..io.tops() {
            cuda.device.copy(history[i - 1].plus(steps * len), io.top_mut(i)?, len)?;
        }
        Ok(())
    }

    /// gates ← W_x · x_t + b + W_s · x_s, for all steps.
    fn input_shares_on(&mut self, cuda: &CudaRun, io: &DeviceIo<'_>) -> Result<()> {
        let (width, streams, rows) = (self.columns(), self.sizes.streams, self.sizes.rows());
        let gates = self.gates_on(cuda)?;
        let product = Gemm::dense(false, true, rows, width, self.sizes.inputs);
        cuda.product(product, io.bottom(0)?, io.param(0)?, gates)?;
        columns(rows, width).add_on(cuda, gates, io.param(1)?, gates)?;
        let Some(inputs) = self.sizes.fixed else { return Ok(()) };
        let fixed = self.on_device.fixed.room(&cuda.device, streams * width)?;
        let product = Gemm::dense(false, true, streams, width, inputs);
        cuda.product(product, io.bottom(2)?, io.param(2)?, fixed)?;
        let args = [fixed.into(), gates.into(), (streams * width).into()];
        cuda.each(&KERNELS, "add_repeated", rows * width, &args)
    }

    /// Adds to the gradients of the parameters and overwrites those of the bottoms; `dh` is the
    /// gradient by the outputs.
    pub(super) fn backward_on(
        &mut self,
        cuda: &CudaRun,
        io: &DeviceIo<'_>,
        dh: Address,
    ) -> Result<()> {
        let dgates = self.back_through_time_on(cuda, io, dh)?;
        let Sizes { inputs, hidden, .. } = self.sizes;
        let (rows, width, w_h) = (self.sizes.rows(), self.columns(), self.w_h());
        if io.param_needs_diff(0) {
            let product = Gemm::dense(true, false, width, inputs, rows).accumulate();
            cuda.product(product, dgates, io.bottom(0)?, io.param_diff_mut(0)?)?;
        }
        if io.param_needs_diff(1) {
            columns(rows, width).sums_on(cuda, dgates, None, (io.param_diff_mut(1)?, true))?;
        }
        if io.param_needs_diff(w_h) {
            let before = self.on_device.before.room(&cuda.device, rows * hidden)?;
            let product = Gemm::dense(true, false, width, hidden, rows).accumulate();
            cuda.product(product, dgates, before, io.param_diff_mut(w_h)?)?;
        }
        if io.propagate_down(0) {
            let product = Gemm::dense(false, false, rows, inputs, width);
            cuda.product(product, dgates, io.param(0)?, io.bottom_diff_mut(0)?)?;
        }
        if let Some(inputs) = self.sizes.fixed {
            self.backward_fixed_on(cuda, io, dgates, inputs)?;
        }
        no_gradient(cuda, io, self.sizes.first_state())
    }

    /// The share of the input that is the same in all steps.
    fn backward_fixed_on(
        &mut self,
        cuda: &CudaRun,
        io: &DeviceIo<'_>,
        dgates: Address,
        inputs: usize,
    ) -> Result<()> {
        let Sizes { steps, streams, .. } = self.sizes;
        let width = self.columns();
        let fixed = self.on_device.fixed.room(&cuda.device, streams * width)?;
        columns(steps, streams * width).sums_on(cuda, dgates, None, (fixed, false))?;
        if io.param_needs_diff(2) {
            let product = Gemm::dense(true, false, width, inputs, streams).accumulate();
            cuda.product(product, fixed, io.bottom(2)?, io.param_diff_mut(2)?)?;
        }
        if io.propagate_down(2) {
            let product = Gemm::dense(false, false, streams, inputs, width);
            cuda.product(product, fixed, io.param(2)?, io.bottom_diff_mut(2)?)?;
        }
        Ok(())
    }

    /// The gradients by the gates' sums of all steps, last step first.
    fn back_through_time_on(
        &mut self,
        cuda: &CudaRun,
        io: &DeviceIo<'_>,
        dh: Address,
    ) -> Result<Address> {
        let Sizes { steps, streams, hidden, .. } = self.sizes;
        let (columns, len) = (self.columns(), self.len());
        let all = self.on_device.dgates.room(&cuda.device, steps * streams * columns)?;
        let product = Gemm::dense(false, false, streams, hidden, columns);
        let w_h = io.param(self.w_h())?;
        let [mut carried, mut dc] = [Address(0); 2];
        for (at, room) in [&mut carried, &mut dc].into_iter().zip(&mut self.on_device.carried) {
            *at = room.room(&cuda.device, len)?;
            cuda.device.zero(*at, len)?;
        }
        for step in (0..steps).rev() {
            let at = self.step_on(cuda, io, step)?;
            let dgates = all.plus(step * streams * columns);
            let args = [dh.plus(step * len).into(), carried.into(), len.into()];
            cuda.each(&KERNELS, "add_repeated", len, &args)?;
            C::backward_on(at, Gradients { dh: carried, dc, dgates })?;
            cuda.product(product, dgates, w_h, carried)?;
            let args = [at.cont.into(), carried.into(), carried.into(), hidden.into()];
            cuda.each(&KERNELS, "carry_on", len, &args)?;
        }
        Ok(all)
    }
}
