//! Threshold: y = 1 where x > threshold, else 0, element by element, also in place. It has no
//! gradient, as in Caffe.
//!
//! ```text
//! layer { name: "mask" type: "Threshold" bottom: "x" top: "y" threshold_param { threshold: 0.5 } }
//! ```

use super::elementwise::cuda::{Unary, Value, unary_kernels};
use super::elementwise::{self, AtZero};
use super::{CudaLayer, DeviceIo, Io, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::device::Run;
use crate::device::cuda::CudaRun;
use crate::device::cuda::source::Source;
use crate::{Result, ensure};

/// The layer.
struct Threshold {
    threshold: f32,
}

/// For layers through which nothing can learn, and whose bottom yet wants a gradient.
///
/// # Errors
/// When it does.
pub(super) fn refuse_gradient(io: &Io<'_>) -> Result<()> {
    ensure!(
        !io.propagate_down(0),
        "has no gradient, but its bottom wants one; give it `propagate_down: false` where nothing \
         before it learns from what comes behind"
    );
    Ok(())
}

impl Layer for Threshold {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn forward(&mut self, run: &mut Run, io: Io<'_>) -> Result<()> {
        let threshold = self.threshold;
        let value = |x: f32| f32::from(u8::from(x > threshold));
        elementwise::forward(run, &io, AtZero::of(value(0.0)), value)
    }

    fn backward(&mut self, _run: &mut Run, io: Io<'_>) -> Result<()> {
        refuse_gradient(&io)
    }

    fn cuda(&mut self) -> Option<&mut dyn CudaLayer> {
        Some(self)
    }
}

static KERNELS: Source = unary_kernels!("threshold", "x > a ? 1.0f : 0.0f", "0.0f");

impl CudaLayer for Threshold {
    fn forward(&mut self, cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        let numbers = [self.threshold, 0.0, 0.0];
        Unary { kernels: &KERNELS, numbers, value: Value::Bottom }.forward(cuda, &io)
    }

    fn backward(&mut self, _cuda: &CudaRun, io: DeviceIo<'_>) -> Result<()> {
        refuse_gradient(&io)
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.threshold_param.as_deref().cloned().unwrap_or_default();
    Ok(Box::new(Threshold { threshold: param.threshold() }))
}

/// `Threshold`.
pub static DEF: LayerDef = LayerDef::new("Threshold", "y = 1 where x > threshold, else 0", build)
    .kernels(&[&KERNELS])
    .in_place();

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::{input, net, set, values};

    #[test]
    fn the_threshold_itself_is_below_and_nothing_learns() {
        let text = format!(
            "force_backward: true {} layer {{ name: 't' type: 'Threshold' bottom: 'x' top: 'y' \
             threshold_param {{ threshold: 0.5 }} }}",
            input("x", &[3])
        );
        let mut net = net(&text, Phase::Train);
        set(&mut net, "x", &[0.4, 0.5, 0.6]);
        net.forward().unwrap();
        assert_eq!(values(&mut net, "y"), [0.0, 0.0, 1.0]);
        assert!(net.backward().unwrap_err().to_string().contains("has no gradient"));
    }
}
