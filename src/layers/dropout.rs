//! Dropout: in TRAIN y = x · m / (1 − dropout_ratio) with m = 0 for a random share of
//! `dropout_ratio` of the elements and 1 for the others; in TEST y = x. Also in place.
//!
//! ```text
//! layer { name: "drop6" type: "Dropout" bottom: "fc6" top: "fc6" dropout_param { dropout_ratio: 0.5 } }
//! ```
//! m is a function of (seed, layer, record position, element): a record meets the same mask in
//! whatever replica and batch it is, and backward computes it again instead of keeping it.

use caffe_proto::Phase;

use super::{CudaLayer, DeviceIo, Io, Layer, LayerDef, Reals, Setup};
use crate::blob::{Layout, Shape};
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::backend::Address;
use crate::device::cuda::divisor::Divisor;
use crate::device::cuda::source::Source;
use crate::rng::{Philox, philox_cuda};
use crate::{Result, ensure};

/// The layer.
struct Dropout {
    train: bool,
    /// Words below this drop their element.
    threshold: u32,
    scale: f32,
    random: Philox,
    /// Position of the batch's first record in the last forward pass.
    first_record: u64,
}

/// Four neighbouring elements share one call of the generator.
const QUAD: usize = 4;

impl Dropout {
    /// y of one record from x, or in place where there is no x. Elements count in plain order.
    fn record(&self, position: u64, x: Option<&[f32]>, y: &mut [f32]) {
        let first = position.wrapping_mul(y.len().div_ceil(QUAD) as u64);
        for (q, y) in y.chunks_mut(QUAD).enumerate() {
            let words = self.random.at(first.wrapping_add(q as u64));
            for (i, y) in y.iter_mut().enumerate() {
                let x = x.map_or(*y, |x| x[q * QUAD + i]);
                *y = if words[i] < self.threshold { 0.0 } else { x * self.scale };
            }
        }
    }

    /// The layout to work in: masks go by plain order, which a blocked blob of single pixels
    /// without padding has too.
    fn layout(there: Layout, shape: &Shape) -> Layout {
        let same = there != Layout::Plain && shape.count_from(2) == 1 && !shape.is_padded_in(there);
        if same { there } else { Layout::Plain }
    }

    fn apply(&self, run: &Run, shape: &Shape, x: Option<&[f32]>, y: &mut [f32]) {
        let records = shape.dims().first().copied().unwrap_or(1).max(1);
        let len = y.len() / records;
        run.threads().par_chunks_mut(y, len, |n, y| {
            let x = x.map(|x| &x[n * len..][..y.len()]);
            self.record(self.first_record + n as u64, x, y);
        });
    }
}

impl Layer for Dropout {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        self.first_record = run.step().first_record;
        let shape = io.bottom_shape(0);
        match (self.train, io.in_place()) {
            (true, true) => {
                let layout = Self::layout(io.bottom_layout(0), shape);
                self.apply(run, shape, None, io.top_update_in(0, layout)?);
            }
            (true, false) => {
                let layout = Self::layout(io.bottom_layout(0), shape);
                let x = io.bottom_in(0, layout)?;
                self.apply(run, shape, Some(x), io.top_mut_in(0, layout)?);
            }
            (false, true) => {}
            (false, false) => {
                let layout = io.bottom_layout(0);
                io.top_mut_in(0, layout)?.copy_from_slice(io.bottom_in(0, layout)?);
            }
        }
        Ok(())
    }

    fn backward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let shape = io.bottom_shape(0);
        let layout = match self.train {
            true => Self::layout(io.top_diff_layout(0), shape),
            false => io.top_diff_layout(0),
        };
        if io.in_place() {
            if self.train {
                self.apply(run, shape, None, io.bottom_diff_update_in(0, layout)?);
            }
            return Ok(());
        }
        let (dy, dx) = (io.top_diff_in(0, layout)?, io.bottom_diff_mut_in(0, layout)?);
        if self.train {
            self.apply(run, shape, Some(dy), dx);
        } else {
            dx.copy_from_slice(dy);
        }
        Ok(())
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source = Source {
    name: "dropout",
    text: concat!(
        philox_cuda!(),
        r#"
// Four neighbouring elements of a record share one call of the generator.
extern "C" __global__ void dropout(int64 n, const real* x, real* y, int64 len, Divisor quads,
                                   const Step* step, int key0, int key1, int stream0, int stream1,
                                   int threshold, float scale) {
  KERNEL_LOOP(q, n) {
    int64 record = over(q, quads), quad = q - record * NUMBER(quads);
    uint32 words[4];
    philox((step->first_record + record) * NUMBER(quads) + quad, key0, key1, stream0, stream1, words);
    for (int k = 0; k < 4 && 4 * quad + k < len; ++k) {
      int64 at = record * len + 4 * quad + k;
      y[at] = words[k] < (uint32)threshold ? 0.0f : x[at] * scale;
    }
  }
}
"#
    ),
    functions: &["dropout"],
};

