//! Every layer's backward pass against central differences of its forward pass.
//!
//! The objective is a random weighting of all tops (losses: their own weight). Every element of
//! every bottom and parameter that has a gradient is moved both ways (on a device in software: a dozen
//! of each). Inputs keep their distance from each other and from 0, so that no step crosses a kink.
//!
//! Each layer on the host, on its exact and its fast path, and on a CUDA device or a simulated one
//! (`common::cuda`), in plain order and with channels last.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;

use caffe::Result;
use caffe::blob::BlobId;
use caffe::device::cuda::{CudaDevice, Math, Order};
use caffe::net::{Net, NetOptions};
use caffe_proto::Phase;
use common::cuda;

/// Step of the differences.
const STEP: f32 = 1e-2;
/// Allowed error, relative to the larger gradient or to 1.
const ALLOWED: f64 = 3e-3;

/// Pseudo-random numbers in 0..n.
fn noise(state: &mut u64, n: usize) -> usize {
    *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    ((*state >> 33) % n as u64) as usize
}

/// `2 3 4`: values of both signs; `+2 3`: positive ones; `#5 2`: class numbers below 5;
/// `=0,1,1,1 2 2`: these values.
struct Input<'a> {
    dims: Vec<usize>,
    text: &'a str,
}

impl<'a> Input<'a> {
    fn parse(text: &'a str) -> Self {
        let dims = text.split_whitespace().filter(|w| !w.starts_with(['#', '=']));
        Input { dims: dims.map(|w| w.trim_start_matches('+').parse().unwrap()).collect(), text }
    }

    fn values(&self, state: &mut u64) -> Vec<f32> {
        let n: usize = self.dims.iter().product();
        if let Some(classes) = self.text.strip_prefix('#') {
            let classes = classes.split_whitespace().next().unwrap().parse().unwrap();
            return (0..n).map(|_| noise(state, classes) as f32).collect();
        }
        if let Some(given) = self.text.strip_prefix('=') {
            let given = given.split_whitespace().next().unwrap();
            return given.split(',').map(|v| v.parse().unwrap()).collect();
        }
        // A shuffled grid around 0.
        let mut order: Vec<usize> = (0..n).collect();
        (1..n).rev().for_each(|i| order.swap(i, noise(state, i + 1)));
        let spacing = (4.0 / n as f32).max(3.0 * STEP);
        let lowest = if self.text.starts_with('+') { 0.5 } else { -(n as f32) * spacing / 2.0 };
        order.iter().map(|&i| lowest + (i as f32 + 0.5) * spacing).collect()
    }
}

/// Where a check computes.
#[derive(Clone, Debug)]
enum Place {
    Exact,
    Fast,
    Cuda(CudaDevice),
}

impl Place {
    /// From one of so many elements that is moved to the next. In software a device is slow: there a
    /// dozen of them stand for all.
    fn step(&self, elements: usize) -> usize {
        match self {
            Place::Cuda(device) if cuda::is_software(device) => elements.div_ceil(12).max(1),
            _ => 1,
        }
    }
}

