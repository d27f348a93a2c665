//! Embed: every number of the bottom becomes a row of a table, y = W[x] + b: what an inner product
//! makes of one-hot vectors, without the vectors.
//!
//! ```text
//! layer { name: "words" type: "Embed" bottom: "word" top: "vector"
//!         embed_param { input_dim: 8801 num_output: 1000 weight_filler { type: "uniform" min: -0.08 max: 0.08 } } }
//! ```
//! The top has the bottom's axes and one of `num_output` behind them. Parameters: W
//! (input_dim × num_output) and, with `bias_term`, b (num_output). The bottom gets no gradient.

use caffe_proto::EmbedParameter;

use super::chosen::{self, Chosen};
use super::dims::Around;
use super::per_channel::{self, Channels};
use super::{CudaLayer, DeviceIo, Io, Layer, LayerDef, Setup, dims};
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::params::ParamDef;
use crate::{Result, ensure};

/// The layer.
struct Embed {
    param: EmbedParameter,
    rows: usize,
    /// Elements of a row.
    width: usize,
    /// The rows of the last forward pass.
    chosen: Vec<usize>,
    chosen_on_device: Chosen,
}

impl Embed {
    fn choose(&mut self, x: &[f32]) -> Result<()> {
        for (position, row) in self.chosen.iter_mut().enumerate() {
            *row = dims::index(x, position, self.rows)?;
        }
        Ok(())
    }
}

impl Layer for Embed {
    fn params(&self) -> Vec<ParamDef> {
        let weights = self.param.weight_filler.clone().unwrap_or_default();
        let mut params = vec![ParamDef::learned(Shape::from([self.rows, self.width]), weights)];
        if self.param.bias_term() {
            let filler = self.param.bias_filler.clone().unwrap_or_default();
            params.push(ParamDef::learned(Shape::from([self.width]), filler));
        }
        params
    }

    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        self.chosen.resize(bottoms[0].count(), 0);
        let mut dims = bottoms[0].dims().to_vec();
        dims.push(self.width);
        Ok(vec![Shape::new(dims)])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        self.choose(io.bottom(0)?)?;
        let w = io.param(0)?;
        let b = if self.param.bias_term() { Some(io.param(1)?) } else { None };
        run.threads().par_chunks_mut(io.top_mut(0)?, self.width, |i, y| {
            y.copy_from_slice(&w[self.chosen[i] * self.width..][..self.width]);
            if let Some(b) = b {
                y.iter_mut().zip(b).for_each(|(y, b)| *y += b);
            }
        });
        Ok(())
    }

    fn backward(&mut self, _run: &mut Run, io: Io<'_>) -> Result<()> {
        let dy = io.top_diff(0)?;
        if io.param_needs_diff(0) {
            let dw = io.param_diff_mut(0)?;
            // A row may be chosen many times: in order, on one thread.
            for (dy, &row) in dy.chunks(self.width).zip(&self.chosen) {
                let dw = &mut dw[row * self.width..][..self.width];
                dw.iter_mut().zip(dy).for_each(|(dw, dy)| *dw += dy);
            }
        }
        if io.param_needs_diff(1) {
            let db = io.param_diff_mut(1)?;
            for dy in dy.chunks(self.width) {
                db.iter_mut().zip(dy).for_each(|(db, dy)| *db += dy);
            }
        }
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

impl Embed {
    /// The top's columns, each with an element of the bias.
    fn columns(&self) -> Channels {
        Channels::plain(Around { outer: self.chosen.len(), extent: self.width, inner: 1 })
    }
}

impl CudaLayer for Embed {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        self.choose(io.bottom_on_host(0)?)?;
        let y = io.top_mut(0)?;
        let rows = (&self.chosen[..], self.width);
        self.chosen_on_device.gather(cuda, rows, io.param(0)?, y)?;
        match self.param.bias_term() {
            true => self.columns().add_on(cuda, y, io.param(1)?, y),
            false => Ok(()),
        }
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let dy = io.top_diff(0)?;
        if io.param_needs_diff(0) {
            let rows = (&self.chosen[..], self.width);
            self.chosen_on_device.scatter(cuda, rows, dy, io.param_diff_mut(0)?)?;
        }
        if io.param_needs_diff(1) {
            self.columns().sums_on(cuda, dy, None, (io.param_diff_mut(1)?, true))?;
        }
        Ok(())
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.embed_param.as_deref().cloned().unwrap_or_default();
    let (rows, width) = (param.input_dim() as usize, param.num_output() as usize);
    ensure!(rows > 0, "needs input_dim, the number of rows of its table");
    ensure!(width > 0, "needs num_output, the length of a row");
    Ok(Box::new(Embed {
        rows,
        width,
        param,
        chosen: Vec::new(),
        chosen_on_device: Chosen::default(),
    }))
}

/// `Embed`.
pub static DEF: LayerDef =
    LayerDef::new("Embed", "a row of a learned table for every number", build)
        .kernels(&[&chosen::KERNELS, &per_channel::cuda::KERNELS])
        .gradient_bottoms(0);

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{net, set, try_net, values};

    fn text(param: &str) -> String {
        format!(
            "layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ dim: 2 }} }} }} \
             layer {{ name: 'e' type: 'Embed' bottom: 'x' top: 'y' embed_param {{ {param} }} }}"
        )
    }

    #[test]
    fn takes_rows_and_adds_the_bias() {
        let param = "input_dim: 3 num_output: 2 bias_filler { value: 10 }";
        let mut net = net(&text(param), Phase::Test);
        net.params().set_values(0, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        set(&mut net, "x", &[2.0, 0.0]);
        net.forward().unwrap();
        assert_eq!(values(&mut net, "y"), [15.0, 16.0, 11.0, 12.0]);
    }

    #[test]
    fn an_index_outside_is_named_with_its_range() {
        let mut net = net(&text("input_dim: 3 num_output: 2"), Phase::Test);
        for (bad, said) in [(3.0, "index 3"), (-1.0, "index -1"), (f32::NAN, "index NaN")] {
            set(&mut net, "x", &[0.0, bad]);
            let message = net.forward().unwrap_err().to_string();
            assert!(message.contains(said), "{message}");
            assert!(message.contains("position 1 is outside the range 0 to 2"), "{message}");
        }
    }

    #[test]
    fn needs_both_sizes() {
        for (param, missing) in [("num_output: 2", "input_dim"), ("input_dim: 2", "num_output")] {
            let message = try_net(&text(param), Phase::Test).err().unwrap().to_string();
            assert!(message.contains(missing), "{message}");
        }
    }
}