impl Dropout {
    /// y from x, also in place.
    fn apply_on(&self, cuda: &CudaRun, shape: &Shape, x: Address, y: Address) -> Result<()> {
        if !self.train {
            return if x == y { Ok(()) } else { cuda.copy(x, y, shape.count()) };
        }
        let records = shape.dims().first().copied().unwrap_or(1);
        let len = shape.count() / records.max(1);
        let quads = len.div_ceil(QUAD);
        let [key0, key1, stream0, stream1] = self.random.words().map(u32::cast_signed);
        let args = [
            x.into(),
            y.into(),
            len.into(),
            Divisor::new(quads).into(),
            cuda.record.at().into(),
            key0.into(),
            key1.into(),
            stream0.into(),
            stream1.into(),
            self.threshold.cast_signed().into(),
            self.scale.into(),
        ];
        cuda.each(&KERNELS, "dropout", records * quads, &args)
    }
}

impl CudaLayer for Dropout {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let (x, y) = io.through()?;
        self.apply_on(cuda, io.bottom_shape(0), x, y)
    }

    fn backward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        if !io.propagate_down(0) {
            return Ok(());
        }
        let (dy, dx) = io.back_through()?;
        self.apply_on(cuda, io.bottom_shape(0), dy, dx)
    }

    fn reals(&self) -> Reals {
        Reals::FIRST
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let ratio = setup.param.dropout_param.as_deref().cloned().unwrap_or_default().dropout_ratio();
    ensure!(
        (0.0..1.0).contains(&ratio),
        "dropout_ratio must be at least 0 and below 1, got {ratio}"
    );
    Ok(Box::new(Dropout {
        train: setup.phase == Phase::Train,
        threshold: (f64::from(ratio) * f64::from(u32::MAX)) as u32,
        scale: 1.0 / (1.0 - ratio),
        random: Philox::new(setup.seed, setup.index as u64),
        first_record: 0,
    }))
}

/// `Dropout`.
pub static DEF: LayerDef =
    LayerDef::new("Dropout", "drops a random share of the elements in training", build)
        .kernels(&[&KERNELS])
        .in_place();

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::device::Step;
    use crate::layers::testing::{net, values};
    use crate::net::Net;

    fn text(records: usize) -> String {
        format!(
            "force_backward: true \
             layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ dim: {records} dim: 1000 }} }} }} \
             layer {{ name: 'd' type: 'Dropout' bottom: 'x' top: 'y' dropout_param {{ dropout_ratio: 0.3 }} }}"
        )
    }

    fn run(net: &mut Net, first_record: u64) -> Vec<f32> {
        let x = net.blob("x").unwrap();
        net.data_mut(x).unwrap().fill(1.0);
        net.set_step(Step { iter: 0, first_record });
        net.forward().unwrap();
        values(net, "y")
    }

    #[test]
    fn keeps_the_share_and_the_mean() {
        let y = run(&mut net(&text(20), Phase::Train), 0);
        let kept = y.iter().filter(|v| **v != 0.0).count() as f32 / y.len() as f32;
        assert!((kept - 0.7).abs() < 0.01, "{kept}");
        assert!(y.iter().all(|v| *v == 0.0 || (*v - 1.0 / 0.7).abs() < 1e-6));
    }

    #[test]
    fn a_record_meets_the_same_mask_in_every_batch() {
        let whole = run(&mut net(&text(8), Phase::Train), 100);
        let half = run(&mut net(&text(4), Phase::Train), 104);
        assert_eq!(whole[4000..], half[..]);
        assert_ne!(whole[..4000], half[..]);
    }

    #[test]
    fn backward_meets_the_mask_of_forward() {
        let mut net = net(&text(2), Phase::Train);
        let y = run(&mut net, 5);
        let (x, id) = (net.blob("x").unwrap(), net.blob("y").unwrap());
        net.diff_mut(id).unwrap().fill(1.0);
        net.backward().unwrap();
        assert_eq!(net.diff(x).unwrap(), y);
    }
}
