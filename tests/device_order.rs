//! The order of activations on a CUDA device: how blobs change it, where the example nets do, and that a net
//! learns the same in both.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use caffe::blob::{Layout, Shape, Slab};
use caffe::device::Step;
use caffe::device::cpu::threads::Threads;
use caffe::device::cuda::meter::Meter;
use caffe::device::cuda::{CudaDevice, Form, Kind, Math, Order};
use caffe::net::{Net, NetOptions, Origin, Unwatched};
use caffe::solver::{Forecast, NetPlans, Solver, SolverOptions};
use caffe_proto::{
    BlobShape, InputParameter, LayerParameter, NetParameter, Phase, SolverParameter,
};

#[test]
fn a_blob_has_its_channels_last_when_asked() {
    for math in [Math::F32, Math::Bf16, Math::F16] {
        let Some(CudaDevice(device)) = common::cuda::device_with(math) else { return };
        let one = Threads::one();
        let form = |kind, order| (&device, Form { kind, order });
        let [plain, last] =
            [Order::Plain, Order::ChannelsLast].map(|order| form(math.kind(), order));
        let floats = [Order::Plain, Order::ChannelsLast].map(|order| form(Kind::F32, order));
        // Through tiles and without, with tiles that are full and not, and with one axis behind the channels.
        let shapes = [vec![2, 3, 4, 5], vec![3, 40, 5, 7], vec![1, 64, 8, 8], vec![2, 16, 33]];
        for dims in shapes {
            let (slab, shape) = (Slab::default(), Shape::new(dims));
            let [images, channels, pixels] = [shape[0], shape[1], shape.count_from(2)];
            // Numbers that have no digits to lose.
            let values: Vec<f32> = (0..shape.count()).map(|i| (i % 251) as f32 - 125.0).collect();
            slab.write(1, Layout::Plain, &shape).unwrap().copy_from_slice(&values);
            // To the device, and there in one pass to another order and perhaps kind; then nothing.
            slab.read_on(last, 2, &shape, one).unwrap();
            slab.read_on(last, 3, &shape, one).unwrap();
            assert_eq!(slab.reorders(), 2);
            // Through all forms and back.
            for (now, form) in [(4, plain), (5, last), (6, floats[1]), (7, floats[0]), (8, last)] {
                slab.update_on(form, now, &shape, one).unwrap();
            }
            let at = slab.read_on(floats[1], 9, &shape, one).unwrap();
            let mut there = vec![0.0; shape.count()];
            device.download(at, &mut there).unwrap();
            let element = |n: usize, c: usize, p: usize| values[(n * channels + c) * pixels + p];
            let places = (0..images).flat_map(|n| (0..pixels).map(move |p| (n, p)));
            let wanted = places.flat_map(|(n, p)| (0..channels).map(move |c| element(n, c, p)));
            assert!(there.iter().copied().eq(wanted), "{shape}");
            assert_eq!(slab.read(10, Layout::Plain, &shape, one).unwrap(), values);
        }
    }
}

#[test]
fn a_blob_in_another_shape_is_read_through_plain_order() {
    let Some(CudaDevice(device)) = common::cuda::device() else { return };
    let (slab, one) = (Slab::default(), Threads::one());
    let [image, other, flat] = [vec![2, 3, 4, 5], vec![2, 5, 12], vec![2, 60]].map(Shape::new);
    let last = (&device, Form { kind: Kind::F32, order: Order::ChannelsLast });
    let values: Vec<f32> = (0..120).map(|i| i as f32).collect();
    slab.write(1, Layout::Plain, &image).unwrap().copy_from_slice(&values);
    slab.update_on(last, 2, &image, one).unwrap();
    let download = |at| {
        let mut there = vec![0.0; 120];
        device.download(at, &mut there).unwrap();
        there
    };
    // Two axes have one order.
    assert_eq!(download(slab.read_on(last, 3, &flat, one).unwrap()), values);
    slab.update_on(last, 4, &image, one).unwrap();
    let turned = download(slab.read_on(last, 5, &other, one).unwrap());
    let wanted = (0..120).map(|i| values[i / 60 * 60 + i % 5 * 12 + i / 5 % 12]);
    assert!(turned.into_iter().eq(wanted));
    slab.update_on(last, 6, &other, one).unwrap();
    assert_eq!(slab.read(7, Layout::Plain, &image, one).unwrap(), values);
}

