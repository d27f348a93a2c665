//! bf16 and fp16 on a CUDA device, or where there is none on a simulated one: how numbers are rounded, when
//! blobs are converted, that a net learns what it learns in f32, and what the loss scale does. The
//! program's part stands in `cuda.rs`, the layers' in `conformance.rs`.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use caffe::blob::{Layout, Shape, Slab};
use caffe::device::Step;
use caffe::device::cpu::gemm::Gemm;
use caffe::device::cpu::threads::Threads;
use caffe::device::cuda::backend::{Axis, Correlation};
use caffe::device::cuda::memory::Memory;
use caffe::device::cuda::{CudaDevice, Form, Kind, Math, Order, convert};
use caffe::net::{Net, NetOptions, Unwatched};
use caffe::solver::{LossScale, NetPlans, ScaleState, Solver, SolverOptions};
use caffe_proto::{Phase, SolverParameter};

const HALVES: [Math; 2] = [Math::Bf16, Math::F16];

/// A number of 16 bits as f32, by the crate that this is held against.
fn widened(kind: Kind, bits: u16) -> f32 {
    match kind {
        Kind::Bf16 => half::bf16::from_bits(bits).to_f32(),
        _ => half::f16::from_bits(bits).to_f32(),
    }
}

fn narrowed(kind: Kind, value: f32) -> u16 {
    match kind {
        Kind::Bf16 => half::bf16::from_f32(value).to_bits(),
        _ => half::f16::from_f32(value).to_bits(),
    }
}

/// Numbers of 16 bits, what lies in the middle between neighbours, and the f32 next to each.
fn telling(kind: Kind) -> Vec<f32> {
    let mut values =
        vec![f32::MIN_POSITIVE, f32::from_bits(1), -f32::from_bits(1), f32::MAX, f32::MIN];
    values.extend([f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(0xffff_ffff)]);
    values.extend([65519.996, 65520.0, 65535.0, 65536.0, -65520.0, 5.9604645e-8, 2.9802322e-8]);
    // Around the powers of two all, of the others some.
    let some = |bits: &u16| bits.is_multiple_of(13) || [0, 1, 126, 127].contains(&(bits & 0x7f));
    for bits in (0..=u16::MAX).filter(some) {
        let value = widened(kind, bits);
        let next = widened(kind, bits.wrapping_add(1));
        let middle = (f64::from(value) + f64::from(next)) / 2.0;
        for v in [value, middle as f32] {
            let bits = v.to_bits();
            values.extend([
                v,
                f32::from_bits(bits.wrapping_add(1)),
                f32::from_bits(bits.wrapping_sub(1)),
            ]);
        }
    }
    values
}

#[test]
fn numbers_are_rounded_as_ieee_says() {
    for math in HALVES {
        let Some(CudaDevice(device)) = common::cuda::device_with(math) else { return };
        let kind = math.kind();
        let values = telling(kind);
        let n = values.len();
        let [floats, halves] = [n, kind.floats(n)].map(|n| Memory::new(&device, n).unwrap());
        floats.upload(&values).unwrap();
        convert(&*device, (Kind::F32, floats.at()), halves.at(), n).unwrap();
        let mut words = vec![0.0; kind.floats(n)];
        halves.download(&mut words).unwrap();
        let bits = words.iter().flat_map(|w| [w.to_bits() as u16, (w.to_bits() >> 16) as u16]);
        for (value, ours) in values.iter().zip(bits.take(n)) {
            let theirs = narrowed(kind, *value);
            let nan = value.is_nan() && widened(kind, ours).is_nan();
            let hex = value.to_bits();
            assert!(
                ours == theirs || nan,
                "{kind:?} of {value} ({hex:#x}): {ours:#x}, not {theirs:#x}"
            );
        }
        convert(&*device, (kind, halves.at()), floats.at(), n).unwrap();
        let mut back = vec![0.0; n];
        floats.download(&mut back).unwrap();
        for (value, ours) in values.iter().zip(back) {
            let theirs = kind.round(*value);
            let same = ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan());
            assert!(same, "{kind:?} of {value}: {ours}, not {theirs}");
        }
    }
}

#[test]
fn long_sums_are_made_in_32_bits_and_rounded_once() {
    // The first half adds up to a number that 16 bits do not have, all of them to one that they have.
    for (math, half) in [(Math::Bf16, 257.0), (Math::F16, 2049.0)] {
        let Some(CudaDevice(device)) = common::cuda::device_with(math) else { return };
        let kind = device.kind();
        let terms = [&[half - 7.0][..], &[1.0; 14], &[2.0]].concat();
        let [floats, a, b, c] = [16; 4].map(|n| Memory::new(&device, n).unwrap());
        let sums = |values: &[f32], to: &Memory| {
            floats.upload(values).unwrap();
            convert(&*device, (Kind::F32, floats.at()), to.at(), values.len()).unwrap();
        };
        sums(&terms, &a);
        sums(&[1.0; 16], &b);
        let one = Gemm::dense(false, false, 1, 1, 16);
        device.product(one, [kind; 2], a.at(), b.at(), c.at()).unwrap();
        convert(&*device, (kind, c.at()), floats.at(), 1).unwrap();
        let mut sum = [0.0];
        floats.download(&mut sum).unwrap();
        assert_eq!(sum[0], half + 9.0, "{}", math.name());
    }
}

