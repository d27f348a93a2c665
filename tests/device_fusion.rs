//! Layers that do the work of those behind them on a CUDA device: nothing changes but the number of kernels.
//! With `keep_all` every layer works alone; without it they are fused.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use caffe::device::cuda::{CudaDevice, Math, Order};
use caffe::net::{Net, NetOptions};
use caffe_proto::Phase;

/// What a net is compared by.
struct Seen {
    loss: f32,
    parameters: Vec<f32>,
    gradients: Vec<f32>,
    input_gradient: Vec<f32>,
    out: Vec<f32>,
}

fn input(name: &str, dims: &str) -> String {
    format!(
        "layer {{ name: '{name}' type: 'Input' top: '{name}' input_param {{ shape {{ {dims} }} }} }} "
    )
}

fn run(text: &str, device: &CudaDevice, phase: Phase, keep_all: bool) -> Seen {
    let options =
        NetOptions { keep_all, cuda: Some(device.clone()), seed: 3, ..NetOptions::new(phase) };
    let mut net: Net = common::net_of(text, &options).unwrap();
    let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 25.0;
    for (name, factor) in [("x", 1.0), ("t", 0.5)] {
        let id = net.blob(name).unwrap();
        net.data_mut(id).unwrap().iter_mut().enumerate().for_each(|(i, v)| *v = factor * value(i));
    }
    let mut loss = 0.0;
    net.clear_param_diffs();
    // Twice, so that running statistics have a past.
    for _ in 0..2 {
        loss = net.forward().unwrap();
        net.backward().unwrap();
    }
    let (x, y) = (net.blob("x").unwrap(), net.blob("y").unwrap());
    Seen {
        loss,
        input_gradient: net.diff(x).unwrap().to_vec(),
        out: net.data(y).unwrap().to_vec(),
        parameters: net.params().data().unwrap().to_vec(),
        gradients: net.params().diff().unwrap().to_vec(),
    }
}

/// The layers end in blob y.
fn compare(what: &str, layers: &str, phase: Phase) {
    for order in [Order::Plain, Order::ChannelsLast] {
        let Some(device) = common::cuda::device_in(Math::F32, order) else { return };
        compare_on(&device, what, layers, phase);
    }
}

fn compare_on(device: &CudaDevice, what: &str, layers: &str, phase: Phase) {
    let text = format!(
        "force_backward: true {}{}{layers} layer {{ name: 'loss' type: 'EuclideanLoss' bottom: 'y' \
         bottom: 't' top: 'loss' }}",
        input("x", "dim: 3 dim: 6 dim: 5 dim: 5"),
        input("t", "dim: 3 dim: 6 dim: 5 dim: 5"),
    );
    let [alone, fused] = [true, false].map(|keep_all| run(&text, device, phase, keep_all));
    let near = |name: &str, a: &[f32], b: &[f32]| {
        assert_eq!(a.len(), b.len());
        let largest = a.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
        let off = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off <= 1e-5 * largest, "{what}, {name}: {off} of {largest}");
    };
    near("loss", &[alone.loss], &[fused.loss]);
    near("y", &alone.out, &fused.out);
    near("parameters", &alone.parameters, &fused.parameters);
    near("gradients of parameters", &alone.gradients, &fused.gradients);
    near("gradient of x", &alone.input_gradient, &fused.input_gradient);
    assert!(fused.gradients.iter().chain(&fused.input_gradient).any(|g| *g != 0.0), "{what}");
}

fn norm(bottom: &str, more: &str) -> String {
    format!("layer {{ name: 'n' type: 'BatchNorm' bottom: '{bottom}' top: 'y' {more} }} ")
}

const SPLIT: &str = "layer { name: 'c' type: 'Convolution' bottom: 'x' top: 'c'
    convolution_param { num_output: 6 kernel_size: 3 pad: 1 bias_term: false weight_filler { type: 'xavier' } } } ";
