//! The forecast of a replica's device memory against what an emulated device then gives, and what happens
//! where that is not there.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::Path;
use std::rc::Rc;

use caffe::device::Step;
use caffe::device::cuda::backend::Backend;
use caffe::device::cuda::emulator::Emulator;
use caffe::device::cuda::{CudaDevice, Kind};
use caffe::net::Unwatched;
use caffe::solver::{Forecast, NetPlans, Solver, SolverOptions};
use caffe_proto::SolverParameter;

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
    let net = NET.replace("BATCH", &batch.to_string());
    let momentum = if matches!(kind, "RMSProp" | "AdaGrad") { "" } else { "momentum: 0.9" };
    let text = format!(
        "type: '{kind}' base_lr: 0.01 {momentum} lr_policy: 'fixed' test_iter: 1 test_interval: 10
         net_param {{ {net} }}"
    );
    let param = caffe_proto::text::parse::<SolverParameter>("solver", &text).unwrap();
    let plans = NetPlans::read(&param, 0, &[]).unwrap();
    (param, plans)
}

fn emulator() -> Option<Emulator> {
    let kernels = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulated-kernels");
    Emulator::new(&kernels).map_err(|why| println!("skipped: {why}")).ok()
}

fn on(device: Rc<Emulator>) -> SolverOptions {
    SolverOptions { cuda: Some(CudaDevice(device)), ..SolverOptions::new(1, 1) }
}

/// Two steps and two tests.
fn work(solver: &mut Solver, updates: bool) {
    for iter in 0..2 {
        solver.clear_gradient();
        let step = Step { iter, first_record: 0 };
        solver.forward_backward(&mut [], step, &mut Unwatched).unwrap();
        match updates {
            true => assert!(!solver.update(iter).unwrap()),
            false => drop(solver.net().params().diff().unwrap().len()),
        }
        solver.test(0, &mut []).unwrap();
    }
}

#[test]
fn a_replica_takes_what_was_forecast_and_no_more() {
    let cases = [
        ("SGD", 4, true, Kind::F32),
        ("Adam", 6, true, Kind::F32),
        ("RMSProp", 3, true, Kind::F32),
        ("SGD", 5, false, Kind::F32),
        ("SGD", 4, true, Kind::Bf16),
        ("Adam", 5, false, Kind::F16),
    ];
    for (kind, batch, updates, numbers) in cases {
        let Some(device) = emulator().map(|device| Rc::new(device.storing(numbers))) else {
            return;
        };
        let (param, plans) = job(kind, batch);
        let options = on(device.clone());
        let forecast = Forecast::of(&param, &plans, &options, updates).unwrap();
        assert_eq!(device.taken(), Some(0), "a forecast takes nothing");
        let mut solver = Solver::new(&param, &plans, &options).unwrap();
        work(&mut solver, updates);
        let taken = device.taken().unwrap();
        println!("{kind} {batch} {updates} {numbers:?}: {taken} bytes of {forecast:?}");
        // Places are rounded up to 256 bytes; there are a few dozen.
        assert!(
            taken <= forecast.block && forecast.block <= taken + 100 * 256,
            "{taken} {forecast:?}"
        );
        assert!(forecast.blobs > 0 && forecast.parameters > 0 && forecast.tests > 0);
    }
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers_and_a_batch_that_would() {
    let Some(device) = emulator() else { return };
    let (param, plans) = job("SGD", 2000);
    let forecast = Forecast::of(&param, &plans, &on(Rc::new(device)), true).unwrap();
    let with = |bytes: u64| {
        let device = emulator().unwrap().with_memory(bytes as usize / size_of::<f32>());
        forecast.reserve(&CudaDevice(Rc::new(device))).map_err(|e| e.to_string())
    };
    with(forecast.total()).unwrap();
    let error = with(forecast.total() - forecast.blobs / 2).unwrap_err();
    println!("{error}");
    assert!(error.contains("MB free, but the job needs") && error.contains("(blobs "), "{error}");
    let (_, percent) = error.split_once("batches of about ").unwrap();
    let percent: u64 = percent.split_once(' ').unwrap().0.parse().unwrap();
    assert!((20..95).contains(&percent), "{error}");
    let (param, plans) = job("SGD", 2000 * percent as usize / 100);
    let smaller = Forecast::of(&param, &plans, &on(Rc::new(emulator().unwrap())), true).unwrap();
    assert!(smaller.total() <= forecast.total() - forecast.blobs / 2, "{smaller:?}");
    assert!(with(1 << 20).unwrap_err().contains("no batch would fit"));
}