#[test]
fn convolutions_in_f32_keep_all_digits() {
    let Some(CudaDevice(device)) = common::cuda::device() else { return };
    let [x, w, y] = [9, 1, 9].map(|n| Memory::new(&device, n).unwrap());
    // More digits than TF32 has.
    let values = [1.0 + f32::EPSILON; 9];
    x.upload(&values).unwrap();
    w.upload(&[1.0]).unwrap();
    let axis = Axis { image: 3, kernel: 1, stride: 1, pad: 0, dilation: 1, positions: 3 };
    let axes = vec![axis; 2];
    let order = Order::Plain;
    let shape = Correlation { images: 1, channels: 1, outputs: 1, groups: 1, axes, order };
    device.correlate(&shape, Kind::F32, x.at(), w.at(), y.at()).unwrap();
    let mut seen = [0.0; 9];
    y.download(&mut seen).unwrap();
    assert_eq!(seen, values);
}

#[test]
fn a_blob_is_converted_once_and_only_when_asked() {
    let Some(CudaDevice(device)) = common::cuda::device_with(Math::Bf16) else { return };
    let (slab, shape, one) = (Slab::default(), Shape::from([3]), Threads::one());
    let [half, single] = [Kind::Bf16, Kind::F32].map(|kind| (&device, Form::of_kind(kind)));
    slab.write(1, Layout::Plain, &shape).unwrap().copy_from_slice(&[1.0, 1.001, -3.0]);
    // To the device, and there to 16 bits.
    slab.read_on(half, 2, &shape, one).unwrap();
    assert_eq!(slab.reorders(), 2);
    slab.read_on(half, 3, &shape, one).unwrap();
    slab.read_on(single, 4, &shape, one).unwrap();
    assert_eq!(slab.reorders(), 2);
    // Written in 16 bits, everything else is old.
    slab.write_on(half, 5, &shape).unwrap();
    assert!(slab.write_on(half, 5, &shape).is_err() && slab.read_on(half, 5, &shape, one).is_err());
    slab.read_on(single, 6, &shape, one).unwrap();
    assert_eq!(slab.reorders(), 3);
    // And by way of f32 to the host.
    slab.update_on(half, 7, &shape, one).unwrap();
    assert_eq!(slab.read(8, Layout::Plain, &shape, one).unwrap(), [1.0, 1.0, -3.0]);
    assert_eq!(slab.reorders(), 5);
    slab.write_on(single, 9, &shape).unwrap();
    slab.read_on(half, 10, &shape, one).unwrap();
    assert_eq!(slab.reorders(), 6);
}

const QUICK: &str = "
layer { name: 'data' type: 'Input' top: 'data' input_param { shape { dim: 8 dim: 3 dim: 16 dim: 16 } } }
layer { name: 'label' type: 'Input' top: 'label' input_param { shape { dim: 8 } } }
layer { name: 'conv1' type: 'Convolution' bottom: 'data' top: 'conv1' param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 8 pad: 2 kernel_size: 5 weight_filler { type: 'gaussian' std: 0.1 } } }
layer { name: 'pool1' type: 'Pooling' bottom: 'conv1' top: 'pool1' pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: 'relu1' type: 'ReLU' bottom: 'pool1' top: 'pool1' }
layer { name: 'conv2' type: 'Convolution' bottom: 'pool1' top: 'conv2' param { lr_mult: 1 } param { lr_mult: 2 }
  convolution_param { num_output: 8 pad: 1 kernel_size: 3 group: 2 weight_filler { type: 'xavier' } } }
layer { name: 'relu2' type: 'ReLU' bottom: 'conv2' top: 'conv2' }
layer { name: 'pool2' type: 'Pooling' bottom: 'conv2' top: 'pool2' pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: 'flat' type: 'Flatten' bottom: 'pool2' top: 'flat' }
layer { name: 'ip1' type: 'InnerProduct' bottom: 'flat' top: 'ip1' inner_product_param { num_output: 16 weight_filler { type: 'xavier' } } }
layer { name: 'side' type: 'InnerProduct' bottom: 'flat' top: 'side' inner_product_param { num_output: 16 weight_filler { type: 'xavier' } } }
layer { name: 'sum' type: 'Eltwise' bottom: 'ip1' bottom: 'side' top: 'sum' }
layer { name: 'ip2' type: 'InnerProduct' bottom: 'sum' top: 'ip2' inner_product_param { num_output: 10 weight_filler { type: 'xavier' } } }
";

