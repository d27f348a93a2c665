//! Filter: lets those records through whose selector is not 0. The last bottom is the selector, a
//! number per record; every other bottom has a top, which holds its selected records in order.
//!
//! ```text
//! layer { name: "hard" type: "Filter" bottom: "x" bottom: "label" bottom: "is_hard"
//!         top: "hard_x" top: "hard_label" }
//! ```
//! So the tops' first extent changes from pass to pass, down to 0, and the layers behind work on
//! what is there; before the first pass it is that of the bottoms. A record that was held back gets
//! the gradient 0.

use super::chosen::{self, Chosen};
use super::{Count, CudaLayer, DeviceIo, Differentiable, Io, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::{Result, bail, ensure};

/// The layer.
struct Filter {
    records: usize,
    /// Numbers of the records that the present pass lets through.
    selected: Vec<usize>,
    selected_on_device: Chosen,
    tops: usize,
}

impl Layer for Filter {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let Some((selector, others)) = bottoms.split_last() else { return Ok(Vec::new()) };
        ensure!(
            others.len() == self.tops,
            "needs a bottom for each of the {} tops and a selector behind them, got {} bottoms",
            self.tops,
            bottoms.len()
        );
        // Axes of extent 1 behind the first change nothing.
        if selector.axes() == 0 || selector.count() != selector[0] {
            bail!("the selector (the last bottom) needs one number per record; it has {selector}");
        }
        for (i, shape) in others.iter().enumerate() {
            ensure!(
                shape.dims().first() == Some(&selector[0]),
                "bottom {i} of shape {shape} and the selector of shape {selector} have different \
                 numbers of records"
            );
        }
        self.records = selector[0];
        Ok(others.to_vec())
    }

    fn top_shapes(&mut self, io: &Io<'_>) -> Result<Option<Vec<Shape>>> {
        let selector = io.bottom(io.tops())?;
        self.selected.clear();
        self.selected.extend((0..selector.len()).filter(|&i| selector[i] != 0.0));
        let count = self.selected.len();
        Ok(Some((0..io.tops()).map(|i| io.bottom_shape(i).with(0, count)).collect()))
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        for i in 0..io.tops() {
            // Records follow each other in every layout.
            let layout = io.bottom_layout(i);
            let (x, y) = (io.bottom_in(i, layout)?, io.top_mut_in(i, layout)?);
            let len = x.len() / self.records.max(1);
            run.threads().par_chunks_mut(y, len, |k, y| {
                y.copy_from_slice(&x[self.selected[k] * len..][..len]);
            });
        }
        Ok(())
    }

    fn backward(&mut self, _run: &mut Run, io: Io<'_>) -> Result<()> {
        for i in (0..io.tops()).filter(|&i| io.propagate_down(i)) {
            if !io.top_has_diff(i) {
                io.bottom_diff_mut(i)?.fill(0.0);
                continue;
            }
            let layout = io.top_diff_layout(i);
            let (dy, dx) = (io.top_diff_in(i, layout)?, io.bottom_diff_mut_in(i, layout)?);
            let len = dx.len() / self.records.max(1);
            dx.fill(0.0);
            for (dy, &record) in dy.chunks(len.max(1)).zip(&self.selected) {
                dx[record * len..][..len].copy_from_slice(dy);
            }
        }
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

impl CudaLayer for Filter {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        for i in 0..io.tops() {
            let rows = (&self.selected[..], io.bottom_shape(i).count_from(1));
            self.selected_on_device.gather(cuda, rows, io.bottom(i)?, io.top_mut(i)?)?;
        }
        Ok(())
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        for i in (0..io.tops()).filter(|&i| io.propagate_down(i)) {
            let (dx, shape) = (io.bottom_diff_mut(i)?, io.bottom_shape(i));
            cuda.device.zero(dx, shape.count())?;
            if io.top_has_diff(i) {
                let rows = (&self.selected[..], shape.count_from(1));
                self.selected_on_device.scatter(cuda, rows, io.top_diff(i)?, dx)?;
            }
        }
        Ok(())
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    Ok(Box::new(Filter {
        records: 0,
        selected: Vec::new(),
        selected_on_device: Chosen::default(),
        tops: setup.tops,
    }))
}

/// `Filter`.
pub static DEF: LayerDef =
    LayerDef::new("Filter", "the records whose selector, the last bottom, is not 0", build)
        .kernels(&[&chosen::KERNELS])
        .counts(Count::AtLeast(2), Count::AtLeast(1))
        .differentiable(Differentiable::AllButLast);

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{net, set, try_net, values};

    fn text(bottoms: [&str; 3]) -> String {
        let input = |i: usize| {
            format!(
                "layer {{ name: 'b{i}' type: 'Input' top: 'b{i}' input_param {{ shape {{ {} }} }} }} ",
                bottoms[i]
            )
        };
        (0..3).map(input).collect::<String>()
            + "layer { name: 'f' type: 'Filter' bottom: 'b0' bottom: 'b1' bottom: 'b2' top: 'y' top: 'z' }"
    }

    #[test]
    fn tops_follow_the_selector_from_pass_to_pass() {
        let mut net = net(&text(["dim: 3 dim: 2", "dim: 3", "dim: 3 dim: 1"]), Phase::Test);
        set(&mut net, "b0", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        set(&mut net, "b1", &[7.0, 8.0, 9.0]);
        for (selector, y, z) in [
            ([1.0, 0.0, 1.0], &[1.0, 2.0, 5.0, 6.0][..], &[7.0, 9.0][..]),
            ([0.0, 0.0, 0.0], &[], &[]),
            ([1.0, -1.0, 0.5], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[7.0, 8.0, 9.0]),
        ] {
            set(&mut net, "b2", &selector);
            net.forward().unwrap();
            assert_eq!(values(&mut net, "y"), y);
            assert_eq!(values(&mut net, "z"), z);
        }
    }

    #[test]
    fn records_must_match_the_selector() {
        for (bottoms, said) in [
            (["dim: 3 dim: 2", "dim: 3", "dim: 4"], ["3 2 (6)", "4 (4)"]),
            (["dim: 4", "dim: 3 dim: 5", "dim: 4"], ["3 5 (15)", "4 (4)"]),
            (["dim: 4", "dim: 4", "dim: 4 dim: 2"], ["one number per record", "4 2 (8)"]),
        ] {
            let message = try_net(&text(bottoms), Phase::Test).err().unwrap().to_string();
            assert!(said.iter().all(|said| message.contains(said)), "{message}");
        }
    }
}
