//! The fast path on whole example nets: compiled kernels everywhere, activations that keep their
//! layout, and the plain path's numbers.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::Path;

use caffe::device::Step;
use caffe::device::cpu::onednn::Library;
use caffe::net::{Net, NetOptions, Origin};
use caffe_proto::{BlobShape, InputParameter, LayerParameter, NetParameter, Phase};

/// An example net for training, its data fed by hand.
fn example(file: &str, batch: i64, [c, h, w]: [i64; 3]) -> NetParameter {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(file);
    let mut param = caffe_proto::net_from_file(&path).unwrap().net;
    for layer in param.layer.iter_mut().filter(|l| l.r#type() == "Data") {
        let shape = [vec![batch, c, h, w], vec![batch]].map(|dim| BlobShape { dim }).into();
        *layer = LayerParameter {
            r#type: Some("Input".into()),
            input_param: Some(Box::new(InputParameter { shape })),
            data_param: None,
            transform_param: None,
            ..layer.clone()
        };
    }
    param
}

fn build(param: &NetParameter, exact: bool) -> Net {
    let options = NetOptions { exact, threads: 2, seed: 3, ..NetOptions::new(Phase::Train) };
    let mut net = Net::new(param, &Origin::default(), &options).unwrap();
    let id = net.inputs()[0];
    for (i, v) in net.data_mut(id).unwrap().iter_mut().enumerate() {
        *v = (i * 7919 % 1013) as f32 / 500.0 - 1.0;
    }
    net
}

fn pass(net: &mut Net) -> f32 {
    net.set_step(Step { iter: 0, first_record: 0 });
    net.clear_param_diffs();
    let loss = net.forward().unwrap();
    net.backward().unwrap();
    loss
}

fn has_onednn() -> bool {
    Library::open().map_err(|e| println!("skipped: {e}")).is_ok()
}

const NETS: [(&str, [i64; 3], u64); 6] = [
    // Before an inner product and, backward, behind it.
    ("mnist/lenet_train_test.prototxt", [1, 28, 28], 2),
    ("cifar10/cifar10_quick_train_test.prototxt", [3, 32, 32], 2),
    ("cifar10/cifar10_full_train_test.prototxt", [3, 32, 32], 2),
    ("alexnet/train_val.prototxt", [3, 227, 227], 2),
    // Two auxiliary heads; the last inner product's images are single pixels.
    ("googlenet/train_val.prototxt", [3, 224, 224], 4),
    ("resnet50/train_val.prototxt", [3, 224, 224], 0),
];

#[test]
fn example_nets_run_compiled_kernels_and_keep_their_layouts() {
    if !has_onednn() {
        return;
    }
    for (file, record, allowed) in NETS {
        let mut net = build(&example(file, 2, record), false);
        pass(&mut net);
        let before = net.store().reorders();
        pass(&mut net);
        let reorders = net.store().reorders() - before;
        assert!(reorders <= allowed, "{file}: {reorders} activations change their layout");
        for node in net.layers() {
            let kernels = node.kernels();
            let compiled = ["Convolution", "Pooling"].contains(&node.def.type_name);
            assert!(!compiled || !kernels.is_empty(), "{file}: {} is on no fast path", node.name());
            for (direction, kernel) in kernels {
                println!("{file} {} {direction}: {kernel}", node.name());
                let slow = kernel.contains("ref");
                assert!(!slow, "{file}: {} runs {kernel} {direction}", node.name());
            }
        }
    }
}

#[test]
fn a_net_gives_the_plain_paths_loss_and_gradients() {
    if !has_onednn() {
        return;
    }
    for (file, record) in [
        ("mnist/lenet_train_test.prototxt", [1, 28, 28]),
        ("cifar10/cifar10_quick_train_test.prototxt", [3, 32, 32]),
        ("cifar10/cifar10_full_train_test.prototxt", [3, 32, 32]),
        ("googlenet/train_val.prototxt", [3, 224, 224]),
    ] {
        let param = example(file, 4, record);
        let (mut fast, mut plain) = (build(&param, false), build(&param, true));
        let losses = [pass(&mut fast), pass(&mut plain)];
        assert!((losses[0] - losses[1]).abs() < 1e-3 * losses[1].abs(), "{file}: {losses:?}");
        for id in 0..plain.params().params().len() {
            let wanted = plain.params().gradient(id).unwrap().to_vec();
            let found = fast.params().gradient(id).unwrap();
            let size = wanted.iter().map(|v| v * v).sum::<f32>().sqrt();
            let off = found.iter().zip(&wanted).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
            // A maximum or a sign that tips over moves a few elements far: hence the norm.
            assert!(off <= 2e-2 * size + 1e-9, "{file}: gradient {id} is {off} off its {size}");
        }
    }
}

/// A convolution, an activation over its top, and an inner product on that.
fn activated(kind: &str, param: &str, top: &str) -> NetParameter {
    let text = format!(
        "layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ dim: 2 dim: 3 dim: 6 dim: 6 }} }} }} \
         layer {{ name: 'l' type: 'Input' top: 'l' input_param {{ shape {{ dim: 2 dim: 4 }} }} }} \
         layer {{ name: 'c' type: 'Convolution' bottom: 'x' top: 'c' convolution_param {{ \
         num_output: 20 kernel_size: 3 weight_filler {{ type: 'gaussian' std: 0.3 }} }} }} \
         layer {{ name: 'a' type: '{kind}' bottom: 'c' top: '{top}' {param} }} \
         layer {{ name: 'i' type: 'InnerProduct' bottom: '{top}' top: 'i' inner_product_param {{ \
         num_output: 4 weight_filler {{ type: 'gaussian' std: 0.1 }} }} }} \
         layer {{ name: 'e' type: 'EuclideanLoss' bottom: 'i' bottom: 'l' top: 'e' }}"
    );
    caffe_proto::text::parse("test", &text).unwrap()
}

#[test]
fn activations_in_place_in_blocks_learn_as_they_do_apart_in_plain_order() {
    if !has_onednn() {
        return;
    }
    for (kind, param) in [
        ("ReLU", "relu_param { negative_slope: 0.1 }"),
        ("PReLU", "prelu_param { filler { type: 'gaussian' std: 0.5 } }"),
        ("PReLU", "prelu_param { channel_shared: true }"),
        ("ELU", "elu_param { alpha: 0.7 }"),
        ("Swish", "swish_param { beta: 1.5 }"),
        ("Exp", "exp_param { base: 2 shift: 0.5 }"),
        ("Sigmoid", ""),
        ("TanH", ""),
    ] {
        let mut blocked = build(&activated(kind, param, "c"), false);
        let mut plain = build(&activated(kind, param, "a"), true);
        let losses = [pass(&mut blocked), pass(&mut plain)];
        assert!((losses[0] - losses[1]).abs() < 1e-3 * losses[1].abs(), "{kind}: {losses:?}");
        for id in 0..plain.params().params().len() {
            let wanted = plain.params().gradient(id).unwrap().to_vec();
            let largest = wanted.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            for (found, wanted) in blocked.params().gradient(id).unwrap().iter().zip(&wanted) {
                let off = (found - wanted).abs();
                assert!(off <= 1e-3 * largest, "{kind} {param}: gradient {id} is {off} off");
            }
        }
    }
}
