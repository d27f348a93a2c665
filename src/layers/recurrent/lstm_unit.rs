//! LSTMUnit: one step of LSTM without its weights: the cell's state and its output from the state
//! before and the sums that enter the gates.
//!
//! ```text
//! layer { name: "unit" type: "LSTMUnit" bottom: "c_before" bottom: "sums" bottom: "cont" top: "c" top: "h" }
//! ```
//! Bottoms: c_before (1 × N × D); the sums of the gates i, f, o and g (1 × N × 4D); cont (1 × N), 0
//! where a sequence begins. Tops: c and h (1 × N × D each).

use super::GRAIN;
use super::cell::{self, Done};
use super::cuda::{self, Gradients, KERNELS, Step};
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::Address;
use crate::device::cuda::memory::Scratch;
use crate::layers::{Count, CudaLayer, DeviceIo, Io, Layer, LayerDef, Setup, dims};
use crate::{Result, ensure};

/// The layer.
struct LstmUnit {
    hidden: usize,
    /// Values of the gates and c in the last forward pass.
    gates: Vec<f32>,
    cells: Vec<f32>,
    /// Gradients by c, which become those by c_before, and by h: zeros where none arrives.
    dc: Vec<f32>,
    dh: Vec<f32>,
    dgates: Vec<f32>,
    on_device: OnDevice,
}

/// The same in device memory.
#[derive(Default)]
struct OnDevice {
    gates: Scratch,
    cells: Scratch,
    dc: Scratch,
    dh: Scratch,
    dgates: Scratch,
}

