//! Every layer type takes or refuses any bottoms, and never panics: scalars, empty blobs, vectors,
//! images, volumes, more bottoms and tops than it wants.

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
        "InnerProduct" => "inner_product_param { num_output: 2 }",
        "Pooling" => "pooling_param { kernel_size: 2 }",
        "Reshape" => "reshape_param { shape { dim: 0 dim: -1 } }",
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
                for bottoms in 0..=3 {
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
