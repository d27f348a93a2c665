//! Named arrays as an `.npz` file of NumPy.

use std::io::Cursor;
use std::path::Path;

use caffe_proto::write_file_atomic;
use npyz::npz::{NpzArchive, NpzWriter, array_name_from_file_name};
use npyz::{DType, NpyFile, WriterBuilder};

use super::{Array, Weights, about};
use crate::{Error, Result, bail, ensure};

/// Writes weights as 32-bit floats, uncompressed.
///
/// # Errors
/// A file that cannot be written; nothing is left then.
pub fn write(path: &Path, weights: &Weights) -> Result<()> {
    let mut bytes = Vec::new();
    let mut file = NpzWriter::new(Cursor::new(&mut bytes));
    for array in &weights.arrays {
        let shape: Vec<u64> = array.shape.iter().map(|&dim| dim as u64).collect();
        let written = file
            .array::<f32>(&array.name, Default::default())
            .and_then(|entry| entry.default_dtype().shape(&shape).begin_nd())
            .and_then(|mut entry| {
                entry.extend(array.values.iter().copied())?;
                entry.finish()
            });
        written.map_err(|e| about(path, e))?;
    }
    drop(file);
    Ok(write_file_atomic(path, &bytes)?)
}

/// Reads weights of 32 or 64 bits.
///
/// # Errors
/// A file that is missing, damaged or of another kind, and arrays that are no floats.
pub fn read(path: &Path) -> Result<Weights> {
    let bytes = std::fs::read(path).map_err(|e| Error::file(path, e))?;
    let size = bytes.len();
    let damaged =
        |e: &dyn std::fmt::Display| about(path, format!("no .npz file, or a damaged one: {e}"));
    let mut file = NpzArchive::new(Cursor::new(bytes)).map_err(|e| damaged(&e))?;
    let mut arrays = Vec::new();
    for index in 0..file.zip_archive().len() {
        let entry = file.zip_archive().by_index(index).map_err(|e| damaged(&e))?;
        let Some(name) = array_name_from_file_name(entry.name()).map(str::to_owned) else {
            continue;
        };
        drop(entry);
        let Some(array) = file.by_name(&name).map_err(|e| damaged(&e))? else { continue };
        let count = array.shape().iter().try_fold(1u64, |n, &dim| n.checked_mul(dim));
        // Weights hardly compress; a file that promises much more than it has is damaged.
        ensure!(
            count.is_some_and(|n| n / 256 <= size as u64),
            "{}: array `{name}` claims more values than the file can hold",
            path.display()
        );
        let shape = array.shape().iter().map(|&dim| dim as usize).collect();
        let values = values(array, &name, path)?;
        arrays.push(Array { name, shape, values });
    }
    Ok(Weights { arrays })
}

fn values<R: std::io::Read>(array: NpyFile<R>, name: &str, path: &Path) -> Result<Vec<f32>> {
    let kind = match array.dtype() {
        DType::Plain(kind) => kind.to_string(),
        _ => "a record".to_owned(),
    };
    ensure!(
        array.order() == npyz::Order::C || array.shape().len() < 2,
        "{}: array `{name}` is in Fortran order; save it with numpy.ascontiguousarray",
        path.display()
    );
    let read = match kind.as_str() {
        "<f4" => array.into_vec::<f32>(),
        "<f8" => {
            let doubles = array.into_vec::<f64>();
            doubles.map(|all| all.into_iter().map(|value| value as f32).collect())
        }
        other => bail!(
            "{}: array `{name}` is of type {other}; weights are float32 or float64",
            path.display()
        ),
    };
    read.map_err(|e| about(path, format!("array `{name}`: {e}")))
}