fn build(kind: &str, param: &str, inputs: &[Input<'_>], place: &Place) -> Result<Net> {
    let mut text = String::from("force_backward: true ");
    for (i, input) in inputs.iter().enumerate() {
        let dims: String = input.dims.iter().map(|d| format!("dim: {d} ")).collect();
        text += &format!(
            "layer {{ name: 'in{i}' type: 'Input' top: 'x{i}' input_param {{ shape {{ {dims} }} }} }} "
        );
    }
    let bottoms: String = (0..inputs.len()).map(|i| format!("bottom: 'x{i}' ")).collect();
    let top = if param.contains("top:") { "" } else { "top: 'y'" };
    text += &format!("layer {{ name: 'test' type: '{kind}' {bottoms} {top} {param} }}");
    let device = match place {
        Place::Cuda(device) => Some(device.clone()),
        Place::Exact | Place::Fast => None,
    };
    let options = NetOptions {
        exact: matches!(place, Place::Exact),
        keep_all: true,
        threads: 2,
        seed: 3,
        cuda: device,
        ..NetOptions::new(Phase::Train)
    };
    common::net_of(&text, &options)
}

/// The tops, with the weight of each of their elements in the objective.
fn objective(net: &Net, state: &mut u64) -> Vec<(BlobId, Vec<f32>)> {
    let node = net.layers().last().unwrap();
    let tops = node.top.iter().zip(&node.loss_weight);
    tops.map(|(&id, &weight)| {
        let n = net.store().blobs[id].shape.count();
        let random = |_| (noise(state, 200) as f32 - 99.5) / 100.0;
        let weights = if node.def.is_loss { vec![weight; n] } else { (0..n).map(random).collect() };
        (id, weights)
    })
    .collect()
}

fn tops(net: &mut Net, objective: &[(BlobId, Vec<f32>)]) -> Vec<Vec<f32>> {
    net.forward().unwrap();
    objective.iter().map(|(id, _)| net.data(*id).unwrap().to_vec()).collect()
}

/// What is moved.
#[derive(Clone, Copy, Debug)]
enum Subject {
    Blob(BlobId),
    Param(usize),
}

impl Subject {
    fn gradient(self, net: &mut Net) -> Vec<f32> {
        match self {
            Subject::Blob(id) => net.diff(id).unwrap().to_vec(),
            Subject::Param(id) => net.params().gradient(id).unwrap().to_vec(),
        }
    }

    fn values(self, net: &mut Net) -> Vec<f32> {
        match self {
            Subject::Blob(id) => net.data(id).unwrap().to_vec(),
            Subject::Param(id) => net.params().values(id).unwrap().to_vec(),
        }
    }

    fn set(self, net: &mut Net, values: &[f32]) {
        match self {
            Subject::Blob(id) => net.data_mut(id).unwrap().copy_from_slice(values),
            Subject::Param(id) => net.params().set_values(id, values).unwrap(),
        }
    }

    /// The objective's slope in every `step`-th element, with the element's number.
    fn slopes(
        self,
        net: &mut Net,
        objective: &[(BlobId, Vec<f32>)],
        step: impl Fn(usize) -> usize,
    ) -> Vec<(usize, f64)> {
        let values = self.values(net);
        let mut moved = values.clone();
        let mut slopes = Vec::new();
        for i in (0..values.len()).step_by(step(values.len())) {
            let ends = [STEP, -STEP].map(|step| {
                moved[i] = values[i] + step;
                self.set(net, &moved);
                (moved[i], tops(net, objective))
            });
            moved[i] = values[i];
            let [(high, plus), (low, minus)] = ends;
            let mut sum = 0.0;
            for (((_, weights), plus), minus) in objective.iter().zip(&plus).zip(&minus) {
                for ((w, p), m) in weights.iter().zip(plus).zip(minus) {
                    sum += f64::from(*w) * (f64::from(*p) - f64::from(*m));
                }
            }
            slopes.push((i, sum / (f64::from(high) - f64::from(low))));
        }
        self.set(net, &values);
        slopes
    }
}

/// The layer types that the net is refused for because they have no CUDA code; `None`: it was checked.
fn check(kind: &str, param: &str, inputs: &[&str], place: &Place) -> Option<String> {
    let inputs: Vec<Input<'_>> = inputs.iter().map(|text| Input::parse(text)).collect();
    let mut net = match build(kind, param, &inputs, place) {
        Ok(net) => net,
        Err(e) => match cuda::refused(&e) {
            Some(refused) if cuda::WITHOUT_CODE.contains(&&*refused) => return Some(refused),
            _ => panic!("{kind} {param}: {e}"),
        },
    };
    let state = &mut 17;
    for (i, input) in inputs.iter().enumerate() {
        let id = net.blob(&format!("x{i}")).unwrap();
        net.data_mut(id).unwrap().copy_from_slice(&input.values(state));
    }
    let objective = objective(&net, state);
    let node = net.layers().last().unwrap();
    let can = |i: usize| node.def.differentiable.contains(i, node.bottom.len());
    let blobs = (0..node.bottom.len()).filter(|&i| can(i)).map(|i| Subject::Blob(node.bottom[i]));
    let learned: Vec<usize> = node.params.clone();
    let mut subjects: Vec<Subject> = blobs.collect();
    subjects.extend(
        learned.into_iter().filter(|&p| !net.arena().params()[p].statistic).map(Subject::Param),
    );
    assert!(!subjects.is_empty(), "{kind} has nothing to check");

    for (id, weights) in &objective {
        net.diff_mut(*id).unwrap().copy_from_slice(weights);
    }
    net.clear_param_diffs();
    net.forward().unwrap();
    net.backward().unwrap();
    let gradients: Vec<Vec<f32>> = subjects.iter().map(|s| s.gradient(&mut net)).collect();
    for (subject, ours) in subjects.iter().zip(gradients) {
        let slopes = subject.slopes(&mut net, &objective, |elements| place.step(elements));
        for (i, slope) in slopes {
            let ours = f64::from(ours[i]);
            let off = (ours - slope).abs() / ours.abs().max(slope.abs()).max(1.0);
            assert!(
                off <= ALLOWED,
                "{kind} {param}: {subject:?}[{i}]: backward says {ours}, differences say {slope}"
            );
        }
    }
    None
}

/// Every set of parameters with every set of inputs.
struct Checks {
    name: &'static str,
    kind: &'static str,
    params: &'static [&'static str],
    inputs: &'static [&'static [&'static str]],
}

impl Checks {
    fn named(name: &str) -> &'static Checks {
        CHECKS.iter().find(|checks| checks.name == name).unwrap()
    }

    /// The layer types without CUDA code that were met.
    fn run(&self, place: &Place) -> BTreeSet<String> {
        let of = |&param| self.inputs.iter().map(move |inputs| (param, *inputs));
        let all = self.params.iter().flat_map(of);
        all.filter_map(|(param, inputs)| check(self.kind, param, inputs, place)).collect()
    }

    fn on_host(&self) {
        for place in [Place::Exact, Place::Fast] {
            assert!(self.run(&place).is_empty());
        }
    }

    fn on_cuda(&self) {
        for order in [Order::Plain, Order::ChannelsLast] {
            if let Some(device) = cuda::device_in(Math::F32, order) {
                self.on_device(device);
            }
        }
    }

    fn on_device(&self, device: CudaDevice) {
        match self.run(&Place::Cuda(device)) {
            met if met.is_empty() => {
                let listed = cuda::WITHOUT_CODE.contains(&self.kind);
                assert!(!listed, "{} has CUDA code; take it off cuda::WITHOUT_CODE", self.kind);
            }
            met => println!("skipped: no CUDA code: {met:?}"),
        }
    }
}

