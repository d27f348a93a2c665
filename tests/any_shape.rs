//! Every layer type takes or refuses any bottoms, and never panics: scalars, empty blobs, vectors,
//! images, volumes, more bottoms and tops than it wants, settings beyond all measure.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};

use caffe::layers::LAYERS;
use caffe::net::NetOptions;
use caffe_proto::Phase;

const SHAPES: [&[usize]; 11] = [
    &[],
    &[0],
    &[1],
    &[4],
    &[0, 3],
    &[2, 0],
    &[2, 3],
    &[2, 0, 4, 4],
    &[2, 3, 4, 0],
    &[2, 3, 4, 4],
    &[1, 2, 3, 2, 2],
];

/// Settings without which a type refuses every bottom.
fn param(kind: &str) -> &'static str {
    match kind {
        "Clip" => "clip_param { min: -1 max: 1 }",
        "Convolution" | "Deconvolution" => "convolution_param { num_output: 2 kernel_size: 1 }",
        "Embed" => "embed_param { num_output: 2 input_dim: 3 }",
        "Im2col" => "convolution_param { kernel_size: 1 }",
        "InnerProduct" => "inner_product_param { num_output: 2 }",
        "LSTM" | "RNN" => "recurrent_param { num_output: 2 }",
        "MemoryData" => "memory_data_param { batch_size: 1 channels: 1 height: 1 width: 1 }",
        "Parameter" => "parameter_param { shape { dim: 2 } }",
        "Pooling" => "pooling_param { kernel_size: 2 }",
        "Reshape" => "reshape_param { shape { dim: 0 dim: -1 } }",
        "SPP" => "spp_param { pyramid_height: 2 }",
        "Tile" => "tile_param { tiles: 2 }",
        _ => "",
    }
}

fn text(kind: &str, shapes: &[&[usize]], tops: usize) -> String {
    let mut text = String::from("force_backward: true ");
    let mut layer = format!("layer {{ name: 'test' type: '{kind}' {} ", param(kind));
    for (i, shape) in shapes.iter().enumerate() {
        let dims: String = shape.iter().map(|d| format!("dim: {d} ")).collect();
        text += &format!(
            "layer {{ name: 'in{i}' type: 'Input' top: 'x{i}' input_param {{ shape {{ {dims} }} }} }} "
        );
        layer += &format!("bottom: 'x{i}' ");
    }
    (0..tops).for_each(|j| layer += &format!("top: 'y{j}' "));
    text + &layer + "}"
}

/// Whether a net of this text gets through both passes. Errors are fine, panics are not.
fn passes(text: &str, exact: bool, failed: &mut Vec<String>) -> bool {
    let run = || -> caffe::Result<()> {
        let options = NetOptions { exact, keep_all: true, ..NetOptions::new(Phase::Train) };
        let mut net = common::net_of(text, &options)?;
        net.forward()?;
        net.backward()
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.is_ok(),
        Err(_) => {
            failed.push(text.to_owned());
            false
        }
    }
}

#[test]
fn no_layer_panics_whatever_its_bottoms() {
    let mut failed = Vec::new();
    let mut taken = 0;
    for def in LAYERS {
        for exact in [true, false] {
            for shape in SHAPES {
                for bottoms in 0..=4 {
                    for tops in 0..=2 {
                        let shapes = vec![shape; bottoms];
                        let text = text(def.type_name, &shapes, tops);
                        taken += usize::from(passes(&text, exact, &mut failed));
                    }
                }
                for second in SHAPES {
                    let text = text(def.type_name, &[shape, second], 1);
                    taken += usize::from(passes(&text, exact, &mut failed));
                }
            }
        }
    }
    println!("{taken} nets pass, the others are refused");
    assert!(taken > LAYERS.len(), "nothing is ever taken");
    assert!(failed.is_empty(), "{} panics: {failed:#?}", failed.len());
}

