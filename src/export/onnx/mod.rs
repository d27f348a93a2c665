//! A trained net as an ONNX graph, for inference elsewhere.
//!
//! The net is built for the TEST phase and walked in order; each layer becomes the ONNX operators
//! that compute the same (`layers`, `windows`). Shapes are fixed to those of the prototxt. What
//! has no counterpart (losses, data layers, pooling masks, …) is refused by the layer's name. Blobs
//! keep their names; of a blob that is changed in place the last state has it. Constants are called
//! `LAYER/INDEX`, as in the other formats.

mod graph;
mod layers;
mod windows;

use std::collections::HashMap;
use std::path::Path;

use caffe_proto::onnx::{ModelProto, OperatorSetIdProto};
use caffe_proto::{Message, write_file_atomic};

use self::graph::{Graph, Value};
use super::{Array, about};
use crate::Result;
use crate::blob::BlobId;
use crate::net::Net;

/// Version of the operators: the first in which Softmax works along one axis, as Caffe's does.
const OPSET: i64 = 13;

/// Version of the file format that belongs to it.
const IR_VERSION: i64 = 7;

/// Most bytes a protobuf file may have.
const MOST: usize = i32::MAX as usize;

/// A layer as its translation sees it.
struct View {
    param: caffe_proto::LayerParameter,
    weights: Vec<Array>,
    bottoms: Vec<Value>,
    tops: Vec<Value>,
}

/// Writes a net with its weights.
///
/// # Errors
/// A layer that ONNX cannot say, or a file that cannot be written; nothing is left then.
pub fn write(path: &Path, net: &mut Net) -> Result<()> {
    let model = model_of(net)?;
    if model.encoded_len() > MOST {
        return Err(about(path, "the net takes more than the 2 GB that an ONNX file can hold"));
    }
    Ok(write_file_atomic(path, &model.encode_to_vec())?)
}

/// A net with its weights as an ONNX model.
///
/// # Errors
/// A layer that ONNX cannot say; the message names it.
pub fn model_of(net: &mut Net) -> Result<ModelProto> {
    let blob_names: Vec<String> = net.store().blobs.iter().map(|blob| blob.name.clone()).collect();
    let graph = Graph::new(net.name(), blob_names);
    let mut walk = Walk { writes: writes(net), names: HashMap::new(), graph };
    for index in 0..net.layers().len() {
        walk.layer(net, index)?;
    }
    for &id in net.outputs() {
        walk.output(net, id);
    }
    Ok(ModelProto {
        ir_version: Some(IR_VERSION),
        producer_name: Some("caffe-mpi".to_owned()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        graph: Some(walk.graph.finish()),
        opset_import: vec![OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(OPSET),
        }],
    })
}

/// How often each blob is written by a layer that computes.
fn writes(net: &Net) -> HashMap<BlobId, usize> {
    let mut writes = HashMap::new();
    for node in net.layers().iter().filter(|node| !layers::passes(node.def.type_name)) {
        for &top in &node.top {
            *writes.entry(top).or_default() += 1;
        }
    }
    writes
}

struct Walk {
    graph: Graph,
    /// Writes to each blob that are still to come.
    writes: HashMap<BlobId, usize>,
    /// What holds each blob's present values.
    names: HashMap<BlobId, String>,
}

impl Walk {
    fn layer(&mut self, net: &mut Net, index: usize) -> Result<()> {
        let kind = net.layers()[index].def.type_name;
        let (bottom, top) = (net.layers()[index].bottom.clone(), net.layers()[index].top.clone());
        let bottoms: Vec<Value> = bottom.iter().map(|&id| self.value(net, id)).collect();
        if layers::passes(kind) {
            for id in top {
                self.names.insert(id, bottoms[0].name.clone());
            }
            return Ok(());
        }
        let tops: Vec<Value> = top.iter().map(|&id| self.written(net, id)).collect();
        let view = View {
            param: net.layers()[index].param.clone(),
            weights: weights(net, index)?,
            bottoms,
            tops,
        };
        layers::translate(kind, &view, &mut self.graph).map_err(|e| net.layers()[index].blame(e))
    }

    fn value(&self, net: &Net, id: BlobId) -> Value {
        let blob = &net.store().blobs[id];
        let name = self.names.get(&id).unwrap_or(&blob.name).clone();
        Value { name, shape: blob.shape.dims().to_vec() }
    }

    /// A blob about to be written: the last time it gets its own name.
    fn written(&mut self, net: &Net, id: BlobId) -> Value {
        let blob = net.store().blobs[id].name.clone();
        let left = self.writes.entry(id).or_insert(1);
        *left -= 1;
        let name = match left {
            0 => blob,
            left => self.graph.unique(&format!("{blob}#{left}")),
        };
        self.names.insert(id, name);
        self.value(net, id)
    }

    fn output(&mut self, net: &Net, id: BlobId) {
        let mut value = self.value(net, id);
        let blob = &net.store().blobs[id].name;
        if value.name != *blob {
            self.graph.node("Identity", &[&value.name], &[blob], Vec::new());
            value.name.clone_from(blob);
        }
        self.graph.output(&value);
    }
}

fn weights(net: &mut Net, index: usize) -> Result<Vec<Array>> {
    let name = net.layers()[index].name().to_owned();
    let ids = net.layers()[index].params.clone();
    let array = |(j, id): (usize, usize)| {
        Ok(Array {
            name: format!("{name}/{j}"),
            shape: net.arena().params()[id].shape.dims().to_vec(),
            values: net.params().values(id)?.to_vec(),
        })
    };
    ids.into_iter().enumerate().map(array).collect()
}
