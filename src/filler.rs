//! Fillers: how parameters start.
//!
//! ```text
//! weight_filler { type: "xavier" }   # uniform in ±sqrt(3 / n)
//! weight_filler { type: "msra" }     # normal with variance 2 / n
//! weight_filler { type: "gaussian" std: 0.01 sparse: 10 }
//! ```
//! n is the fan-in (elements behind the first axis), the fan-out (elements without the second) or
//! their mean, as `variance_norm` says. Every blob has its own random stream, keyed by seed, layer
//! and blob.

use caffe_proto::{FillerParameter, filler_parameter::VarianceNorm};

use crate::blob::Shape;
use crate::rng::{Philox, Sequence};
use crate::{Result, bail, ensure};

/// Which random numbers a blob gets.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Seed of the job.
    pub seed: u64,
    /// Number of the layer in its net.
    pub layer: usize,
    /// Number of the blob in its layer.
    pub blob: usize,
}

impl Key {
    fn sequence(self) -> Sequence {
        // The top bit keeps fillers apart from the streams that layers use.
        let stream = 1 << 63 | (self.layer as u64) << 16 | self.blob as u64;
        Philox::new(self.seed, stream).sequence()
    }
}

/// Writes first values of a blob of `shape` to `data`.
///
/// # Errors
/// An unknown filler type, or one that does not fit the shape.
pub fn fill(param: &FillerParameter, shape: &Shape, key: Key, data: &mut [f32]) -> Result<()> {
    ensure!(
        param.sparse() == -1 || param.r#type() == "gaussian",
        "only a gaussian filler can be sparse, not `{}`",
        param.r#type()
    );
    let mut random = key.sequence();
    match param.r#type() {
        "constant" => data.fill(param.value()),
        "uniform" => uniform(data, param.min(), param.max(), &mut random),
        "gaussian" => gaussian(param, shape, data, &mut random)?,
        "positive_unitball" => positive_unitball(shape, data, &mut random)?,
        "xavier" => {
            let limit = (3.0 / fan(param, shape)).sqrt();
            uniform(data, -limit, limit, &mut random);
        }
        "msra" => {
            let std = (2.0 / fan(param, shape)).sqrt();
            data.iter_mut().for_each(|v| *v = std * random.normal() as f32);
        }
        "bilinear" => bilinear(shape, data)?,
        other => bail!(
            "unknown filler type `{other}`; known are constant, uniform, gaussian, \
             positive_unitball, xavier, msra, bilinear"
        ),
    }
    Ok(())
}

fn uniform(data: &mut [f32], min: f32, max: f32, random: &mut Sequence) {
    data.iter_mut().for_each(|v| *v = min + (max - min) * random.uniform_f32());
}

/// With `sparse: k` every input keeps on average k of the blob's outputs (its first axis).
fn gaussian(
    param: &FillerParameter,
    shape: &Shape,
    data: &mut [f32],
    random: &mut Sequence,
) -> Result<()> {
    ensure!(param.std() >= 0.0, "a gaussian filler needs std >= 0, got {}", param.std());
    data.iter_mut().for_each(|v| *v = param.mean() + param.std() * random.normal() as f32);
    if param.sparse() >= 0 {
        ensure!(shape.axes() >= 1, "a sparse filler needs a blob with at least one axis");
        let keep = param.sparse() as f32 / shape[0].max(1) as f32;
        data.iter_mut().filter(|_| random.uniform_f32() >= keep).for_each(|v| *v = 0.0);
    }
    Ok(())
}

/// Uniform positive values, each row (first axis) scaled to sum 1.
fn positive_unitball(shape: &Shape, data: &mut [f32], random: &mut Sequence) -> Result<()> {
    ensure!(shape.axes() >= 1, "positive_unitball needs a blob with at least one axis");
    uniform(data, 0.0, 1.0, random);
    for row in data.chunks_mut(shape.count_from(1).max(1)) {
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|v| *v /= sum);
    }
    Ok(())
}

/// Weights with which a deconvolution enlarges by linear interpolation.
fn bilinear(shape: &Shape, data: &mut [f32]) -> Result<()> {
    ensure!(
        shape.axes() == 4 && shape[2] == shape[3],
        "a bilinear filler needs a four-axis blob with a square kernel, got {shape}"
    );
    let k = shape[3];
    let factor = k.div_ceil(2) as f32;
    let centre = (k as f32 - 1.0) / (2.0 * factor);
    let weight = |at: usize| 1.0 - (at as f32 / factor - centre).abs();
    for (i, v) in data.iter_mut().enumerate() {
        *v = weight(i % k) * weight(i / k % k);
    }
    Ok(())
}

fn fan(param: &FillerParameter, shape: &Shape) -> f32 {
    let count = shape.count() as f32;
    let over = |axis: usize| shape.dims().get(axis).copied().unwrap_or(1).max(1) as f32;
    let (fan_in, fan_out) = (count / over(0), count / over(1));
    match param.variance_norm() {
        VarianceNorm::FanIn => fan_in,
        VarianceNorm::FanOut => fan_out,
        VarianceNorm::Average => (fan_in + fan_out) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key { seed: 1, layer: 2, blob: 0 };

    fn filled(text: &str, shape: impl Into<Shape>) -> Vec<f32> {
        let param: FillerParameter = caffe_proto::text::parse("test", text).unwrap();
        let shape = shape.into();
        let mut data = vec![0.0; shape.count()];
        fill(&param, &shape, KEY, &mut data).unwrap();
        data
    }

    fn variance(data: &[f32]) -> f32 {
        let mean = data.iter().sum::<f32>() / data.len() as f32;
        data.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / data.len() as f32
    }

    #[test]
    fn xavier_and_msra_follow_the_fan() {
        // fan-in 50·9, fan-out 100·9.
        let shape = [100, 50, 3, 3];
        let v = variance(&filled("type: 'xavier'", shape));
        assert!((v * 450.0 - 1.0).abs() < 0.03, "{v}");
        let v = variance(&filled("type: 'xavier' variance_norm: FAN_OUT", shape));
        assert!((v * 900.0 - 1.0).abs() < 0.03, "{v}");
        let v = variance(&filled("type: 'msra' variance_norm: AVERAGE", shape));
        assert!((v * 675.0 - 2.0).abs() < 0.06, "{v}");
    }

    #[test]
    fn sparse_keeps_k_per_input() {
        let data = filled("type: 'gaussian' std: 1 sparse: 5", [50, 1000]);
        let kept = data.iter().filter(|v| **v != 0.0).count() as f32 / 1000.0;
        assert!((kept - 5.0).abs() < 0.3, "{kept}");
    }

    #[test]
    fn unitball_rows_sum_to_one() {
        let data = filled("type: 'positive_unitball'", [4, 25]);
        for row in data.chunks(25) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            assert!(row.iter().all(|v| *v >= 0.0));
        }
    }

    #[test]
    fn bilinear_is_the_tent() {
        let data = filled("type: 'bilinear'", [1, 1, 4, 4]);
        let row = [0.25, 0.75, 0.75, 0.25];
        for y in 0..4 {
            for x in 0..4 {
                assert!((data[y * 4 + x] - row[x] * row[y]).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn equal_keys_give_equal_values() {
        assert_eq!(filled("type: 'gaussian'", [64]), filled("type: 'gaussian'", [64]));
    }
}
