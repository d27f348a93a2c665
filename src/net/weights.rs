//! Weights in and out of a net, as messages: copy by layer name, and the `.caffemodel` content.

use caffe_proto::{BlobProto, LayerParameter, NetParameter};

use super::{Net, Node};
use crate::blob::Shape;
use crate::params::{ParamArena, ParamId};
use crate::{Error, Result, bail};

/// What copying from a saved net did.
#[derive(Clone, Debug, Default)]
pub struct CopyReport {
    /// Layers that took their weights.
    pub copied: Vec<String>,
    /// Layers of the saved net that this net does not have.
    pub ignored: Vec<String>,
}

impl Net {
    /// Copies the weights of all layers that have a namesake here.
    ///
    /// # Errors
    /// When a namesake has another number of blobs or other shapes: nothing has been copied then.
    pub fn copy_trained_from(&mut self, saved: &NetParameter) -> Result<CopyReport> {
        let mut report = CopyReport::default();
        let mut matches = Vec::new();
        for layer in &saved.layer {
            match self.nodes.iter().position(|n| n.name() == layer.name()) {
                Some(i) => {
                    self.check_blobs(i, layer).map_err(|e| self.nodes[i].blame(e))?;
                    matches.push((i, layer));
                }
                None if layer.blobs.is_empty() => {}
                None => report.ignored.push(layer.name().to_owned()),
            }
        }
        for (i, layer) in matches {
            if layer.blobs.is_empty() {
                continue;
            }
            for (j, blob) in layer.blobs.iter().enumerate() {
                let id = self.nodes[i].params[j];
                if blob.data.is_empty() && blob.double_data.is_empty() && !self.owns(i, j) {
                    continue;
                }
                if blob.data.is_empty() {
                    let values: Vec<f32> = blob.double_data.iter().map(|&d| d as f32).collect();
                    self.params.set_values(id, &values)?;
                } else {
                    self.params.set_values(id, &blob.data)?;
                }
            }
            report.copied.push(layer.name().to_owned());
        }
        Ok(report)
    }

    fn check_blobs(&self, index: usize, saved: &LayerParameter) -> Result<()> {
        let node = &self.nodes[index];
        if saved.blobs.is_empty() {
            return Ok(());
        }
        // Other layers' blobs may be left out, as HDF5 files do.
        let own = (0..node.params.len()).filter(|&j| self.owns(index, j));
        let needed = own.max().map_or(0, |last| last + 1);
        if !(needed..=node.params.len()).contains(&saved.blobs.len()) {
            bail!(
                "the saved layer has {} parameter blobs, this one has {}; rename the layer to \
                 learn it from scratch",
                saved.blobs.len(),
                node.params.len()
            );
        }
        for (j, blob) in saved.blobs.iter().enumerate() {
            if blob.shape.is_none() && blob.data.is_empty() && !self.owns(index, j) {
                continue;
            }
            let shape = self.shape_of(node, j);
            if !shape.accepts(blob) {
                bail!(
                    "cannot copy parameter {j}: the saved shape is {}, this layer needs {shape}; \
                     rename the layer to learn it from scratch",
                    Shape::of_proto(blob)
                );
            }
            let values = blob.data.len().max(blob.double_data.len());
            if values != shape.count() {
                bail!("parameter {j} of the saved net holds {values} values for shape {shape}");
            }
        }
        Ok(())
    }

    /// Whether blob `j` of layer `index` is its own, and not one that a layer above shares with it.
    pub fn owns(&self, index: usize, j: usize) -> bool {
        let param = &self.params.params()[self.nodes[index].params[j]];
        (param.layer, param.index) == (index, j)
    }

    fn shape_of(&self, node: &Node, j: usize) -> Shape {
        self.params.params()[node.params[j]].shape.clone()
    }

    /// This net with its weights, as `.caffemodel` files hold it. Shared parameters are written
    /// with every layer that uses them, as Caffe does.
    ///
    /// # Errors
    /// A device that has the weights and failed.
    pub fn to_proto(&mut self) -> Result<NetParameter> {
        let mut layers = Vec::with_capacity(self.nodes.len());
        for i in 0..self.nodes.len() {
            let mut layer = self.nodes[i].param.clone();
            for j in 0..self.nodes[i].params.len() {
                let id = self.nodes[i].params[j];
                let shape = self.params.params()[id].shape.to_proto();
                let data = self.params.values(id)?.to_vec();
                layer.blobs.push(BlobProto { shape: Some(shape), data, ..Default::default() });
            }
            layers.push(layer);
        }
        Ok(NetParameter { name: Some(self.name.clone()), layer: layers, ..Default::default() })
    }

    /// Takes over all parameter values of another copy of the same net (a test net from its train
    /// net), by layer name.
    ///
    /// # Errors
    /// When a namesake's parameters have other shapes.
    pub fn share_weights_of(&mut self, other: &Net) -> Result<()> {
        for i in 0..self.nodes.len() {
            let Ok(theirs) = other.layer(self.nodes[i].name()) else { continue };
            for j in 0..self.nodes[i].params.len() {
                let (id, Some(&source)) =
                    (self.nodes[i].params[j], other.nodes[theirs].params.get(j))
                else {
                    continue;
                };
                let length = |arena: &ParamArena, id: ParamId| arena.params()[id].range.len();
                let theirs = length(&other.params, source);
                if theirs != length(&self.params, id) {
                    let shape = self.params.params()[id].shape.clone();
                    return Err(self.nodes[i].blame(Error::Invalid(format!(
                        "parameter {j} has shape {shape} here, but {theirs} values in the train net"
                    ))));
                }
                self.params.copy_values(id, &other.params, source)?;
            }
        }
        Ok(())
    }
}
