//! What layers do on a CUDA device beyond the cases of `tests/conformance.rs`: refuse bad labels,
//! sum long losses, and carry states over from pass to pass, as on the host.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use caffe::device::cuda::CudaDevice;
use caffe::net::{Net, NetOptions};
use caffe_proto::Phase;

fn net(text: &str, cuda: Option<&CudaDevice>) -> Net {
    let options =
        NetOptions { keep_all: true, cuda: cuda.cloned(), ..NetOptions::new(Phase::Train) };
    common::net_of(text, &options).unwrap()
}

fn input(name: &str, dims: &str) -> String {
    format!(
        "layer {{ name: '{name}' type: 'Input' top: '{name}' input_param {{ shape {{ {dims} }} }} }} "
    )
}

fn set(net: &mut Net, blob: &str, values: &[f32]) {
    let id = net.blob(blob).unwrap();
    net.data_mut(id).unwrap().copy_from_slice(values);
}

fn values(net: &mut Net, blob: &str) -> Vec<f32> {
    let id = net.blob(blob).unwrap();
    net.data(id).unwrap().to_vec()
}

#[test]
fn a_bad_label_is_named() {
    let Some(device) = common::cuda::device() else { return };
    let scores = input("x", "dim: 3 dim: 4") + &input("l", "dim: 3");
    for kind in ["SoftmaxWithLoss", "Accuracy", "HingeLoss", "MultinomialLogisticLoss"] {
        let layer =
            format!("layer {{ name: 'y' type: '{kind}' bottom: 'x' bottom: 'l' top: 'y' }}");
        let mut net = net(&(scores.clone() + &layer), Some(&device));
        set(&mut net, "x", &[0.25; 12]);
        set(&mut net, "l", &[0.0, 3.0, 4.0]);
        let message = net.forward().unwrap_err().to_string();
        assert!(message.contains("label 4 at position 2"), "{kind}: {message}");
        set(&mut net, "l", &[0.0, 3.0, 1.0]);
        assert!(net.forward().is_ok(), "{kind}");
    }
    let chosen = "layer { name: 'y' type: 'Embed' bottom: 'l' top: 'y'
        embed_param { input_dim: 3 num_output: 2 } }";
    let mut net = net(&(input("l", "dim: 3") + chosen), Some(&device));
    set(&mut net, "l", &[0.0, 2.0, 3.0]);
    let message = net.forward().unwrap_err().to_string();
    assert!(message.contains("index 3 at position 2"), "{message}");
}

#[test]
fn a_loss_of_many_terms_is_summed_in_parts() {
    let Some(device) = common::cuda::device() else { return };
    let n = 40_000;
    let text = input("a", &format!("dim: 2 dim: {}", n / 2))
        + &input("b", &format!("dim: 2 dim: {}", n / 2))
        + "layer { name: 'y' type: 'EuclideanLoss' bottom: 'a' bottom: 'b' top: 'y' }";
    let a: Vec<f32> = (0..n).map(|i| (i % 17) as f32 / 8.0).collect();
    let loss = |cuda| {
        let mut net = net(&text, cuda);
        set(&mut net, "a", &a);
        set(&mut net, "b", &vec![1.0; n]);
        net.forward().unwrap()
    };
    let (ours, host) = (loss(Some(&device)), loss(None));
    assert!((ours - host).abs() <= 1e-5 * host, "{ours}, on the host {host}");
}

#[test]
fn states_go_on_in_the_next_pass() {
    let Some(device) = common::cuda::device() else { return };
    for kind in ["LSTM", "RNN"] {
        let text = input("x", "dim: 2 dim: 3 dim: 2")
            + &input("cont", "dim: 2 dim: 3")
            + &format!(
                "layer {{ name: 'y' type: '{kind}' bottom: 'x' bottom: 'cont' top: 'y' recurrent_param {{
                 num_output: 4 weight_filler {{ type: 'constant' value: 0.3 }} }} }}"
            );
        let passes = |cuda| {
            let mut net = net(&text, cuda);
            [[0.0; 6], [1.0; 6], [1.0, 0.0, 1.0, 1.0, 1.0, 0.0]].map(|cont| {
                set(
                    &mut net,
                    "x",
                    &[0.5, -1.0, 0.25, 2.0, 1.0, 1.0, -0.5, 1.0, 0.0, 0.5, 1.0, -2.0],
                );
                set(&mut net, "cont", &cont);
                net.forward().unwrap();
                values(&mut net, "y")
            })
        };
        let (ours, host) = (passes(Some(&device)), passes(None));
        assert_ne!(host[0], host[1], "{kind} has no state to carry");
        for (ours, host) in ours.iter().flatten().zip(host.iter().flatten()) {
            assert!((ours - host).abs() < 1e-5, "{kind}: {ours}, on the host {host}");
        }
    }
}

fn assert_near(ours: &[f32], host: &[f32], what: &str) {
    assert_eq!(ours.len(), host.len(), "{what}");
    let largest = host.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let off = ours.iter().zip(host).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off <= 2e-5 * largest, "{what}: {off} of {largest}");
}

