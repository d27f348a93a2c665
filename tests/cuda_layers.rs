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