/// `name: type, [parameters…], [[inputs…]…]`, and of each a test on the host and one on CUDA.
macro_rules! gradients {
    ($($name:ident: $kind:literal, [$($param:literal),*], [$([$($input:literal),*]),*];)*) => {
        const CHECKS: &[Checks] = &[$(Checks {
            name: stringify!($name),
            kind: $kind,
            params: &[$($param),*],
            inputs: &[$(&[$($input),*]),*],
        }),*];
        $(#[test]
        fn $name() {
            Checks::named(stringify!($name)).on_host();
        })*
        mod on_cuda {
            $(#[test]
            fn $name() {
                super::Checks::named(stringify!($name)).on_cuda();
            })*
        }
    };
}

#[test]
fn layers_without_cuda_code_are_told() {
    let Some(device) = cuda::device() else { return };
    let place = Place::Cuda(device);
    let refused: BTreeSet<&str> = CHECKS
        .iter()
        .filter(|checks| {
            let inputs: Vec<Input<'_>> = checks.inputs[0].iter().map(|t| Input::parse(t)).collect();
            build(checks.kind, checks.params[0], &inputs, &place).is_err()
        })
        .map(|checks| checks.kind)
        .collect();
    println!("layers without CUDA code, of those with a gradient: {refused:?}");
    let kinds: BTreeSet<&str> = CHECKS.iter().map(|checks| checks.kind).collect();
    let listed: BTreeSet<&str> = cuda::WITHOUT_CODE.iter().copied().collect();
    assert_eq!(refused, kinds.intersection(&listed).copied().collect());
}