/// Cifar10_quick in small, with a loss of this weight.
fn quick(loss_weight: f32) -> String {
    format!(
        "{QUICK} layer {{ name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip2' bottom: 'label' top: 'loss' \
         loss_weight: {loss_weight} }}"
    )
}

/// Whatever the weight, it learns as fast.
fn solver(loss_weight: f32, settings: &str, options: &SolverOptions) -> Solver {
    let text = format!(
        "base_lr: {} momentum: 0.9 weight_decay: 0.004 lr_policy: 'fixed' max_iter: 100 {settings}
         net_param {{ name: 'quick' {} }}",
        0.02 / loss_weight,
        quick(loss_weight)
    );
    let param: SolverParameter = caffe_proto::text::parse("solver", &text).unwrap();
    let plans = NetPlans::read(&param, 0, &[]).unwrap();
    Solver::new(&param, &plans, options).unwrap()
}

fn options(math: Math, loss_scale: Option<LossScale>) -> Option<SolverOptions> {
    let cuda = Some(common::cuda::device_with(math)?);
    Some(SolverOptions { cuda, loss_scale, ..SolverOptions::new(1, 1) })
}

/// Values without a pattern in [-1, 1), with something to learn in them: a class is brighter in its own
/// rows.
fn feed(net: &mut Net, seed: usize) {
    let (data, label) = (net.blob("data").unwrap(), net.blob("label").unwrap());
    let class = |record: usize| (seed * 3 + record) % 10;
    for (i, v) in net.data_mut(data).unwrap().iter_mut().enumerate() {
        let noise = ((seed * 7919 + i * 104_729) % 2003) as f32 / 1001.5 - 1.0;
        let (record, row) = (i / (3 * 256), i / 16 % 16);
        *v = 0.5 * noise + if row == class(record) { 1.0 } else { 0.0 };
    }
    let labels = net.data_mut(label).unwrap().iter_mut().enumerate();
    labels.for_each(|(i, v)| *v = class(i) as f32);
}

/// Forward and backward; the loss.
fn pass(solver: &mut Solver, iter: u64) -> f32 {
    solver.clear_gradient();
    feed(solver.net(), iter as usize);
    let step = Step { iter, first_record: 0 };
    solver.forward_backward(&mut [], step, &mut Unwatched).unwrap()
}

fn weights(solver: &mut Solver) -> Vec<f32> {
    let model = solver.net().to_proto().unwrap();
    model.layer.iter().flat_map(|l| &l.blobs).flat_map(|blob| blob.data.clone()).collect()
}

/// The length of the difference of two vectors over that of the second.
fn off(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|v| v * v).sum::<f32>().sqrt();
    norm(&mut ours.iter().zip(theirs).map(|(a, b)| a - b)) / norm(&mut theirs.iter().copied())
}

#[test]
fn a_net_learns_in_16_bits_what_it_learns_in_32() {
    let mut plain = solver(1.0, "", &SolverOptions::new(1, 1));
    let start = weights(&mut plain);
    let learned = |solver: &mut Solver| -> Vec<f32> {
        weights(solver).iter().zip(&start).map(|(w, before)| w - before).collect()
    };
    let (mut losses, mut first) = (Vec::new(), Vec::new());
    for iter in 0..20 {
        losses.push(pass(&mut plain, iter));
        plain.update(iter).unwrap();
        if iter == 0 {
            first = learned(&mut plain);
        }
    }
    let theirs = learned(&mut plain);
    assert!(losses[19] < 0.9 * losses[0], "{losses:?}");
    // A rounding costs at most 2^-8 or 2^-11 of a value, and a pass has some ten of them one after the
    // other: in the first update they show. Later ReLUs and largest values let something else through now
    // and then, which costs the same in both kinds.
    for (math, unit) in [(Math::Bf16, 1.0 / 256.0), (Math::F16, 1.0 / 2048.0)] {
        let Some(options) = options(math, Some(LossScale::Fixed(256.0))) else { return };
        let mut ours = solver(1.0, "", &options);
        for (iter, theirs) in losses.iter().enumerate() {
            let loss = pass(&mut ours, iter as u64);
            assert!(
                (loss - theirs).abs() <= 0.02 * theirs,
                "{math:?} {iter}: {loss}, not {theirs}"
            );
            ours.update(iter as u64).unwrap();
            if iter == 0 {
                let off = off(&learned(&mut ours), &first);
                assert!(
                    (0.1 * unit..10.0 * unit).contains(&off),
                    "{math:?}: {off} after one update"
                );
            }
        }
        let off = off(&learned(&mut ours), &theirs);
        println!("{math:?}: what was learned is {off} off");
        assert!(off <= 0.05, "{math:?}: {off}");
    }
}