const SCALE: &str = "layer { name: 's' type: 'Scale' bottom: 'y' top: 'y'
    scale_param { bias_term: true filler { type: 'gaussian' std: 1 } bias_filler { type: 'gaussian' std: 0.3 } } } ";
const RELU: &str = "layer { name: 'r' type: 'ReLU' bottom: 'y' top: 'y' } ";

#[test]
fn a_norm_does_the_work_of_scale_and_relu() {
    let in_place = SPLIT.replace("top: 'c'", "top: 'y'") + &norm("y", "");
    let apart = SPLIT.to_owned() + &norm("c", "");
    for (name, head) in [("in place", in_place), ("apart", apart)] {
        for (behind, layers) in [("all", SCALE.to_owned() + RELU), ("scale", SCALE.to_owned())] {
            compare(&format!("{name}, {behind}"), &(head.clone() + &layers), Phase::Train);
            compare(&format!("{name}, {behind}, TEST"), &(head.clone() + &layers), Phase::Test);
        }
    }
}

#[test]
fn a_scale_without_bias_or_that_does_not_learn_is_no_other() {
    let head = SPLIT.to_owned() + &norm("c", "");
    let plain = "layer { name: 's' type: 'Scale' bottom: 'y' top: 'y'
        scale_param { filler { type: 'gaussian' std: 1 } } } ";
    compare("no bias", &format!("{head}{plain}{RELU}"), Phase::Train);
    let frozen =
        SCALE.replace("scale_param", "param { lr_mult: 0 } param { lr_mult: 0 } scale_param");
    compare("frozen", &format!("{head}{frozen}{RELU}"), Phase::Train);
    // Over all axes, with another slope, or out of place: each works alone.
    let wide = SCALE.replace("bias_term", "num_axes: -1 bias_term");
    compare("all axes", &format!("{head}{wide}{RELU}"), Phase::Train);
    let leaky = RELU.replace("bottom", "relu_param { negative_slope: 0.1 } bottom");
    compare("leaky", &format!("{head}{SCALE}{leaky}"), Phase::Train);
}

#[test]
fn convolutions_products_and_sums_do_the_work_of_a_relu() {
    let conv = SPLIT.replace("top: 'c'", "top: 'y'").replace("bias_term: false", "bias_term: true");
    compare("convolution", &(conv.clone() + RELU), Phase::Train);
    let frozen =
        conv.replace("convolution_param", "param { } param { lr_mult: 0 } convolution_param");
    compare("convolution whose bias does not learn", &(frozen + RELU), Phase::Train);
    compare(
        "convolution without bias",
        &(SPLIT.replace("top: 'c'", "top: 'y'") + RELU),
        Phase::Train,
    );
    let sum = "layer { name: 'e' type: 'Eltwise' bottom: 'c' bottom: 'x' top: 'y' eltwise_param { coeff: 1 coeff: -0.5 } } ";
    compare("sum", &(SPLIT.to_owned() + sum + RELU), Phase::Train);
    let three = sum
        .replace("coeff: 1 ", "coeff: 1 coeff: 2 ")
        .replace("bottom: 'x'", "bottom: 'x' bottom: 'x'");
    compare("sum of three", &(SPLIT.to_owned() + &three + RELU), Phase::Train);
    let product = "layer { name: 'e' type: 'Eltwise' bottom: 'c' bottom: 'x' top: 'y' eltwise_param { operation: PROD } } ";
    compare("product", &(SPLIT.to_owned() + product + RELU), Phase::Train);
    let inner = "layer { name: 'i' type: 'InnerProduct' bottom: 'x' top: 'i' inner_product_param { num_output: 150
          weight_filler { type: 'xavier' } } }
        layer { name: 'ir' type: 'ReLU' bottom: 'i' top: 'i' }
        layer { name: 'f' type: 'Reshape' bottom: 'i' top: 'y' reshape_param { shape { dim: 3 dim: 6 dim: 5 dim: 5 } } } ";
    compare("inner product", inner, Phase::Train);
}