gradients! {
    relu: "ReLU", ["", "relu_param { negative_slope: 0.2 }"], [["2 3 4"], ["30"]];
    sigmoid: "Sigmoid", [""], [["2 3 4"]];
    tanh: "TanH", [""], [["2 3 4"]];
    power: "Power", ["power_param { power: 2 scale: 0.5 shift: 0.3 }", "power_param { scale: -3 }", "power_param { power: 3 shift: 1 }", "power_param { power: 0 shift: 2 }"], [["2 3 4"]];
    fractional_power: "Power", ["power_param { power: 0.37 scale: 2 shift: 0.1 }", "power_param { power: -1.5 }"], [["+2 5"]];
    dropout: "Dropout", ["", "dropout_param { dropout_ratio: 0.8 }"], [["3 8"], ["2 3 2 2"]];
    softmax: "Softmax", ["", "softmax_param { axis: -1 }", "softmax_param { axis: 0 }"], [["3 4"], ["2 3 2 2"]];
    softmax_with_loss: "SoftmaxWithLoss", ["", "loss_weight: 2.5 loss_param { normalization: NONE ignore_label: 1 }", "loss_param { normalization: FULL ignore_label: 2 }", "loss_param { normalize: false }"], [["4 5", "#5 4"], ["2 4 3 2", "#4 2 3 2"]];
    concat: "Concat", ["", "concat_param { axis: -2 }"], [["2 3 2 2", "2 3 2 2", "2 3 2 2"]];
    slice: "Slice", ["top: 'a' top: 'b'", "top: 'a' top: 'b' top: 'c' slice_param { axis: 2 slice_point: 1 slice_point: 2 }"], [["2 4 4 2"]];
    eltwise: "Eltwise", ["", "eltwise_param { coeff: 1 coeff: -2.5 coeff: 0.5 }", "eltwise_param { operation: PROD }", "eltwise_param { operation: PROD stable_prod_grad: false }"], [["2 3 4", "2 3 4", "2 3 4"], ["2 3 2 2", "2 3 2 2", "2 3 2 2"]];
    flatten: "Flatten", ["", "flatten_param { axis: 2 end_axis: 2 }"], [["2 3 2 2"]];
    reshape: "Reshape", ["reshape_param { shape { dim: 0 dim: -1 dim: 2 } }"], [["2 3 2 2"]];
    scale: "Scale", ["", "scale_param { bias_term: true filler { type: 'gaussian' std: 1 } bias_filler { value: 0.4 } }", "scale_param { axis: 0 num_axes: -1 filler { type: 'uniform' min: 1 max: 2 } }", "scale_param { num_axes: 0 filler { value: 1.7 } }", "scale_param { axis: 2 num_axes: 2 bias_term: true }"], [["2 3 2 2"]];
    scale_by_a_bottom: "Scale", ["scale_param { axis: 1 }", "scale_param { axis: 1 bias_term: true }"], [["2 3 2 2", "3"], ["2 3 2 2", "3 2"]];
    bias: "Bias", ["", "bias_param { axis: 2 num_axes: -1 filler { type: 'gaussian' std: 1 } }"], [["2 3 2 2"]];
    bias_from_a_bottom: "Bias", ["bias_param { axis: 0 }"], [["2 3 2 2", "2 3"]];
    batch_norm: "BatchNorm", ["batch_norm_param { eps: 0.01 }", "batch_norm_param { use_global_stats: true eps: 0.5 }"], [["4 3 2 2"], ["6 4"], ["9"]];
    pooling: "Pooling", ["pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 }", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }", "pooling_param { pool: AVE kernel_h: 2 kernel_w: 3 stride_h: 2 stride_w: 1 }", "pooling_param { pool: AVE global_pooling: true }", "pooling_param { pool: MAX kernel_size: 2 stride: 2 round_mode: FLOOR }"], [["2 2 5 4"]];
    lrn: "LRN", ["lrn_param { local_size: 3 alpha: 0.9 }", "lrn_param { local_size: 5 alpha: 0.5 beta: 0.6 k: 2 }", "lrn_param { local_size: 3 alpha: 0.9 norm_region: WITHIN_CHANNEL }"], [["2 5 3 4"], ["2 12 2 3"]];
    inner_product: "InnerProduct", ["inner_product_param { num_output: 4 weight_filler { type: 'gaussian' std: 1 } bias_filler { value: 0.3 } }", "inner_product_param { num_output: 3 bias_term: false transpose: true weight_filler { type: 'gaussian' std: 1 } }", "inner_product_param { num_output: 2 axis: -1 weight_filler { type: 'gaussian' std: 1 } }"], [["3 5"], ["2 3 2 2"]];
    convolution: "Convolution", ["convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: 'gaussian' std: 0.5 } }", "convolution_param { num_output: 4 group: 2 kernel_h: 2 kernel_w: 3 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 0 weight_filler { type: 'gaussian' std: 0.5 } }", "convolution_param { num_output: 2 kernel_size: 2 dilation: 2 bias_term: false weight_filler { type: 'gaussian' std: 0.5 } }", "convolution_param { num_output: 3 kernel_size: 1 weight_filler { type: 'gaussian' std: 0.5 } }"], [["2 4 5 4"]];
    convolution_of_large_groups: "Convolution", ["convolution_param { num_output: 16 group: 2 kernel_size: 2 stride: 2 pad: 1 weight_filler { type: 'gaussian' std: 0.1 } }"], [["2 16 3 4"]];
    convolution_of_other_dimensions: "Convolution", ["convolution_param { num_output: 3 kernel_size: 2 stride: 2 pad: 1 weight_filler { type: 'gaussian' std: 0.5 } }"], [["2 2 3 4 3"], ["2 3 6"]];
    convolution_without_spatial_axes: "Convolution", ["convolution_param { axis: -1 num_output: 4 weight_filler { type: 'gaussian' std: 0.5 } }", "convolution_param { axis: -1 num_output: 6 group: 2 kernel_size: 1 bias_term: false weight_filler { type: 'gaussian' std: 0.5 } }"], [["2 3 4"], ["5 2"]];
    two_convolutions_of_one_layer: "Convolution", ["top: 'a' top: 'b' convolution_param { num_output: 2 kernel_size: 2 weight_filler { type: 'gaussian' std: 0.5 } }"], [["2 2 3 3", "2 2 3 3"]];
    deconvolution: "Deconvolution", ["convolution_param { num_output: 4 group: 2 kernel_size: 4 stride: 2 pad: 1 weight_filler { type: 'gaussian' std: 0.5 } }", "convolution_param { num_output: 3 kernel_h: 2 kernel_w: 3 dilation: 2 weight_filler { type: 'gaussian' std: 0.5 } }"], [["2 2 3 2"]];
    deconvolution_of_large_groups: "Deconvolution", ["convolution_param { num_output: 16 group: 2 kernel_size: 3 stride: 2 pad: 1 weight_filler { type: 'gaussian' std: 0.1 } }"], [["2 16 3 2"]];
    abs_val: "AbsVal", [""], [["2 3 4"], ["2 3 2 2"]];
    bnll: "BNLL", [""], [["2 3 4"], ["2 3 2 2"]];
    clip: "Clip", ["clip_param { min: -0.7 max: 0.9 }", "clip_param { min: -9 max: 9 }"], [["2 3 4"], ["2 3 2 2"]];
    elu: "ELU", ["", "elu_param { alpha: 0.3 }", "elu_param { alpha: -0.8 }", "elu_param { alpha: 0 }"], [["2 3 4"], ["2 3 2 2"]];
    exp: "Exp", ["", "exp_param { base: 2 scale: -0.5 shift: 0.3 }", "exp_param { base: 1 }"], [["2 3 4"], ["2 3 2 2"]];
    log: "Log", ["", "log_param { base: 10 scale: 2 shift: 1 }", "log_param { base: 0.5 }"], [["+2 5"], ["+2 3 2 2"]];
    swish: "Swish", ["", "swish_param { beta: 2.5 }", "swish_param { beta: -1 }"], [["2 3 4"], ["2 3 2 2"]];
    prelu: "PReLU", ["", "prelu_param { filler { type: 'gaussian' std: 1 } }", "prelu_param { filler { value: -0.4 } channel_shared: true }"], [["2 3 4"], ["2 3 2 2"], ["4 5"]];
    tile: "Tile", ["tile_param { tiles: 3 }", "tile_param { axis: -1 tiles: 2 }", "tile_param { axis: 0 tiles: 4 }"], [["2 3 4"], ["2 3 2 2"]];
    reduction: "Reduction", ["", "reduction_param { operation: ASUM axis: 1 coeff: -2 }", "reduction_param { operation: SUMSQ axis: -1 coeff: 0.5 }", "reduction_param { operation: MEAN axis: -2 coeff: 3 }"], [["2 3 4"], ["2 3 2 2"]];
    euclidean_loss: "EuclideanLoss", ["", "loss_weight: 2.5"], [["4 5", "4 5"], ["2 3 2 2", "2 12"]];
    hinge_loss: "HingeLoss", ["", "loss_weight: 2 hinge_loss_param { norm: L2 }"], [["4 5", "#5 4"], ["3 2 2", "#4 3"]];
    multinomial_logistic_loss: "MultinomialLogisticLoss", ["", "loss_weight: 0.5"], [["+4 5", "#5 4"], ["+3 2 2", "#4 3 1"]];
    infogain_loss: "InfogainLoss", ["", "loss_weight: 2.5 loss_param { normalization: NONE ignore_label: 1 }", "loss_param { normalization: FULL ignore_label: 2 }", "loss_param { normalization: BATCH_SIZE } infogain_loss_param { axis: -3 }"], [["2 4 3 2", "#4 2 3 2", "4 4"]];
    infogain_loss_along_the_last_axis: "InfogainLoss", ["infogain_loss_param { axis: -1 }"], [["3 4", "#4 3", "16"], ["2 3 4", "#4 6", "2 8"]];
    sigmoid_cross_entropy_loss: "SigmoidCrossEntropyLoss", ["", "loss_weight: 2.5 loss_param { normalization: NONE ignore_label: 1 }", "loss_param { normalization: VALID ignore_label: 0 }", "loss_param { normalization: FULL }"], [["4 5", "#2 4 5"], ["2 3 2 2", "+2 3 2 2"]];
    contrastive_loss: "ContrastiveLoss", ["", "contrastive_loss_param { margin: 4 }", "loss_weight: 2 contrastive_loss_param { margin: 20 legacy_version: true }"], [["5 4", "5 4", "#2 5"], ["4 2 2", "4 4 1", "#2 4 1"]];
    embed: "Embed", ["embed_param { input_dim: 5 num_output: 3 weight_filler { type: 'gaussian' std: 0.5 } bias_filler { type: 'gaussian' std: 0.5 } }", "embed_param { input_dim: 6 num_output: 1 bias_term: false weight_filler { type: 'gaussian' std: 0.5 } }"], [["#5 4"], ["#5 2 3"]];
    mvn: "MVN", ["", "mvn_param { normalize_variance: false }", "mvn_param { across_channels: true }", "mvn_param { across_channels: true normalize_variance: false eps: 0.5 }"], [["2 3 2 4"], ["3 2 5"]];
    crop: "Crop", ["crop_param { axis: 2 offset: 1 }", "crop_param { axis: -3 offset: 1 offset: 0 offset: 2 }", "crop_param { axis: -1 }"], [["2 3 4 5", "2 2 3 2"]];
    batch_reindex: "BatchReindex", [""], [["4 3", "#4 6"], ["3 2 2 2", "#3 2"]];
    filter: "Filter", ["top: 'a' top: 'b'"], [["4 3", "4 2 1 2", "=1,0,0,1 4"], ["3 2", "3", "=0,1,0 3 1"]];
    im2col: "Im2col", ["convolution_param { kernel_size: 2 stride: 2 pad: 1 }", "convolution_param { kernel_size: 2 dilation: 2 }"], [["2 2 4 3"], ["1 2 3 4 3"], ["2 2 5"]];
    im2col_of_other_channels: "Im2col", ["convolution_param { axis: 2 kernel_size: 2 pad: 1 }", "convolution_param { axis: -3 kernel_h: 1 kernel_w: 2 stride_h: 2 stride_w: 1 }"], [["2 2 3 4 2"]];
    parameter: "Parameter", ["parameter_param { shape { dim: 2 dim: 3 } }"], [[]];
    spp: "SPP", ["spp_param { pyramid_height: 1 }", "spp_param { pyramid_height: 3 }", "spp_param { pyramid_height: 3 pool: AVE }", "spp_param { pyramid_height: 1 pool: AVE }"], [["2 2 6 4"], ["1 3 7 9"]];
    lstm_unit: "LSTMUnit", ["top: 'c' top: 'h'"], [["1 3 2", "1 3 8", "=1,0,1 1 3"], ["1 2 3", "1 2 12", "=0.5,1 1 2"]];
    lstm: "LSTM", ["recurrent_param { num_output: 3 weight_filler { type: 'gaussian' std: 0.5 } bias_filler { type: 'gaussian' std: 0.5 } }"], [["3 2 4", "=0,0,1,1,1,0 3 2"], ["4 1 2 2", "=0,1,0,1 4 1"], ["2 2 3", "=0,0,1,1 2 2", "2 3"]];
    rnn: "RNN", ["recurrent_param { num_output: 3 weight_filler { type: 'gaussian' std: 0.5 } bias_filler { type: 'gaussian' std: 0.5 } }"], [["3 2 4", "=0,0,1,1,1,0 3 2"], ["4 1 2 2", "=0,1,0,1 4 1"], ["2 2 3", "=0,0,1,1 2 2", "2 2 2"]];
}
