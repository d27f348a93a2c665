//! How much work a layer is: floating-point operations and bytes between memory and processor.
//!
//! A multiplication and an addition are two operations. Matrix products (convolution, inner product,
//! recurrent layers) and windows (pooling, LRN) are counted from their definition, whatever
//! algorithm computes them; layers that only move or name values count none; every other layer
//! counts one operation per value, as a lower bound. Bytes are those of an ideal cache: everything
//! a layer needs is read once, everything it makes is written once.

use caffe_proto::lrn_parameter::NormRegion;

use crate::blob::{BlobId, Shape};
use crate::layers::{Alias, Kernel};
use crate::net::{Net, Node, Pass};
use crate::params::ParamId;

const FLOAT: u64 = size_of::<f32>() as u64;

/// Types that compute nothing: sources, sinks, and those that move values.
const MOVERS: [&str; 18] = [
    "BatchReindex",
    "Concat",
    "Crop",
    "Data",
    "DummyData",
    "Filter",
    "Flatten",
    "HDF5Data",
    "HDF5Output",
    "Im2col",
    "ImageData",
    "Input",
    "MemoryData",
    "Parameter",
    "Reshape",
    "Silence",
    "Slice",
    "Split",
];

/// Types whose tops lie there before a pass.
const IDLE: [&str; 3] = ["Input", "Parameter", "Silence"];

/// The work of a layer in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes read and written.
    pub bytes: u64,
}

/// The work of layer number `index` of the net in one pass, with its present shapes.
pub fn cost(net: &Net, index: usize, pass: Pass) -> Cost {
    let node = &net.layers()[index];
    let counter = Counter { net, node };
    match pass {
        Pass::Forward => counter.forward(),
        Pass::Backward if node.needs_backward => counter.backward(),
        Pass::Backward => Cost::default(),
    }
}

struct Counter<'a> {
    net: &'a Net,
    node: &'a Node,
}

impl Counter<'_> {
    fn shape(&self, id: BlobId) -> &Shape {
        &self.net.store().blobs[id].shape
    }

    fn values(&self, ids: &[BlobId]) -> u64 {
        ids.iter().map(|&id| self.shape(id).count() as u64).sum()
    }

    fn weights(&self) -> impl Iterator<Item = &Shape> {
        let shape_of = |&id: &ParamId| &self.net.arena().params()[id].shape;
        self.node.params.iter().map(shape_of)
    }

    fn parameters(&self) -> u64 {
        self.weights().map(|shape| shape.count() as u64).sum()
    }

    fn forward(&self) -> Cost {
        let touched = self.values(&self.node.bottom) + self.values(&self.node.top);
        let flops =
            self.products().map_or_else(|| self.others(), |(products, sums)| products + sums);
        let idle = self.node.def.alias != Alias::None || IDLE.contains(&self.node.def.type_name);
        let bytes = if idle { 0 } else { (touched + self.parameters()) * FLOAT };
        Cost { flops, bytes }
    }

    /// A product of matrices is one product more for the gradient of its weights and one for that
    /// of its bottom; the others work as much backward as forward.
    fn backward(&self) -> Cost {
        let down = self.node.propagate_down.contains(&true);
        let learns = self.node.param_needs_diff.contains(&true);
        let flops = match self.products() {
            Some((products, sums)) => {
                let times = u64::from(down) + u64::from(learns);
                products * times + if learns { sums } else { 0 }
            }
            None => self.others(),
        };
        let mut touched = self.values(&self.node.top) + self.values(&self.node.bottom);
        touched += self.parameters();
        if down {
            touched += self.values(&self.node.bottom);
        }
        if learns {
            touched += self.parameters();
        }
        Cost { flops, bytes: touched * FLOAT }
    }

    /// Operations of matrix products, and those of adding biases; `None` for other layers.
    fn products(&self) -> Option<(u64, u64)> {
        let weights = self.weights().next();
        let (bottom, top) = (self.values(self.node.bottom.get(..1)?), self.values(&self.node.top));
        let bias = if self.node.params.len() > 1 { top } else { 0 };
        match self.node.def.type_name {
            // One window of weights for each value that is made, or that is spread.
            "Convolution" => Some((2 * top * weights?.count_from(1) as u64, bias)),
            "Deconvolution" => Some((2 * bottom * weights?.count_from(1) as u64, bias)),
            "InnerProduct" => {
                let outputs = self.node.param.inner_product_param.as_ref()?.num_output();
                Some((2 * bottom * u64::from(outputs), bias))
            }
            "LSTM" | "RNN" => {
                let steps = self.shape(self.node.bottom[0]).count_of(0..2) as u64;
                let matrices = self.weights().filter(|shape| shape.axes() == 2);
                let entries: u64 = matrices.map(|shape| shape.count() as u64).sum();
                Some((2 * steps * entries, 0))
            }
            _ => None,
        }
    }

    fn others(&self) -> u64 {
        let (bottom, top) = (self.values(&self.node.bottom), self.values(&self.node.top));
        let param = &self.node.param;
        match self.node.def.type_name {
            mover if MOVERS.contains(&mover) => 0,
            "Pooling" => match param.pooling_param.as_ref().map(|p| Kernel::of(p)) {
                Some(Ok(Some([height, width]))) => {
                    self.values(&self.node.top[..1]) * (height.size * width.size) as u64
                }
                // The whole image is one window.
                _ => bottom,
            },
            "LRN" => {
                let lrn = param.lrn_param.clone().unwrap_or_default();
                let size = u64::from(lrn.local_size());
                let window = match lrn.norm_region() {
                    NormRegion::AcrossChannels => size,
                    NormRegion::WithinChannel => size * size,
                };
                2 * top * window
            }
            _ => bottom.max(top),
        }
    }
}