#[test]
fn one_channel_or_one_place_needs_no_order() {
    let Some(CudaDevice(device)) = common::cuda::device() else { return };
    let last = (&device, Form { kind: Kind::F32, order: Order::ChannelsLast });
    for dims in [vec![2, 1, 3, 4], vec![2, 24, 1, 1], vec![24, 2]] {
        let (slab, shape) = (Slab::default(), Shape::new(dims));
        slab.write_on(last, 1, &shape).unwrap();
        slab.read_on((&device, Form::of_kind(Kind::F32)), 2, &shape, Threads::one()).unwrap();
        assert_eq!(slab.reorders(), 0, "{shape}");
    }
}

/// An example net for training, its data fed by hand.
fn example(file: &str, [c, h, w]: [i64; 3]) -> NetParameter {
    let path = common::repository().join("examples").join(file);
    let mut param = caffe_proto::net_from_file(&path).unwrap().net;
    for layer in param.layer.iter_mut().filter(|l| l.r#type() == "Data") {
        let shape = [vec![2, c, h, w], vec![2]].map(|dim| BlobShape { dim }).into();
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

/// Which blobs change their form or cross between host and device in a step, and how often; gradients with
/// an apostrophe. On a device that only counts: nothing is computed.
fn reorders(param: &NetParameter, kind: Kind, order: Order) -> BTreeMap<String, u64> {
    let device = Rc::new(Meter::default().storing(kind).ordered(order));
    let options = NetOptions {
        // So that no two blobs share memory but those that are the same.
        keep_all: true,
        blank: true,
        cuda: Some(CudaDevice(device)),
        ..NetOptions::new(Phase::Train)
    };
    let mut net = Net::new(param, &Origin::default(), &options).unwrap();
    // The second time, as every other time.
    let mut before = Vec::new();
    for _ in 0..2 {
        before = net.store().slabs.iter().map(|slab| slab.reorders()).collect();
        for id in net.inputs().to_vec() {
            net.data_mut(id).unwrap().fill(0.0);
        }
        net.forward().unwrap();
        net.backward().unwrap();
    }
    let mut names = vec![String::new(); before.len()];
    for blob in net.store().blobs.iter().rev() {
        // Of an alias group, the first.
        names[blob.data] = blob.name.clone();
        names[blob.diff] = format!("{}'", blob.name);
    }
    let counts = net.store().slabs.iter().zip(before).map(|(slab, old)| slab.reorders() - old);
    names.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect()
}

/// Example nets, the size of their images, and the blobs whose order changes; backward their gradients.
const NETS: [(&str, [i64; 3], &[&str]); 3] = [
    // Before fc6.
    ("alexnet/train_val.prototxt", [3, 227, 227], &["pool5"]),
    // Before the inner products of both heads at the sides; the last one's images are single pixels.
    ("googlenet/train_val.prototxt", [3, 224, 224], &["loss1/conv", "loss2/conv"]),
    ("resnet50/train_val.prototxt", [3, 224, 224], &[]),
];

#[test]
fn example_nets_keep_their_order_between_convolutions() {
    for (file, image, named) in NETS {
        let param = example(file, image);
        for kind in [Kind::F32, Kind::Bf16] {
            let changes = |order| {
                let found = reorders(&param, kind, order);
                println!("{file}, {}, {}: {found:?}", kind.name(), order.name());
                found
            };
            let [plain, last] = [Order::Plain, Order::ChannelsLast].map(changes);
            // What crosses between host and device does so in both orders.
            let more: BTreeMap<&str, u64> = last
                .iter()
                .map(|(name, count)| (&**name, count - plain.get(name).unwrap_or(&0)))
                .filter(|(_, count)| *count > 0)
                .collect();
            let mut wanted: BTreeSet<String> = named.iter().map(|name| name.to_string()).collect();
            wanted.extend(named.iter().map(|name| format!("{name}'")));
            // In 16 bits records are converted anyhow: kind and order in one pass.
            if kind == Kind::F32 {
                wanted.insert("data".into());
            }
            let found: BTreeSet<String> = more.keys().map(|name| name.to_string()).collect();
            assert_eq!(found, wanted, "{file}");
            assert!(more.values().all(|count| *count == 1), "{file}: {more:?}");
        }
    }
}

const NET: &str = "
layer { name: 'data' type: 'Input' top: 'data' input_param { shape { dim: 4 dim: 3 dim: 12 dim: 11 } } }
layer { name: 'label' type: 'Input' top: 'label' input_param { shape { dim: 4 } } }
layer { name: 'conv1' type: 'Convolution' bottom: 'data' top: 'conv1' convolution_param { num_output: 16 pad: 2
  kernel_size: 5 weight_filler { type: 'gaussian' std: 0.1 } } }
layer { name: 'relu1' type: 'ReLU' bottom: 'conv1' top: 'conv1' }
layer { name: 'norm1' type: 'LRN' bottom: 'conv1' top: 'norm1' lrn_param { local_size: 5 alpha: 0.1 } }
layer { name: 'pool1' type: 'Pooling' bottom: 'norm1' top: 'pool1' pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: 'conv2' type: 'Convolution' bottom: 'pool1' top: 'conv2' convolution_param { num_output: 32 pad: 1
  kernel_size: 3 group: 2 bias_term: false weight_filler { type: 'xavier' } } }
layer { name: 'bn2' type: 'BatchNorm' bottom: 'conv2' top: 'bn2' }
layer { name: 'scale2' type: 'Scale' bottom: 'bn2' top: 'bn2' scale_param { bias_term: true } }
layer { name: 'relu2' type: 'ReLU' bottom: 'bn2' top: 'bn2' }
layer { name: 'a' type: 'Convolution' bottom: 'bn2' top: 'a' convolution_param { num_output: 5 kernel_size: 1
  weight_filler { type: 'xavier' } } }
layer { name: 'b' type: 'Convolution' bottom: 'bn2' top: 'b' convolution_param { num_output: 7 kernel_size: 3 pad: 1
  weight_filler { type: 'xavier' } } }
layer { name: 'concat' type: 'Concat' bottom: 'a' bottom: 'b' top: 'concat' }
layer { name: 'slope' type: 'PReLU' bottom: 'concat' top: 'slope' }
layer { name: 'c' type: 'Convolution' bottom: 'slope' top: 'c' convolution_param { num_output: 12 kernel_size: 3 pad: 1
  weight_filler { type: 'xavier' } } }
layer { name: 'sum' type: 'Eltwise' bottom: 'c' bottom: 'concat' top: 'sum' }
layer { name: 'drop' type: 'Dropout' bottom: 'sum' top: 'sum' }
layer { name: 'pool2' type: 'Pooling' bottom: 'sum' top: 'pool2' pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: 'ip' type: 'InnerProduct' bottom: 'pool2' top: 'ip' inner_product_param { num_output: 10
  weight_filler { type: 'xavier' } } }
layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }
";

fn job() -> (SolverParameter, NetPlans) {
    let text = format!(
        "base_lr: 0.05 momentum: 0.9 weight_decay: 0.004 lr_policy: 'fixed' max_iter: 9 random_seed: 5
         net_param {{ name: 'orders' {NET} }}"
    );
    let param: SolverParameter = caffe_proto::text::parse("solver", &text).unwrap();
    let plans = NetPlans::read(&param, 0, &[]).unwrap();
    (param, plans)
}

/// Losses and weights of three steps, each with another weight in its convolutions' copies.
fn learned(device: CudaDevice) -> (Vec<f32>, Vec<f32>) {
    let (param, plans) = job();
    let options = SolverOptions { cuda: Some(device), ..SolverOptions::new(1, 1) };
    let mut solver = Solver::new(&param, &plans, &options).unwrap();
    let losses = steps(&mut solver);
    let model = solver.net().to_proto().unwrap();
    let weights = model.layer.iter().flat_map(|l| &l.blobs).flat_map(|blob| blob.data.clone());
    (losses, weights.collect())
}

/// The losses of three steps.
fn steps(solver: &mut Solver) -> Vec<f32> {
    let mut losses = Vec::new();
    for iter in 0..3 {
        solver.clear_gradient();
        let net = solver.net();
        let [data, label] = ["data", "label"].map(|name| net.blob(name).unwrap());
        for (i, v) in net.data_mut(data).unwrap().iter_mut().enumerate() {
            *v = ((iter as usize * 7919 + i * 104_729) % 2003) as f32 / 1001.5 - 1.0;
        }
        net.data_mut(label).unwrap().copy_from_slice(&[1.0, 7.0, 3.0, 0.0]);
        let step = Step { iter, first_record: 4 * iter };
        losses.push(solver.forward_backward(&mut [], step, &mut Unwatched).unwrap());
        solver.update(iter).unwrap();
    }
    losses
}

/// Both tests with a device look at its memory or fill it.
static DEVICE: Mutex<()> = Mutex::new(());

#[test]
fn a_replica_takes_what_was_forecast_for_its_order() {
    let _alone = DEVICE.lock().unwrap_or_else(PoisonError::into_inner);
    let cases = [
        (Math::F32, Order::Plain),
        (Math::F32, Order::ChannelsLast),
        (Math::Bf16, Order::Plain),
        (Math::Bf16, Order::ChannelsLast),
    ];
    let mut parameters = Vec::new();
    for (math, order) in cases {
        let Some(device) = common::cuda::device_in(math, order) else { return };
        if device.0.order() != order || !common::cuda::is_software(&device) {
            return;
        }
        let (param, plans) = job();
        let options = SolverOptions { cuda: Some(device.clone()), ..SolverOptions::new(1, 1) };
        let forecast = Forecast::of(&param, &plans, &options, true).unwrap();
        forecast.reserve(&device).unwrap();
        assert_eq!(device.0.taken(), Some(forecast.block), "{math:?} {order:?}");
        let mut solver = Solver::new(&param, &plans, &options).unwrap();
        steps(&mut solver);
        let taken = device.0.taken().unwrap();
        println!("{math:?} {order:?}: {taken} bytes of {forecast:?}");
        assert!(taken <= forecast.block + forecast.workspace, "{math:?} {order:?}: {taken}");
        // Nothing but working memory was taken besides: the largest is that of a gradient and 256 KB.
        assert!(taken - forecast.block < (1 << 20), "{math:?} {order:?}: {taken} {forecast:?}");
        parameters.push(forecast.parameters);
    }
    // Weights with their channels last are copies.
    assert!(parameters[1] > parameters[0] && parameters[3] > parameters[2], "{parameters:?}");
}

#[test]
fn a_net_learns_the_same_in_both_orders() {
    let _alone = DEVICE.lock().unwrap_or_else(PoisonError::into_inner);
    let [plain, last] = [Order::Plain, Order::ChannelsLast].map(|order| {
        let device = common::cuda::device_in(Math::F32, order)?;
        (device.0.order() == order).then(|| learned(device))
    });
    let (Some(plain), Some(last)) = (plain, last) else { return };
    println!("losses {:?} and {:?}", plain.0, last.0);
    let near = |a: &f32, b: &f32| (a - b).abs() <= 2e-4 * a.abs().max(1.0);
    assert!(plain.0.iter().zip(&last.0).all(|(a, b)| near(a, b)), "{:?} {:?}", plain.0, last.0);
    assert_eq!(plain.1.len(), last.1.len());
    let off = plain.1.iter().zip(&last.1).position(|(a, b)| !near(a, b));
    assert_eq!(off, None);
    assert!(plain.0[2] < plain.0[0]);
}

#[test]
fn more_channels_than_threads_are_not_forgotten() {
    let Some(device) = common::cuda::device() else { return };
    // A thread has four channels, and kernels of channels have 1056 blocks of 256 threads.
    let channels = 4 * 1056 * 256 + 8;
    let text = format!(
        "layer {{ name: 'x' type: 'Input' top: 'x' input_param {{ shape {{ dim: 1 dim: {channels} }} }} }}
         layer {{ name: 'b' type: 'Bias' bottom: 'x' top: 'y' bias_param {{ filler {{ value: 2 }} }} }}"
    );
    let options = NetOptions { cuda: Some(device), ..NetOptions::new(Phase::Test) };
    let mut net = common::net_of(&text, &options).unwrap();
    let (x, y) = (net.blob("x").unwrap(), net.blob("y").unwrap());
    net.data_mut(x).unwrap().fill(1.0);
    net.forward().unwrap();
    assert!(net.data(y).unwrap().iter().all(|v| *v == 3.0));
}
