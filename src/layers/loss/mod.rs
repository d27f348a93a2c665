//! What losses share: the divisor, the number of records, labels out of blobs.

pub mod cuda;

use caffe_proto::LayerParameter;
use caffe_proto::loss_parameter::NormalizationMode as Mode;

use super::dims::Around;
use crate::blob::Shape;
use crate::{Result, bail, ensure};

/// A smaller probability counts as this one, so that its logarithm is finite (Caffe's value for
/// MultinomialLogisticLoss and InfogainLoss).
pub const LEAST_PROBABILITY: f32 = 1e-20;

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

    /// The divisor for labels `around` a class axis that is known before they are: 0 where it is the number
    /// of those that count.
    pub fn fixed(self, around: Around) -> f32 {
        if self.0 == Mode::Valid { 0.0 } else { self.divisor(around, 0) }
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

/// The number of records that the bottoms of a loss share: the extent of axis 0.
///
/// # Errors
/// When they differ in it, or have no axes.
pub fn records(bottoms: &[Shape]) -> Result<usize> {
    let Some(&n) = bottoms[0].dims().first() else {
        bail!("needs bottoms with records (axis 0), got a scalar")
    };
    for (i, bottom) in bottoms.iter().enumerate().skip(1) {
        ensure!(
            bottom.dims().first() == Some(&n),
            "the bottoms need equally many records (axis 0): bottom 0 has shape {}, bottom {i} has \
             shape {bottom}",
            bottoms[0]
        );
    }
    Ok(n)
}

/// For losses that are always divided by the number of records.
///
/// # Errors
/// When the prototxt asks for something else, which Caffe would ignore.
pub fn refuse_loss_param(param: &LayerParameter) -> Result<()> {
    ensure!(
        param.loss_param.is_none(),
        "takes no loss_param: it counts every label and divides by the number of records; remove it"
    );
    Ok(())
}

/// Whether a label is the one to be ignored. (Caffe, too, cuts off what is behind the point.)
pub fn is_ignored(ignore: Option<i32>, label: f32) -> bool {
    !label.is_nan() && Some(label as i32) == ignore
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
    /// Checks that the second bottom has a label for each position `around` the classes of the
    /// first.
    ///
    /// # Errors
    /// When it has not.
    pub fn check_count(around: Around, bottoms: &[Shape]) -> Result<()> {
        let wanted = around.outer * around.inner;
        ensure!(
            bottoms[1].count() == wanted,
            "needs one label per prediction: scores of shape {} hold {wanted} predictions of {} \
             classes, labels have shape {}",
            bottoms[0],
            around.extent,
            bottoms[1]
        );
        Ok(())
    }

    /// One label for each record of the first bottom, whose other axes are the classes: the divisor
    /// of the summed loss. Takes down the number of classes.
    ///
    /// # Errors
    /// When the bottoms do not fit.
    pub fn per_record(&mut self, bottoms: &[Shape]) -> Result<f32> {
        let n = records(bottoms)?;
        self.classes = bottoms[0].count_from(1);
        Labels::check_count(Around { outer: n, extent: self.classes, inner: 1 }, bottoms)?;
        Ok(n.max(1) as f32)
    }

    /// The class at `position`, or `None` when it is to be ignored.
    ///
    /// # Errors
    /// When the label is no class; the message names value and position.
    pub fn class(self, labels: &[f32], position: usize) -> Result<Option<usize>> {
        let value = labels[position];
        if is_ignored(self.ignore, value) {
            return Ok(None);
        }
        let label = value as i32;
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
