//! Layers whose windows move over images: convolutions and pooling.
//!
//! Caffe lets the last pooling window hang over the image; here the images' ends are padded by just
//! as much, so that ONNX, rounding down, finds the same windows.

use caffe_proto::pooling_parameter::PoolMethod;

use super::View;
use super::graph::{Graph, Value, int, ints};
use crate::layers::{Kernel, convolution_settings};
use crate::{Result, bail, ensure};

/// Convolution and Deconvolution, over any number of axes.
pub fn convolution(kind: &str, view: &View, graph: &mut Graph) -> Result<()> {
    let param = view.param.convolution_param.as_deref().cloned().unwrap_or_default();
    ensure!(param.axis() == 1, "ONNX convolves behind axis 1, not behind axis {}", param.axis());
    let axes = view.bottoms[0].shape.len() - 2;
    let each = convolution_settings(&param, axes)?;
    let of = |what: usize| each.iter().map(move |axis| axis[what]);
    let weights: Vec<String> =
        view.weights.iter().map(|w| graph.floats(&w.name, &w.shape, &w.values)).collect();
    for (bottom, top) in view.bottoms.iter().zip(&view.tops) {
        let mut inputs = vec![bottom.name.as_str()];
        inputs.extend(weights.iter().map(String::as_str));
        let settings = vec![
            ints("kernel_shape", of(0)),
            ints("strides", of(1)),
            ints("pads", of(2).chain(of(2))),
            ints("dilations", of(3)),
            int("group", param.group().into()),
        ];
        let operator = if kind == "Convolution" { "Conv" } else { "ConvTranspose" };
        graph.node(operator, &inputs, &[&top.name], settings);
    }
    Ok(())
}

/// Pooling, whole images or windows.
pub fn pooling(view: &View, graph: &mut Graph) -> Result<()> {
    let param = view.param.pooling_param.as_deref().cloned().unwrap_or_default();
    ensure!(view.tops.len() == 1, "ONNX has no counterpart of the mask in the second top");
    let (bottom, top) = (&view.bottoms[0], &view.tops[0]);
    let operator = match param.pool() {
        PoolMethod::Max => "MaxPool",
        PoolMethod::Ave => "AveragePool",
        PoolMethod::Stochastic => bail!("ONNX has no stochastic pooling"),
    };
    let Some(kernels) = Kernel::of(&param)? else {
        let operator = format!("Global{operator}");
        graph.node(&operator, &[&bottom.name], &[&top.name], Vec::new());
        return Ok(());
    };
    let mut over = [0; 2];
    for (i, kernel) in kernels.iter().enumerate() {
        let (image, windows) = (bottom.shape[2 + i], top.shape[2 + i]);
        let last = (windows - 1) * kernel.stride;
        ensure!(
            last < image + kernel.pad,
            "the last window begins behind the image, which has no counterpart in ONNX"
        );
        // How far the last window reaches beyond the padded image.
        over[i] = (last + kernel.size).saturating_sub(image + 2 * kernel.pad);
    }
    let pad = kernels.map(|kernel| kernel.pad);
    // The end padding that is needed, which for a maximum may be less than Caffe's.
    let plain = |begin: [usize; 2], end: [usize; 2]| {
        vec![
            ints("kernel_shape", kernels.map(|kernel| kernel.size)),
            ints("strides", kernels.map(|kernel| kernel.stride)),
            ints("pads", [begin[0], begin[1], end[0], end[1]]),
        ]
    };
    if param.pool() == PoolMethod::Max {
        let end = [0, 1].map(|i| {
            let reach = (top.shape[2 + i] - 1) * kernels[i].stride + kernels[i].size;
            reach.saturating_sub(bottom.shape[2 + i] + pad[i])
        });
        graph.node(operator, &[&bottom.name], &[&top.name], plain(pad, end));
        return Ok(());
    }
    // A mean counts Caffe's padding but nothing behind it: padding first, then windows that count
    // only what is there.
    let mut x = bottom.name.clone();
    if pad != [0, 0] {
        let shape = [0, 1, 2, 3].map(|i| bottom.shape[i] + if i < 2 { 0 } else { 2 * pad[i - 2] });
        let padded = Value {
            name: graph.unique(&format!("{}#padded", view.param.name())),
            shape: shape.to_vec(),
        };
        let [h, w] = pad.map(|pad| pad as i64);
        let pads = graph.ints(&format!("{}#pads", view.param.name()), &[0, 0, h, w, 0, 0, h, w]);
        graph.node("Pad", &[&x, &pads], &[&padded.name], Vec::new());
        x = padded.name;
    }
    // Windows dropped by Caffe's clipping must not come back: the padded image may have room.
    let mut settings = plain([0, 0], over);
    settings.push(int("count_include_pad", 0));
    let room = |i: usize| {
        (bottom.shape[2 + i] + 2 * pad[i] + over[i] - kernels[i].size) / kernels[i].stride + 1
    };
    if [room(0), room(1)] == [top.shape[2], top.shape[3]] {
        graph.node(operator, &[&x], &[&top.name], settings);
        return Ok(());
    }
    let all = graph.unique(&format!("{}#all", view.param.name()));
    graph.node(operator, &[&x], &[&all], settings);
    let name = view.param.name().to_owned();
    let starts = graph.ints(&format!("{name}#starts"), &[0, 0]);
    let ends = [top.shape[2] as i64, top.shape[3] as i64];
    let ends = graph.ints(&format!("{name}#ends"), &ends);
    let axes = graph.ints(&format!("{name}#axes"), &[2, 3]);
    graph.node("Slice", &[&all, &starts, &ends, &axes], &[&top.name], Vec::new());
    Ok(())
}
