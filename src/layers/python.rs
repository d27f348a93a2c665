//! Python: a layer that the user wrote in Python.
//!
//! ```text
//! layer { name: "roi" type: "Python" bottom: "x" top: "y" python_param { module: "rois" layer: "RoiLayer" } }
//! ```
//! Such nets need the Python module of this project, which brings an interpreter. The `caffe`
//! program has none and says so when it builds the net.

use super::{Count, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::{Result, bail};

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let param = setup.param.python_param.as_deref().cloned().unwrap_or_default();
    bail!(
        "is written in Python (class `{}` of module `{}`) and needs the Python module: this program \
         has no interpreter",
        param.layer(),
        param.module()
    )
}

/// `Python`.
pub static DEF: LayerDef =
    LayerDef::new("Python", "a layer written in Python; needs the Python module", build)
        .counts(Count::AtLeast(0), Count::AtLeast(0));

#[cfg(test)]
mod tests {
    use caffe_proto::Phase;

    use crate::layers::testing::try_net;

    #[test]
    fn says_what_it_needs() {
        let text = "layer { name: 'p' type: 'Python' top: 'y' \
                    python_param { module: 'rois' layer: 'RoiLayer' } }";
        let message = try_net(text, Phase::Test).err().unwrap().to_string();
        for said in ["layer `p` (Python)", "`RoiLayer`", "`rois`", "needs the Python module"] {
            assert!(message.contains(said), "{message}");
        }
    }
}
