//! The forecast of device memory against what simulated devices then give, and what happens where that is
//! not there.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::{Mutex, MutexGuard, PoisonError};

use caffe::data::{Batch, Reading};
use caffe::device::Step;
use caffe::device::cuda::{CudaDevice, Math};
use caffe::net::{Net, NetOptions, Pass, Unwatched};
use caffe::solver::{Feeds, Forecast, NetPlans, Solver, SolverOptions};
use caffe_proto::{Phase, SolverParameter};

const NET: &str = "
layer { name: 'data' type: 'DummyData' top: 'data' top: 'label'
  dummy_data_param { shape { dim: BATCH dim: 3 dim: 24 dim: 24 } shape { dim: BATCH } } }
layer { name: 'conv' type: 'Convolution' bottom: 'data' top: 'conv'
  convolution_param { num_output: 8 kernel_size: 5 stride: 2 weight_filler { type: 'xavier' } } }
layer { name: 'norm' type: 'BatchNorm' bottom: 'conv' top: 'norm' }
layer { name: 'scale' type: 'Scale' bottom: 'norm' top: 'scale' scale_param { bias_term: true } }
layer { name: 'relu' type: 'ReLU' bottom: 'scale' top: 'scale' }
layer { name: 'pool' type: 'Pooling' bottom: 'scale' top: 'pool'
  pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
layer { name: 'lrn' type: 'LRN' bottom: 'pool' top: 'lrn' lrn_param { local_size: 3 } }
layer { name: 'ip' type: 'InnerProduct' bottom: 'lrn' top: 'ip'
  inner_product_param { num_output: 10 weight_filler { type: 'xavier' } } }
layer { name: 'accuracy' type: 'Accuracy' bottom: 'ip' bottom: 'label' top: 'accuracy' include { phase: TEST } }
layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }
";

/// A solver of this type with a test net.
fn job(kind: &str, batch: usize) -> (SolverParameter, NetPlans) {
    job_of(kind, &NET.replace("BATCH", &batch.to_string()))
}

fn job_of(kind: &str, net: &str) -> (SolverParameter, NetPlans) {
    let momentum = if matches!(kind, "RMSProp" | "AdaGrad") { "" } else { "momentum: 0.9" };
    let text = format!(
        "type: '{kind}' base_lr: 0.01 {momentum} lr_policy: 'fixed' test_iter: 1 test_interval: 10
         net_param {{ {net} }}"
    );
    let param = caffe_proto::text::parse::<SolverParameter>("solver", &text).unwrap();
    let plans = NetPlans::read(&param, 0, &[]).unwrap();
    (param, plans)
}

/// One test at a time: each looks at all that is taken of device 0, and some limit it.
static TURN: Mutex<()> = Mutex::new(());

/// Bytes of a device that nobody limits.
const PLENTY: u64 = 4 << 30;

/// `None`, with a printed line, where none can be simulated.
fn turn() -> Option<MutexGuard<'static, ()>> {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    match common::cuda::libraries() {
        Ok(()) => common::cuda::limit_memory(PLENTY),
        Err(why) => {
            println!("skipped: {why}");
            return None;
        }
    }
    Some(turn)
}

fn device(math: Math) -> CudaDevice {
    CudaDevice(common::cuda::simulated(0, math).unwrap())
}

/// One with so much memory, until the turn ends.
fn device_with(bytes: u64) -> CudaDevice {
    common::cuda::limit_memory(bytes);
    device(Math::F32)
}

fn taken(device: &CudaDevice) -> u64 {
    common::cuda::settled(&*device.0, 0)
}

fn on(device: &CudaDevice) -> SolverOptions {
    SolverOptions { cuda: Some(device.clone()), ..SolverOptions::new(1, 1) }
}

/// Two steps and two tests, on batches that `next` gives where the nets read records.
fn work(solver: &mut Solver, updates: bool, next: &mut dyn FnMut() -> [Vec<Batch>; 2]) {
    for iter in 0..2 {
        let [mut train, mut test] = next();
        solver.clear_gradient();
        let step = Step { iter, first_record: 0 };
        solver.forward_backward(&mut train, step, &mut Unwatched).unwrap();
        match updates {
            true => assert!(!solver.update(iter).unwrap()),
            false => drop(solver.net().params().diff().unwrap().len()),
        }
        solver.test(0, &mut test).unwrap();
    }
}

