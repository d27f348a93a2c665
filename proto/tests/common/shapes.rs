//! Shapes and weight counts of the example nets, worked out from their definitions alone.
//!
//! Knows the layer types that the examples use, two spatial dimensions, and nothing of training.

use std::collections::HashMap;

use caffe_proto::{LayerParameter, NetParameter, Phase};

/// Channels, height, width.
type Shape = [u32; 3];

/// The number of learned weights of `net` in `phase`, and the shapes of its blobs.
/// `record` is what its database holds, for Data layers that do not crop.
pub fn weights(net: &NetParameter, phase: Phase, record: Shape) -> (u64, HashMap<String, Shape>) {
    let mut blobs: HashMap<String, Shape> = HashMap::new();
    let mut total = 0;
    for layer in &net.layer {
        if !layer.include.is_empty() && layer.include.iter().all(|rule| rule.phase() != phase) {
            continue;
        }
        let bottoms: Vec<Shape> = layer
            .bottom
            .iter()
            .map(|b| *blobs.get(b).unwrap_or_else(|| panic!("{}: no blob {b}", layer.name())))
            .collect();
        let (count, top) = one(layer, &bottoms, record);
        total += count;
        for name in &layer.top {
            blobs.insert(name.clone(), top);
        }
    }
    (total, blobs)
}

/// Weights and top shape of a layer.
fn one(layer: &LayerParameter, bottoms: &[Shape], record: Shape) -> (u64, Shape) {
    let bottom = bottoms.first().copied().unwrap_or_default();
    match layer.r#type() {
        "Data" => {
            let side = layer.transform_param.as_ref().map_or(0, |t| t.crop_size());
            (0, if side == 0 { record } else { [record[0], side, side] })
        }
        "Input" => {
            let dim = &layer.input_param.as_ref().unwrap().shape[0].dim;
            (0, [dim[1] as u32, dim[2] as u32, dim[3] as u32])
        }
        "Convolution" => convolution(layer, bottom),
        "Pooling" => (0, pooling(layer, bottom)),
        "InnerProduct" => {
            let param = layer.inner_product_param.as_ref().unwrap();
            let inputs: u64 = bottom.iter().map(|&d| u64::from(d)).product();
            let outputs = u64::from(param.num_output());
            (outputs * (inputs + u64::from(param.bias_term())), [param.num_output(), 1, 1])
        }
        "Scale" => {
            let bias = layer.scale_param.as_ref().unwrap().bias_term();
            (u64::from(bottom[0]) * (1 + u64::from(bias)), bottom)
        }
        "Concat" => {
            assert!(bottoms.iter().all(|b| b[1..] == bottom[1..]), "{}", layer.name());
            (0, [bottoms.iter().map(|b| b[0]).sum(), bottom[1], bottom[2]])
        }
        "Eltwise" => {
            assert!(bottoms.iter().all(|b| *b == bottom), "{}", layer.name());
            (0, bottom)
        }
        "ReLU" | "LRN" | "Dropout" | "BatchNorm" | "Softmax" => (0, bottom),
        "SoftmaxWithLoss" | "Accuracy" => (0, [1, 1, 1]),
        other => panic!("{}: type {other}", layer.name()),
    }
}

fn convolution(layer: &LayerParameter, bottom: Shape) -> (u64, Shape) {
    let param = layer.convolution_param.as_ref().unwrap();
    let first = |values: &[u32], otherwise| values.first().copied().unwrap_or(otherwise);
    let (kernel, stride) = (param.kernel_size[0], first(&param.stride, 1));
    let pad = first(&param.pad, 0);
    let side = |extent: u32| (extent + 2 * pad - kernel) / stride + 1;
    let per_output = u64::from(bottom[0] / param.group()) * u64::from(kernel * kernel);
    let weights = u64::from(param.num_output()) * (per_output + u64::from(param.bias_term()));
    (weights, [param.num_output(), side(bottom[1]), side(bottom[2])])
}

fn pooling(layer: &LayerParameter, bottom: Shape) -> Shape {
    let param = layer.pooling_param.as_ref().unwrap();
    let (kernel, stride, pad) = (param.kernel_size(), param.stride(), param.pad());
    let side = |extent: u32| {
        let out = (extent + 2 * pad - kernel).div_ceil(stride) + 1;
        // A last window that would begin in the padding is dropped.
        if pad > 0 && (out - 1) * stride >= extent + pad { out - 1 } else { out }
    };
    [bottom[0], side(bottom[1]), side(bottom[2])]
}
