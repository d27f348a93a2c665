//! What losses share: the divisor, and labels out of blobs.

use caffe_proto::LayerParameter;
use caffe_proto::loss_parameter::NormalizationMode as Mode;

use super::dims::Around;
use crate::{Result, bail, ensure};

/// What a summed loss is divided by.
#[derive(Clone, Copy, Debug)]
pub struct Normalization(Mode);

impl Normalization {
    /// The mode that the layer's `loss_param` asks for, the old `normalize` included.
    pub fn of(param: &LayerParameter, default: Mode) -> Self {
        let Some(loss) = &param.loss_param else { return Normalization(default) };
        Normalization(match (loss.normalization, loss.normalize) {
            (Some(_), _) => loss.normalization(),
            (None, Some(true)) => Mode::Valid,
            (None, Some(false)) => Mode::BatchSize,
            (None, None) => default,
        })
    }

    /// The divisor for labels `around` a class axis, of which `valid` count; at least 1, so that a
    /// batch without a valid label has loss 0.
    pub fn divisor(self, around: Around, valid: usize) -> f32 {
        let n = match self.0 {
            Mode::Full => around.outer * around.inner,
            Mode::Valid => valid,
            Mode::BatchSize => around.outer,
            Mode::None => 1,
        };
        n.max(1) as f32
    }
}

/// Reads class numbers.
#[derive(Clone, Copy, Debug)]
pub struct Labels {
    /// Label that does not count.
    pub ignore: Option<i32>,
    /// Number of classes.
    pub classes: usize,
}

impl Labels {
    /// Checks that a label blob of `found` elements has one for each position around the classes.
    ///
    /// # Errors
    /// When it has not.
    pub fn check_count(around: Around, found: usize) -> Result<()> {
        let wanted = around.outer * around.inner;
        ensure!(
            found == wanted,
            "needs one label per prediction: {wanted} of them, got {found} (a {} x {} blob of \
             predictions around the class axis; is `axis` right?)",
            around.outer,
            around.inner
        );
        Ok(())
    }

    /// The class at `position`, or `None` when it is to be ignored.
    ///
    /// # Errors
    /// When the label is no class; the message names value and position.
    pub fn class(self, labels: &[f32], position: usize) -> Result<Option<usize>> {
        let value = labels[position];
        let label = value as i32;
        if Some(label) == self.ignore {
            return Ok(None);
        }
        if value.is_nan() || label < 0 || label as usize >= self.classes {
            bail!(
                "label {value} at position {position} is not one of the {} classes (0 to {})",
                self.classes,
                self.classes as i64 - 1
            );
        }
        Ok(Some(label as usize))
    }
}