/// Holds what was forecast against what such a job takes, without a block and in one.
fn compare(
    (param, plans): &(SolverParameter, NetPlans),
    (math, updates): (Math, bool),
    next: &mut dyn FnMut() -> [Vec<Batch>; 2],
) {
    let free = device(math);
    let forecast = Forecast::of(param, plans, &on(&free), updates).unwrap();
    assert_eq!(taken(&free), 0, "a forecast takes nothing");
    assert!(forecast.blobs > 0 && forecast.parameters > 0 && forecast.tests > 0);
    let mut solver = Solver::new(param, plans, &on(&free)).unwrap();
    work(&mut solver, updates, next);
    let all = taken(&free);
    drop(solver);
    // What products and convolutions work in stays the device's.
    let workspace = taken(&free);
    let arrays = all - workspace;
    println!("{math:?} {updates}: {arrays} + {workspace} bytes of {forecast:?}");
    // Places are rounded up to 256 bytes; there are a few dozen.
    assert!((arrays..=arrays + 100 * 256).contains(&forecast.block), "{arrays} {forecast:?}");
    assert!(0 < workspace && workspace <= forecast.workspace, "{workspace} {forecast:?}");
    drop(free);
    let blocked = device(math);
    forecast.reserve(&blocked).unwrap();
    let mut solver = Solver::new(param, plans, &on(&blocked)).unwrap();
    work(&mut solver, updates, next);
    assert_eq!(taken(&blocked), forecast.block + workspace, "nothing lies outside of the block");
}

#[test]
fn a_replica_takes_what_was_forecast_and_no_more() {
    let Some(_turn) = turn() else { return };
    let cases = [
        ("SGD", 4, true, Math::F32),
        ("Adam", 6, true, Math::F32),
        ("RMSProp", 3, true, Math::F32),
        ("SGD", 5, false, Math::F32),
        ("SGD", 4, true, Math::Bf16),
        ("Adam", 5, false, Math::F16),
    ];
    for (kind, batch, updates, math) in cases {
        compare(&job(kind, batch), (math, updates), &mut || [Vec::new(), Vec::new()]);
    }
}

#[test]
fn records_that_stay_bytes_are_in_the_forecast() {
    let Some(_turn) = turn() else { return };
    let folder = tempfile::tempdir().unwrap();
    caffe::data::synthetic::write_synthetic(folder.path(), 20, 20, 5).unwrap();
    let source = folder.path().join("cifar10_train_leveldb");
    let data = format!(
        "layer {{ name: 'data' type: 'Data' top: 'data' top: 'label'
         transform_param {{ crop_size: 24 mirror: true mean_value: 120 }}
         data_param {{ source: '{}' batch_size: 5 backend: LEVELDB }} }}",
        source.display()
    );
    let (_, layers) = NET.split_once("layer { name: 'conv'").unwrap();
    let job = job_of("SGD", &format!("{data} layer {{ name: 'conv'{layers}"));
    let reading = Reading { raw: true, ..Reading::new(1) };
    let mut feeds = Feeds::open(&job.1, reading).unwrap();
    compare(&job, (Math::F32, true), &mut || {
        let mut next = |test: bool| {
            let batches = if test { feeds.test(0, 0) } else { feeds.train(0) };
            let batches: Vec<Batch> = batches.unwrap().iter_mut().map(std::mem::take).collect();
            assert!(!batches[0].raw.is_empty());
            batches
        };
        [next(false), next(true)]
    });
}

