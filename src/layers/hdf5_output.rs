//! HDF5Output: writes its two bottoms to an HDF5 file, as the datasets `data` and `label`.
//!
//! ```text
//! layer { name: "out" type: "HDF5Output" bottom: "fc7" bottom: "label"
//!         hdf5_output_param { file_name: "features.h5" } }
//! ```
//!
//! Each forward pass adds its rows behind those of the passes before, and the file can be read after
//! each. (In BVLC Caffe the second pass fails.) The first pass empties a file of that name.

use super::{Count, Io, Layer, LayerDef, Setup};
use crate::blob::Shape;
use crate::device::Run;
use crate::hdf5::Appender;
use crate::{Result, ensure};

/// The datasets, in the order of the bottoms.
const DATASETS: [&str; 2] = ["data", "label"];

/// The layer.
struct Hdf5Output {
    /// `None`: nothing is to be left behind.
    path: Option<std::path::PathBuf>,
    file: Option<Appender>,
}

impl Layer for Hdf5Output {
    fn reshape(&mut self, _run: &mut Run, bottoms: &[Shape]) -> Result<Vec<Shape>> {
        let (data, label) = (&bottoms[0], &bottoms[1]);
        let rows = |shape: &Shape| shape.dims().first().copied();
        ensure!(
            rows(data).is_some() && rows(data) == rows(label),
            "data and label must have equally many rows; their shapes are {data} and {label}"
        );
        Ok(Vec::new())
    }

    fn forward(&mut self, _run: &mut Run, io: Io<'_>) -> Result<()> {
        let bottoms = [io.bottom(0)?, io.bottom(1)?];
        let Some(path) = &self.path else { return Ok(()) };
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(Appender::create(path)?),
        };
        for (i, name) in DATASETS.into_iter().enumerate() {
            file.append(name, io.bottom_shape(i).dims(), bottoms[i])?;
        }
        file.flush()
    }

    /// Writing has no gradient.
    fn backward(&mut self, _run: &mut Run, _io: Io<'_>) -> Result<()> {
        Ok(())
    }
}

fn build(setup: &Setup<'_>, _bottoms: &[Shape]) -> Result<Box<dyn Layer>> {
    let name = setup.param.hdf5_output_param.as_ref().map_or("", |p| p.file_name());
    ensure!(!name.is_empty(), "hdf5_output_param has no file_name; name the file to write");
    ensure!(
        cfg!(feature = "hdf5"),
        "this program was built without HDF5; build it with `--features hdf5` (needs libhdf5)"
    );
    let path = (!setup.blank).then(|| name.into());
    Ok(Box::new(Hdf5Output { path, file: None }))
}

/// `HDF5Output`.
pub static DEF: LayerDef =
    LayerDef::new("HDF5Output", "writes its bottoms to an HDF5 file as `data` and `label`", build)
        .counts(Count::Exactly(2), Count::Exactly(0))
        .gradient_bottoms(0);