impl Layer for LstmUnit {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let before = &bottoms[0];
        ensure!(
            before.axes() == 3 && before[0] == 1,
            "needs a first bottom with axes 1, N, D (the states before); its shape is {before}"
        );
        let [streams, hidden] = [before[1], before[2]];
        let wanted = Shape::from([1, streams, 4 * hidden]);
        dims::expect(
            "the gates' sums (bottom 1), by the states of bottom 0",
            &wanted,
            &bottoms[1],
        )?;
        let wanted = Shape::from([1, streams]);
        dims::expect("cont (bottom 2), by the states of bottom 0", &wanted, &bottoms[2])?;
        self.hidden = hidden;
        self.gates.resize(4 * before.count(), 0.0);
        self.cells.resize(before.count(), 0.0);
        Ok(vec![before.clone(), before.clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let (before, cont, n) = (io.bottom(0)?, io.bottom(2)?, self.hidden);
        self.gates.copy_from_slice(io.bottom(1)?);
        let (gates, c, h) = (&mut self.gates[..], &mut self.cells[..], io.top_mut(1)?);
        let threads = run.threads().limited(gates.len(), GRAIN);
        threads.par_zip3_mut((gates, 4 * n), (c, n), (h, n), |i, gates, c, h| {
            cell::forward(cont[i], gates, &before[i * n..][..n], c, h);
        });
        io.top_mut(0)?.copy_from_slice(&self.cells);
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let (before, cont, n) = (io.bottom(0)?, io.bottom(2)?, self.hidden);
        for (top, gradient) in [(0, &mut self.dc), (1, &mut self.dh)] {
            gradient.clear();
            if io.top_has_diff(top) {
                gradient.extend_from_slice(io.top_diff(top)?);
            }
            gradient.resize(self.cells.len(), 0.0);
        }
        self.dgates.resize(self.gates.len(), 0.0);
        let (dc, dgates) = (&mut self.dc[..], &mut self.dgates[..]);
        let (gates, cells, dh) = (&self.gates, &self.cells, &self.dh);
        let threads = run.threads().limited(gates.len(), GRAIN);
        threads.par_zip2_mut((dc, n), (dgates, 4 * n), |i, dc, dgates| {
            let here = i * n..(i + 1) * n;
            let done = Done {
                cont: cont[i],
                gates: &gates[4 * i * n..][..4 * n],
                before: &before[here.clone()],
                c: &cells[here.clone()],
            };
            cell::backward(&done, &dh[here], dc, dgates);
        });
        for (bottom, gradient) in [(0, &self.dc), (1, &self.dgates)] {
            if io.propagate_down(bottom) {
                io.bottom_diff_mut(bottom)?.copy_from_slice(gradient);
            }
        }
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

impl LstmUnit {
    /// The step, and c after it.
    fn step_on<'a>(&mut self, cuda: &'a CudaRun, io: &DeviceIo<'_>) -> Result<(Step<'a>, Address)> {
        let (len, before) = (io.bottom_shape(0).count(), io.bottom(0)?);
        let gates = self.on_device.gates.room(&cuda.device, 4 * len)?;
        let (cont, states) = (io.bottom(2)?, [before; 2]);
        let step = Step { cuda, len, hidden: self.hidden, cont, gates, states };
        Ok((step, self.on_device.cells.room(&cuda.device, len)?))
    }
}

impl CudaLayer for LstmUnit {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let (step, c) = self.step_on(cuda, &io)?;
        cuda.device.copy(io.bottom(1)?, step.gates, 4 * step.len)?;
        cuda::lstm_forward(step, [step.states[0], c, io.top_mut(1)?])?;
        cuda.device.copy(c, io.top_mut(0)?, step.len)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let (step, c) = self.step_on(cuda, &io)?;
        let dc = self.on_device.dc.room(&cuda.device, step.len)?;
        let dh = self.on_device.dh.room(&cuda.device, step.len)?;
        let dgates = self.on_device.dgates.room(&cuda.device, 4 * step.len)?;
        for (top, gradient) in [(0, dc), (1, dh)] {
            match io.top_has_diff(top) {
                true => cuda.device.copy(io.top_diff(top)?, gradient, step.len)?,
                false => cuda.device.zero(gradient, step.len)?,
            }
        }
        cuda::lstm_backward(step, [step.states[0], c], Gradients { dh, dc, dgates })?;
        for (bottom, gradient) in [(0, dc), (1, dgates)] {
            if io.propagate_down(bottom) {
                let n = io.bottom_shape(bottom).count();
                cuda.device.copy(gradient, io.bottom_diff_mut(bottom)?, n)?;
            }
        }
        Ok(())
    }
}

fn build(_setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    Ok(Box::new(LstmUnit {
        hidden: 0,
        gates: Vec::new(),
        cells: Vec::new(),
        dc: Vec::new(),
        dh: Vec::new(),
        dgates: Vec::new(),
        on_device: OnDevice::default(),
    }))
}

/// `LSTMUnit`.
pub static DEF: LayerDef =
    LayerDef::new("LSTMUnit", "one step of an LSTM, without its weights", build)
        .kernels(&[&KERNELS])
        .counts(Count::Exactly(3), Count::Exactly(2))
        .gradient_bottoms(2);

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::try_net;

    #[test]
    fn bottoms_must_fit_the_states() {
        for (shapes, said) in [
            (
                ["dim: 1 dim: 3 dim: 4", "dim: 1 dim: 3 dim: 12", "dim: 1 dim: 3"],
                ["1 3 16 (48)", "1 3 12 (36)"],
            ),
            (["dim: 1 dim: 3 dim: 4", "dim: 1 dim: 3 dim: 16", "dim: 3"], ["1 3 (3)", "got 3 (3)"]),
            (
                ["dim: 2 dim: 3 dim: 4", "dim: 1 dim: 3 dim: 16", "dim: 3"],
                ["axes 1, N, D", "2 3 4 (24)"],
            ),
        ] {
            let input = |i: usize| {
                format!(
                    "layer {{ name: 'b{i}' type: 'Input' top: 'b{i}' input_param {{ shape {{ {} }} }} }} ",
                    shapes[i]
                )
            };
            let text = (0..3).map(input).collect::<String>()
                + "layer { name: 'u' type: 'LSTMUnit' bottom: 'b0' bottom: 'b1' bottom: 'b2' top: 'c' top: 'h' }";
            let message = try_net(&text, Phase::Test).err().unwrap().to_string();
            assert!(said.iter().all(|said| message.contains(said)), "{message}");
        }
    }
}
