//! Parameter: a learned blob as a top, for layers that take their weights as a bottom.
//!
//! ```text
//! layer { name: "scale" type: "Parameter" top: "scale" param { lr_mult: 2 }
//!         parameter_param { shape { dim: 64 } } }
//! ```
//! It starts at zero (there is no filler), or with what a caffemodel says.

use caffe_proto::FillerParameter;

use super::{Count, Io, Layer, LayerDef, Setup, dims};
use crate::blob::Shape;
use crate::device::Run;
use crate::params::ParamDef;
use crate::{Result, bail};

/// The layer.
struct Parameter {
    shape: Shape,
}

impl Layer for Parameter {
    fn params(&self) -> Vec<ParamDef> {
        vec![ParamDef::learned(self.shape.clone(), FillerParameter::default())]
    }

    fn reshape(&mut self, _run: &mut Run, _bottoms: &[Shape]) -> Result<Vec<Shape>> {
        Ok(vec![self.shape.clone()])
    }

    fn forward(&mut self, _run: &mut Run, io: Io<'_>) -> Result<()> {
        io.top_mut(0)?.copy_from_slice(io.param(0)?);
        Ok(())
    }

    fn backward(&mut self, _run: &mut Run, io: Io<'_>) -> Result<()> {
        if io.param_needs_diff(0) {
            let (dy, dw) = (io.top_diff(0)?, io.param_diff_mut(0)?);
            dw.iter_mut().zip(dy).for_each(|(dw, dy)| *dw += dy);
        }
        Ok(())
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let Some(shape) = setup.param.parameter_param.as_ref().and_then(|p| p.shape.as_ref()) else {
        bail!("needs `parameter_param {{ shape {{ dim: … }} }}`, the shape of its top");
    };
    Ok(Box::new(Parameter { shape: dims::of_message(shape)? }))
}

/// `Parameter`.
pub static DEF: LayerDef = LayerDef::new("Parameter", "a learned blob as a top", build)
    .counts(Count::Exactly(0), Count::Exactly(1));

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::try_net;

    #[test]
    fn asks_for_its_shape() {
        let text = "layer { name: 'p' type: 'Parameter' top: 'p' }";
        let message = try_net(text, Phase::Test).err().unwrap().to_string();
        assert!(message.contains("parameter_param"), "{message}");
    }
}