/// Everything that a pass over random input leaves: tops, gradients of inputs and of parameters.
fn outcome(text: &str, inputs: &[(&str, Vec<f32>)], cuda: Option<&CudaDevice>) -> Vec<Vec<f32>> {
    let mut net = net(text, cuda);
    for (blob, values) in inputs {
        set(&mut net, blob, values);
    }
    net.forward().unwrap();
    net.clear_param_diffs();
    net.backward().unwrap();
    let mut all: Vec<Vec<f32>> = Vec::new();
    for &id in &net.outputs().to_vec() {
        all.push(net.data(id).unwrap().to_vec());
    }
    let id = net.blob(inputs[0].0).unwrap();
    all.push(net.diff(id).unwrap().to_vec());
    all.push(net.params().diff().unwrap().to_vec());
    all.push(net.params().data().unwrap().to_vec());
    all
}

fn compare(text: &str, inputs: &[(&str, Vec<f32>)], device: &CudaDevice) {
    let ours = outcome(text, inputs, Some(device));
    for (i, (ours, host)) in ours.iter().zip(&outcome(text, inputs, None)).enumerate() {
        assert_near(ours, host, &format!("{i} of {text}"));
    }
    let again = outcome(text, inputs, Some(device));
    let bits = |all: &[Vec<f32>]| all.concat().iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert!(bits(&ours) == bits(&again), "other bits in another run of {text}");
}

fn waves(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 0.37).sin() + 0.3 * (i as f32 * 0.0011).cos()).collect()
}

#[test]
fn few_long_rows_are_summed_in_parts() {
    let Some(device) = common::cuda::device() else { return };
    let head = "force_backward: true ".to_owned();
    let layers = "
        layer { name: 'norm' type: 'BatchNorm' bottom: 'x' top: 'norm' }
        layer { name: 'scale' type: 'Scale' bottom: 'norm' top: 'scale' scale_param { bias_term: true } }
        layer { name: 'curve' type: 'TanH' bottom: 'scale' top: 'curve' }
        layer { name: 'whole' type: 'Reduction' bottom: 'curve' top: 'whole' loss_weight: 1
                reduction_param { operation: SUMSQ coeff: 0.01 } }
        layer { name: 'each' type: 'Reduction' bottom: 'x' top: 'each' loss_weight: 0.5
                reduction_param { operation: MEAN axis: 1 } }";
    // Of each channel 26,000 elements, of each record 39,000, neither a whole number of parts.
    let text = head.clone() + &input("x", "dim: 2 dim: 3 dim: 100 dim: 130") + layers;
    compare(&text, &[("x", waves(2 * 3 * 100 * 130))], &device);
    let product = "
        layer { name: 'ip' type: 'InnerProduct' bottom: 'x' top: 'ip'
                inner_product_param { num_output: 5 weight_filler { type: 'xavier' } } }
        layer { name: 'loss' type: 'Reduction' bottom: 'ip' top: 'loss' loss_weight: 1
                reduction_param { operation: SUMSQ } }";
    let text = head + &input("x", "dim: 101 dim: 4") + product;
    compare(&text, &[("x", waves(101 * 4))], &device);
}

#[test]
fn predictions_are_judged_by_blocks_and_by_threads() {
    let Some(device) = common::cuda::device() else { return };
    let dir = tempfile::tempdir().unwrap();
    // By a block for each; by threads that have many, so that classes are counted in parts.
    for (records, classes, inner) in [(7, 40, 1), (3, 4, 3000), (50, 6, 1)] {
        let matrix = dir.path().join(format!("matrix{classes}.binaryproto"));
        let blob = caffe_proto::BlobProto {
            num: Some(1),
            channels: Some(1),
            height: Some(classes as i32),
            width: Some(classes as i32),
            data: waves(classes * classes),
            ..Default::default()
        };
        std::fs::write(&matrix, caffe_proto::Message::encode_to_vec(&blob)).unwrap();
        let text = "force_backward: true ".to_owned()
            + &input("x", &format!("dim: {records} dim: {classes} dim: {inner}"))
            + &input("l", &format!("dim: {records} dim: {inner}"))
            + &format!(
                "layer {{ name: 'a' type: 'Accuracy' bottom: 'x' bottom: 'l' top: 'a' top: 'classes'
                   accuracy_param {{ top_k: 2 ignore_label: 1 }} }}
                 layer {{ name: 'loss' type: 'InfogainLoss' bottom: 'x' bottom: 'l' top: 'loss'
                   infogain_loss_param {{ source: '{}' }} loss_param {{ ignore_label: 1 }} }}",
                matrix.display()
            );
        let labels = (0..records * inner).map(|i| (i * 7 % 11 % classes) as f32).collect();
        let inputs = [("x", waves(records * classes * inner)), ("l", labels)];
        compare(&text, &inputs, &device);
    }
}