/// Conversions and copies of each slab so far.
fn conversions(net: &Net) -> Vec<u64> {
    net.store().slabs.iter().map(Slab::reorders).collect()
}

#[test]
fn between_layers_that_take_16_bits_nothing_is_converted() {
    let Some(options) = options(Math::F16, Some(LossScale::Fixed(8.0))) else { return };
    let mut solver = solver(1.0, "", &options);
    pass(&mut solver, 0);
    let before = conversions(solver.train_net());
    pass(&mut solver, 1);
    let net = solver.train_net();
    let slab = |name: &str| &net.store().blobs[net.blob(name).unwrap()];
    // The host has records, labels, the loss and its gradient; small groups of channels, as conv2 has them,
    // are convolved in plain order, behind which there is no other.
    let [data, label, loss, pool] = ["data", "label", "loss", "pool1"].map(slab);
    let host = [data.data, label.data, loss.data, loss.diff, pool.data, pool.diff];
    for (i, (now, before)) in conversions(net).iter().zip(before).enumerate() {
        assert!(host.contains(&i) || *now == before, "slab {i}: {}", now - before);
    }
    assert_eq!(net.store().slabs[data.data].reorders(), 4, "to the device and to 16 bits, twice");
}

#[test]
fn a_scale_changes_nothing_but_what_would_be_lost() {
    let mut learned = Vec::new();
    // A power of two is exact; bf16 has room for all of them. Norms are of what has no scale.
    for scale in [1.0, 4096.0] {
        let Some(options) = options(Math::Bf16, Some(LossScale::Fixed(scale))) else { return };
        let mut solver = solver(1.0, "clip_gradients: 0.5", &options);
        for iter in 0..3 {
            pass(&mut solver, iter);
            solver.update(iter).unwrap();
        }
        learned.push(weights(&mut solver));
    }
    assert!(off(&learned[1], &learned[0]) < 1e-6, "{}", off(&learned[1], &learned[0]));
}

#[test]
fn an_overflow_costs_an_update_and_half_of_the_scale() {
    let Some(options) = options(Math::F16, None) else { return };
    // With a loss of this weight gradients fit at a scale of about 128.
    let mut solver = solver(1000.0, "", &options);
    assert_eq!(solver.scaler().scale(), 65536.0);
    let mut dropped = 0;
    for iter in 0..14 {
        pass(&mut solver, iter);
        let before = (solver.scaler().scale(), weights(&mut solver));
        if solver.overflows(iter).unwrap() {
            dropped += 1;
            assert_eq!(solver.scaler().scale(), before.0 / 2.0);
            assert!(weights(&mut solver) == before.1, "{iter}: the weights have changed");
        } else {
            solver.update(iter).unwrap();
            assert!(weights(&mut solver) != before.1);
        }
    }
    println!("{dropped} updates dropped");
    assert!((5..13).contains(&dropped), "{dropped}");
    assert!(weights(&mut solver).iter().all(|w| w.is_finite()));
    solver.restore_scale(ScaleState { scale: 32.0, good: 3 });
    assert_eq!(solver.scaler().state(), Some(ScaleState { scale: 32.0, good: 3 }));
}

#[test]
fn memory_in_16_bits_is_taken_at_set_up() {
    let taken = |math: Math| {
        // One that no other test here uses.
        let device = common::cuda::simulated_in(1, math, Order::Plain);
        let device = device.map_err(|why| println!("skipped: {why}"));
        let device = device.ok()?;
        let options =
            NetOptions { cuda: Some(CudaDevice(device.clone())), ..NetOptions::new(Phase::Train) };
        let mut net = common::net_of(&quick(1.0), &options).unwrap();
        let built = device.taken().unwrap();
        feed(&mut net, 0);
        net.forward().unwrap();
        net.backward().unwrap();
        let after = common::cuda::settled(&*device, 1);
        drop(net);
        // What products and convolutions work in stays the device's.
        let workspace = common::cuda::settled(&*device, 1);
        // The layers' own: where the largest values were, probabilities, terms of the loss.
        let own = 4 * (8 * 8 * 8 * 8 + 8 * 10 + 8 + 64);
        let more = after - workspace - built;
        assert!(workspace > 0 && more <= own, "{math:?}: {more} bytes in mid-run");
        Some(built)
    };
    let Some(single) = taken(Math::F32) else { return };
    let halves = HALVES.map(|math| taken(math).unwrap());
    println!("{single} bytes in f32, {halves:?} in 16 bits");
    assert_eq!(halves[0], halves[1]);
    assert!(halves[0] < 8 * single / 10, "{halves:?} of {single}");
}
