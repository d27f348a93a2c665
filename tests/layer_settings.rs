//! What the prototxt says about any layer, whatever its type: `phase`, `propagate_down`, `blobs`,
//! `param`, fillers. Each is honoured or refused by name.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use caffe::net::{Net, NetOptions};
use caffe_proto::Phase;

const INPUTS: &str = "layer { name: 'in' type: 'Input' top: 'x' top: 'l' \
    input_param { shape { dim: 2 dim: 50 } shape { dim: 2 } } } ";

fn net(layers: &str) -> caffe::Result<Net> {
    let options = NetOptions { keep_all: true, ..NetOptions::new(Phase::Train) };
    common::net_of(&format!("{INPUTS} {layers}"), &options)
}

fn message(layers: &str) -> String {
    net(layers).err().unwrap_or_else(|| panic!("accepted: {layers}")).to_string()
}

fn set(net: &mut Net, blob: &str, values: &[f32]) {
    let id = net.blob(blob).unwrap();
    net.data_mut(id).unwrap().copy_from_slice(values);
}

#[test]
fn a_layer_of_another_phase_than_the_net_works_in_its_own() {
    let dropout = |phase: &str| {
        let text = format!("layer {{ name: 'd' type: 'Dropout' bottom: 'x' top: 'y' {phase} }}");
        let mut net = net(&text).unwrap();
        set(&mut net, "x", &[1.0; 100]);
        net.forward().unwrap();
        let y = net.blob("y").unwrap();
        net.data(y).unwrap().to_vec()
    };
    assert_eq!(dropout("phase: TEST"), [1.0; 100]);
    for training in ["", "phase: TRAIN"] {
        assert!(dropout(training).contains(&0.0), "{training}");
    }
}

#[test]
fn propagate_down_speaks_of_every_bottom_and_not_for_labels() {
    let loss = |kind: &str, asked: &str| {
        format!("layer {{ name: 's' type: '{kind}' bottom: 'x' bottom: 'l' top: 'y' {asked} }}")
    };
    let one = message(&loss("SoftmaxWithLoss", "propagate_down: true"));
    assert!(one.contains("1 propagate_down entries for 2 bottoms"), "{one}");
    let all = "propagate_down: true propagate_down: true";
    for kind in ["SoftmaxWithLoss", "HingeLoss", "MultinomialLogisticLoss"] {
        let label = message(&loss(kind, all));
        assert!(label.contains("has no gradient for bottom `l`"), "{label}");
    }
    let fine = "propagate_down: true propagate_down: false";
    let net = net(&loss("SoftmaxWithLoss", fine)).unwrap();
    assert_eq!(net.layers().last().unwrap().propagate_down, [true, false]);
}

#[test]
fn blobs_in_the_prototxt_are_first_values() {
    let product = |blob: &str| {
        format!(
            "layer {{ name: 'i' type: 'InnerProduct' bottom: 'x' top: 'y' blobs {{ {blob} }} \
             inner_product_param {{ num_output: 1 bias_term: false }} }}"
        )
    };
    let data: String = (0..50).map(|i| format!("data: {i} ")).collect();
    let mut given = net(&product(&format!("shape {{ dim: 1 dim: 50 }} {data}"))).unwrap();
    assert_eq!(given.params().values(0).unwrap()[..4], [0.0, 1.0, 2.0, 3.0]);
    let other = message(&product(&format!("shape {{ dim: 2 dim: 25 }} {data}")));
    assert!(other.contains("the saved shape is 2 25 (50)"), "{other}");
}

#[test]
fn no_solver_learns_the_statistics_of_batch_norm() {
    let layer = |param: &str| {
        format!("layer {{ name: 'b' type: 'BatchNorm' bottom: 'x' top: 'y' {param} }}")
    };
    assert!(net(&layer("param { lr_mult: 0 } param { lr_mult: 0 }")).is_ok());
    let learned = message(&layer("param { lr_mult: 0 } param { lr_mult: 2 }"));
    assert!(learned.contains("lr_mult: 2"), "{learned}");
}

#[test]
fn only_gaussian_fillers_are_sparse() {
    let layer = |filler: &str| {
        format!(
            "layer {{ name: 'i' type: 'InnerProduct' bottom: 'x' top: 'y' inner_product_param {{ \
             num_output: 4 weight_filler {{ {filler} }} }} }}"
        )
    };
    assert!(net(&layer("type: 'gaussian' sparse: 2")).is_ok());
    // Caffe's own models give xavier a std that it does not use.
    assert!(net(&layer("type: 'xavier' std: 0.1")).is_ok());
    let sparse = message(&layer("type: 'xavier' sparse: 2"));
    assert!(sparse.contains("only a gaussian filler can be sparse, not `xavier`"), "{sparse}");
}

#[test]
fn old_names_of_axes_are_axes() {
    for (kind, tops, param) in [
        ("Concat", "top: 'y'", "concat_param { concat_dim: 1 axis: 1 }"),
        ("Concat", "top: 'y'", "concat_param { concat_dim: 4294967295 }"),
        ("Slice", "top: 'y' top: 'z'", "slice_param { slice_dim: 4294967295 }"),
        ("Slice", "top: 'y' top: 'z'", "slice_param { slice_dim: 1 axis: 1 }"),
    ] {
        let layer = format!("layer {{ name: 'a' type: '{kind}' bottom: 'x' {tops} {param} }}");
        let message = message(&layer);
        assert!(message.contains("_dim"), "{message}");
    }
}