/// As `caffe test` and `caffe time` have it.
#[test]
fn a_net_alone_takes_what_was_forecast_and_no_more() {
    let Some(_turn) = turn() else { return };
    for (phase, last, math) in [
        (Phase::Test, Pass::Forward, Math::F32),
        (Phase::Train, Pass::Backward, Math::F32),
        (Phase::Test, Pass::Backward, Math::Bf16),
    ] {
        let (_, NetPlans { train, test, .. }) = job("SGD", 6);
        let plan = if phase == Phase::Test { &test[0] } else { &train };
        let options = |device: &CudaDevice| NetOptions {
            state: plan.state.clone(),
            cuda: Some(device.clone()),
            ..NetOptions::new(phase)
        };
        let build = |device: &CudaDevice| {
            let mut net = Net::new(&plan.param, &plan.origin, &options(device)).unwrap();
            for _ in 0..2 {
                net.forward().unwrap();
                net.output_values().unwrap();
                if last == Pass::Backward {
                    net.clear_param_diffs();
                    net.backward().unwrap();
                }
            }
            net
        };
        let free = device(math);
        let forecast = Forecast::of_net(plan, &options(&free), last).unwrap();
        assert_eq!(taken(&free), 0, "a forecast takes nothing");
        assert!(forecast.blobs > 0 && forecast.parameters > 0 && forecast.tests == 0);
        let net = build(&free);
        let all = taken(&free);
        drop(net);
        let workspace = taken(&free);
        println!("{phase:?} {last:?} {math:?}: {all} of {forecast:?}");
        let arrays = all - workspace;
        assert!((arrays..=arrays + 100 * 256).contains(&forecast.block), "{arrays} {forecast:?}");
        assert!(0 < workspace && workspace <= forecast.workspace, "{workspace} {forecast:?}");
        drop(free);
        let blocked = device(math);
        forecast.reserve(&blocked).unwrap();
        let _net = build(&blocked);
        assert_eq!(taken(&blocked), forecast.block + workspace, "outside of the block");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers_and_a_batch_that_would() {
    let Some(_turn) = turn() else { return };
    let (param, plans) = job("SGD", 2000);
    let forecast = Forecast::of(&param, &plans, &on(&device(Math::F32)), true).unwrap();
    let with = |bytes: u64| forecast.reserve(&device_with(bytes)).map_err(|e| e.to_string());
    with(forecast.total()).unwrap();
    let error = with(forecast.total() - forecast.blobs / 2).unwrap_err();
    println!("{error}");
    assert!(error.contains("MB free, but the job needs") && error.contains("(blobs "), "{error}");
    let (_, percent) = error.split_once("batches of about ").unwrap();
    let percent: u64 = percent.split_once(' ').unwrap().0.parse().unwrap();
    assert!((20..95).contains(&percent), "{error}");
    let (param, plans) = job("SGD", 2000 * percent as usize / 100);
    let smaller = Forecast::of(&param, &plans, &on(&device_with(PLENTY)), true).unwrap();
    assert!(smaller.total() <= forecast.total() - forecast.blobs / 2, "{smaller:?}");
    assert!(with(1 << 20).unwrap_err().contains("no batch would fit"));
}

#[test]
fn what_a_block_has_left_counts_as_free() {
    let Some(_turn) = turn() else { return };
    let (param, plans) = job("SGD", 200);
    let forecast = Forecast::of(&param, &plans, &on(&device(Math::F32)), true).unwrap();
    // Less than half of the device is anybody's when the block is taken.
    let device = device_with(forecast.block + forecast.block / 4);
    device.0.reserve(forecast.block).unwrap();
    Solver::new(&param, &plans, &on(&device)).unwrap();
}

#[test]
fn a_net_that_does_not_fit_is_refused_at_set_up() {
    let Some(_turn) = turn() else { return };
    let device = device_with(4 << 20);
    let build = |batch: usize| {
        let text = format!(
            "layer {{ name: 'in' type: 'Input' top: 'x' input_param {{ shape {{ dim: {batch} dim: 1024 }} }} }}
             layer {{ name: 'relu' type: 'ReLU' bottom: 'x' top: 'y' }}"
        );
        let options = NetOptions { cuda: Some(device.clone()), ..NetOptions::new(Phase::Test) };
        common::net_of(&text, &options).map(|_| ())
    };
    build(64).unwrap();
    let error = build(1 << 20).unwrap_err().to_string();
    assert!(error.contains("GiB") && error.contains("there are"), "{error}");
}