#[test]
fn no_layer_panics_whatever_its_sizes() {
    const MOST: u32 = u32::MAX;
    let mut failed = Vec::new();
    for (kind, param) in [
        ("Convolution", format!("convolution_param {{ num_output: {MOST} kernel_size: 3 }}")),
        (
            "Convolution",
            format!("convolution_param {{ num_output: 1 kernel_size: {MOST} pad: {MOST} }}"),
        ),
        (
            "Convolution",
            format!("convolution_param {{ num_output: 1 kernel_size: 1 pad: {MOST} }}"),
        ),
        (
            "Convolution",
            format!("convolution_param {{ num_output: 1 kernel_size: 2 dilation: {MOST} }}"),
        ),
        (
            "Deconvolution",
            format!("convolution_param {{ num_output: 1 kernel_size: 1 stride: {MOST} }}"),
        ),
        (
            "Deconvolution",
            format!("convolution_param {{ num_output: 1 kernel_size: 3 dilation: {MOST} }}"),
        ),
        ("InnerProduct", format!("inner_product_param {{ num_output: {MOST} }}")),
        ("LRN", format!("lrn_param {{ local_size: {MOST} }}")),
        ("LRN", format!("lrn_param {{ local_size: {MOST} norm_region: WITHIN_CHANNEL }}")),
        ("Pooling", format!("pooling_param {{ kernel_size: {MOST} pad: {} }}", MOST - 1)),
        ("Pooling", format!("pooling_param {{ kernel_size: 2 stride: {MOST} }}")),
        (
            "Reshape",
            format!("reshape_param {{ shape {{ dim: {} dim: {} dim: -1 }} }}", i64::MAX, i64::MAX),
        ),
        ("Scale", format!("scale_param {{ axis: {} num_axes: {} }}", i32::MAX, i32::MAX)),
        ("Bias", format!("bias_param {{ axis: 1 num_axes: {} }}", i32::MAX)),
        ("Slice", format!("slice_param {{ axis: {} slice_point: {MOST} }}", i32::MIN)),
        ("Tile", format!("tile_param {{ tiles: {} }}", i32::MAX)),
        ("ArgMax", format!("argmax_param {{ top_k: {MOST} }}")),
        ("Reduction", format!("reduction_param {{ axis: {} }}", i32::MIN)),
        ("Im2col", format!("convolution_param {{ kernel_size: {MOST} pad: {MOST} }}")),
        ("Im2col", format!("convolution_param {{ kernel_size: 1 pad: {MOST} }}")),
        ("SPP", format!("spp_param {{ pyramid_height: {MOST} }}")),
        ("SPP", "spp_param { pyramid_height: 30 }".into()),
        ("Embed", format!("embed_param {{ num_output: {MOST} input_dim: 3 }}")),
        ("Embed", format!("embed_param {{ num_output: {MOST} input_dim: {MOST} }}")),
        ("MVN", "mvn_param { eps: 0 }".into()),
        ("Crop", format!("bottom: 'x' crop_param {{ axis: -1 offset: {MOST} }}")),
        ("LSTM", format!("bottom: 'c' recurrent_param {{ num_output: {MOST} }}")),
        ("RNN", format!("bottom: 'c' recurrent_param {{ num_output: {MOST} }}")),
    ] {
        let text = format!(
            "force_backward: true \
             layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ dim: 1 dim: 2 dim: 4 dim: 4 }} }} }} \
             layer {{ name: 'c' type: 'Input' top: 'c' input_param {{ shape {{ dim: 1 dim: 2 }} }} }} \
             layer {{ name: 'test' type: '{kind}' bottom: 'x' top: 'y' {param} }}"
        );
        println!("{kind} {param}");
        for exact in [true, false] {
            passes(&text, exact, &mut failed);
        }
    }
    for dims in ["dim: 9223372036854775807 dim: 4", "dim: 65536 dim: 65536", "dim: -1"] {
        let text = format!(
            "layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ {dims} }} }} }}"
        );
        assert!(!passes(&text, true, &mut failed), "{text}");
    }
    assert!(failed.is_empty(), "{} panics: {failed:#?}", failed.len());
}
