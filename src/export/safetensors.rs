//! Named arrays as a safetensors file.

use std::path::Path;

use ::safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use caffe_proto::write_file_atomic;

use super::{Array, Weights, about};
use crate::{Error, Result, bail};

/// Writes weights as 32-bit floats.
///
/// # Errors
/// A file that cannot be written; nothing is left then.
pub fn write(path: &Path, weights: &Weights) -> Result<()> {
    let bytes: Vec<Vec<u8>> = weights
        .arrays
        .iter()
        .map(|array| array.values.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let mut views = Vec::with_capacity(bytes.len());
    for (array, bytes) in weights.arrays.iter().zip(&bytes) {
        let tensor = TensorView::new(Dtype::F32, array.shape.clone(), bytes);
        views.push((array.name.as_str(), tensor.map_err(|e| about(path, e))?));
    }
    let file = serialize(views, None).map_err(|e| about(path, e))?;
    Ok(write_file_atomic(path, &file)?)
}

/// Reads weights of 16, 32 or 64 bits.
///
/// # Errors
/// A file that is missing, damaged or of another kind, and arrays that are no floats.
pub fn read(path: &Path) -> Result<Weights> {
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, e))?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| about(path, format!("no safetensors file, or a damaged one: {e}")))?;
    let mut named = file.tensors();
    // Arrays in the order of their bytes, which is the order they were written in.
    named.sort_by_key(|(_, tensor)| tensor.data().as_ptr() as usize);
    let mut arrays = Vec::with_capacity(named.len());
    for (name, tensor) in named {
        let data = tensor.data();
        let values = match tensor.dtype() {
            Dtype::F32 => data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Dtype::F64 => {
                data.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect()
            }
            Dtype::BF16 => data.as_chunks().0.iter().map(|&b| bfloat(b)).collect(),
            Dtype::F16 => data.as_chunks().0.iter().map(|&b| half(b)).collect(),
            other => bail!(
                "{}: array `{name}` is of type {other:?}; weights are F16, BF16, F32 or F64",
                path.display()
            ),
        };
        arrays.push(Array { name, shape: tensor.shape().to_vec(), values });
    }
    Ok(Weights { arrays })
}

/// A bfloat16: the upper half of an f32.
fn bfloat(bytes: [u8; 2]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16)
}

/// An IEEE half: 1 sign, 5 exponent, 10 fraction bits.
fn half(bytes: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(bytes));
    let (exponent, fraction) = (bits >> 10 & 0x1f, (bits & 0x3ff) as f32 / 1024.0);
    let size = match exponent {
        0 => fraction * 2f32.powi(-14),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        e => (1.0 + fraction) * 2f32.powi(e as i32 - 15),
    };
    if bits & 0x8000 == 0 { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_become_floats() {
        let cases = [
            (0x3c00u16, 1.0f32),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x3555, 0.333_251_95),
            (0x7c00, f32::INFINITY),
            (0x8000, -0.0),
        ];
        for (bits, value) in cases {
            assert_eq!(half(bits.to_le_bytes()).to_bits(), value.to_bits(), "{bits:#x}");
        }
        assert!(half(0x7e00u16.to_le_bytes()).is_nan());
        assert_eq!(bfloat(0x3fc0u16.to_le_bytes()), 1.5);
    }
}
