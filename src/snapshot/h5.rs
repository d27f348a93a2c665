//! Models and solver states as HDF5 files, laid out as BVLC Caffe does with `snapshot_format: HDF5`.
//!
//! | file | content |
//! |---|---|
//! | `.caffemodel.h5` | `data/LAYER/I`: blob I of a layer, with its owner only where layers share one; `diff/LAYER/I`: gradients, if asked for |
//! | `.solverstate.h5` | `iter`, `learned_net`, `current_step`; `history/K`: blob K of the history |
//!
//! Layer names with slashes make nested groups (BVLC Caffe fails to write them).

use std::collections::BTreeMap;
use std::path::Path;

use caffe_proto::files::Pending;
use caffe_proto::{BlobProto, BlobShape, LayerParameter, NetParameter, SolverState};

use crate::hdf5::{Reader, Writer};
use crate::{Result, bail, ensure};

/// Most blobs of one layer, to tell blob numbers from other names: an LSTM has 4.
const MOST_BLOBS: usize = 1024;

/// Writes the weights of a net, and its gradients if `diff`. `owned` says of each layer which of its
/// blobs are its own.
///
/// # Errors
/// A full disk and the like; nothing is left then.
pub fn write_model(
    path: &Path,
    net: &NetParameter,
    owned: &[Vec<bool>],
    diff: bool,
) -> Result<Pending> {
    let mut file = Writer::create(path)?;
    for (layer, owned) in net.layer.iter().zip(owned) {
        let name = layer.name();
        file.group(&format!("data/{name}"))?;
        if diff {
            file.group(&format!("diff/{name}"))?;
        }
        for (j, (blob, own)) in layer.blobs.iter().zip(owned).enumerate() {
            let shape = extents(blob);
            if *own {
                file.floats(&format!("data/{name}/{j}"), &shape, &blob.data)?;
            }
            if diff {
                file.floats(&format!("diff/{name}/{j}"), &shape, &blob.diff)?;
            }
        }
    }
    file.close()
}

fn extents(blob: &BlobProto) -> Vec<usize> {
    blob.shape.iter().flat_map(|shape| &shape.dim).map(|&dim| dim as usize).collect()
}

/// Reads weights: layers by name, with an empty blob where another layer owns it.
///
/// # Errors
/// A file that is damaged, or that holds no model.
pub fn read_model(path: &Path) -> Result<NetParameter> {
    let file = Reader::open(path)?;
    let mut layers: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for dataset in file.datasets("data")? {
        let (layer, number) = dataset.rsplit_once('/').unwrap_or(("", &dataset));
        match number.parse() {
            Ok(number) if number < MOST_BLOBS && !layer.is_empty() => {
                layers.entry(layer.to_owned()).or_default().push(number);
            }
            _ => bail!(
                "{}: dataset `data/{dataset}` is no blob of a layer; is this a Caffe model?",
                path.display()
            ),
        }
    }
    let mut net = NetParameter::default();
    for (name, numbers) in layers {
        let count = numbers.iter().max().map_or(0, |last| last + 1);
        let mut blobs = vec![BlobProto::default(); count];
        for number in numbers {
            blobs[number] = blob(&file, &format!("data/{name}/{number}"))?;
        }
        net.layer.push(LayerParameter { name: Some(name), blobs, ..Default::default() });
    }
    Ok(net)
}

/// Writes a solver state.
///
/// # Errors
/// A full disk and the like; nothing is left then.
pub fn write_state(path: &Path, state: &SolverState) -> Result<Pending> {
    let mut file = Writer::create(path)?;
    file.integer("iter", state.iter())?;
    file.text("learned_net", state.learned_net())?;
    file.integer("current_step", state.current_step())?;
    file.group("history")?;
    for (k, blob) in state.history.iter().enumerate() {
        file.floats(&format!("history/{k}"), &extents(blob), &blob.data)?;
    }
    file.close()
}

/// Reads a solver state.
///
/// # Errors
/// A file that is damaged, or that holds no solver state.
pub fn read_state(path: &Path) -> Result<SolverState> {
    let file = Reader::open(path)?;
    let count = file.datasets("history")?.len();
    let mut state = SolverState { iter: Some(integer(&file, "iter", path)?), ..Default::default() };
    if file.has("learned_net") {
        state.learned_net = Some(file.text("learned_net")?);
    }
    if file.has("current_step") {
        state.current_step = Some(integer(&file, "current_step", path)?);
    }
    for k in 0..count {
        state.history.push(blob(&file, &format!("history/{k}"))?);
    }
    Ok(state)
}

fn integer(file: &Reader, name: &str, path: &Path) -> Result<i32> {
    let value = file.integer(name)?;
    let fits = i32::try_from(value);
    ensure!(fits.is_ok(), "{}: `{name}` is {value}, which no solver can be at", path.display());
    Ok(fits.unwrap_or(0))
}

fn blob(file: &Reader, name: &str) -> Result<BlobProto> {
    let (shape, data) = file.floats(name)?;
    let shape = BlobShape { dim: shape.into_iter().map(|dim| dim as i64).collect() };
    Ok(BlobProto { shape: Some(shape), data, ..Default::default() })
}
