//! BatchReindex: a batch put together from the records of the first bottom that the second one
//! names, y[i] = x[index[i]]; a record may be named several times, or never.
//!
//! ```text
//! layer { name: "pick" type: "BatchReindex" bottom: "x" bottom: "index" top: "y" }
//! ```
//! A record's gradient is the sum over the places that it went to.

use super::chosen::{self, Chosen};
use super::{Count, CudaLayer, DeviceIo, Io, Layer, LayerDef, Setup, dims};
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::{Result, ensure};

/// The layer.
struct BatchReindex {
    records: usize,
    /// The records of the last forward pass.
    chosen: Vec<usize>,
    chosen_on_device: Chosen,
}

impl BatchReindex {
    fn choose(&mut self, index: &[f32]) -> Result<()> {
        for (position, record) in self.chosen.iter_mut().enumerate() {
            *record = dims::index(index, position, self.records)?;
        }
        Ok(())
    }
}

impl Layer for BatchReindex {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let [x, index] = bottoms else { return Ok(Vec::new()) };
        ensure!(x.axes() > 0, "needs a first bottom with an axis of records; its shape is {x}");
        ensure!(
            index.axes() == 1,
            "the second bottom must be a list of record numbers (one axis); its shape is {index}, \
             that of the first bottom {x}"
        );
        self.records = x[0];
        self.chosen.resize(index[0], 0);
        Ok(vec![x.with(0, index[0])])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        self.choose(io.bottom(1)?)?;
        // Records follow each other in every layout.
        let layout = io.bottom_layout(0);
        let (x, y) = (io.bottom_in(0, layout)?, io.top_mut_in(0, layout)?);
        let len = x.len() / self.records.max(1);
        run.threads().par_chunks_mut(y, len, |i, y| {
            y.copy_from_slice(&x[self.chosen[i] * len..][..len]);
        });
        Ok(())
    }

    fn backward(&mut self, _run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let layout = io.top_diff_layout(0);
        let (dy, dx) = (io.top_diff_in(0, layout)?, io.bottom_diff_mut_in(0, layout)?);
        let len = dx.len() / self.records.max(1);
        dx.fill(0.0);
        for (dy, &record) in dy.chunks(len.max(1)).zip(&self.chosen) {
            dx[record * len..][..len].iter_mut().zip(dy).for_each(|(dx, dy)| *dx += dy);
        }
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

impl CudaLayer for BatchReindex {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        self.choose(io.bottom_on_host(1)?)?;
        let rows = (&self.chosen[..], io.bottom_shape(0).count_from(1));
        self.chosen_on_device.gather(cuda, rows, io.bottom(0)?, io.top_mut(0)?)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let (dx, shape) = (io.bottom_diff_mut(0)?, io.bottom_shape(0));
        cuda.device.zero(dx, shape.count())?;
        let rows = (&self.chosen[..], shape.count_from(1));
        self.chosen_on_device.scatter(cuda, rows, io.top_diff(0)?, dx)
    }
}

fn build(_setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let chosen_on_device = Chosen::default();
    Ok(Box::new(BatchReindex { records: 0, chosen: Vec::new(), chosen_on_device }))
}

/// `BatchReindex`.
pub static DEF: LayerDef =
    LayerDef::new("BatchReindex", "the records of x that the second bottom names", build)
        .kernels(&[&chosen::KERNELS])
        .counts(Count::Exactly(2), Count::Exactly(1))
        .gradient_bottoms(1);

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{gradient, net, set, try_net, values};

    fn text(index: &str) -> String {
        format!(
            "force_backward: true \
             layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ dim: 3 dim: 2 }} }} }} \
             layer {{ name: 'i' type: 'Input' top: 'i' input_param {{ shape {{ {index} }} }} }} \
             layer {{ name: 'r' type: 'BatchReindex' bottom: 'x' bottom: 'i' top: 'y' }}"
        )
    }

    #[test]
    fn picks_records_and_sums_their_gradients() {
        let mut net = net(&text("dim: 4"), Phase::Test);
        set(&mut net, "x", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        set(&mut net, "i", &[2.0, 0.0, 2.0, 2.0]);
        net.forward().unwrap();
        assert_eq!(values(&mut net, "y"), [5.0, 6.0, 1.0, 2.0, 5.0, 6.0, 5.0, 6.0]);
        let y = net.blob("y").unwrap();
        net.diff_mut(y).unwrap().copy_from_slice(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        net.backward().unwrap();
        assert_eq!(gradient(&mut net, "x"), [3.0, 4.0, 0.0, 0.0, 13.0, 16.0]);
    }

    #[test]
    fn a_record_that_does_not_exist_is_named() {
        let mut net = net(&text("dim: 2"), Phase::Test);
        set(&mut net, "i", &[0.0, 3.0]);
        let message = net.forward().unwrap_err().to_string();
        let said = "index 3 at position 1 is outside the range 0 to 2";
        assert!(message.contains(said), "{message}");
    }

    #[test]
    fn the_list_has_one_axis() {
        let message = try_net(&text("dim: 2 dim: 1"), Phase::Test).err().unwrap().to_string();
        assert!(message.contains("2 1 (2)") && message.contains("3 2 (6)"), "{message}");
    }
}
