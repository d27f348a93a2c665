//! Passes that become CUDA graphs compute what they computed layer by layer, bit for bit, and whatever happens
//! between them is seen; batches that are sent ahead are the ones that are computed on. Where there is no
//! device it is simulated.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::rc::Rc;

use caffe::data::{Reading, Writer};
use caffe::device::Step;
use caffe::device::cuda::nvidia::Nvidia;
use caffe::device::cuda::{CudaDevice, Math};
use caffe::net::{Unwatched, Watch};
use caffe::solver::{Feeds, LossScale, NetPlans, ScaleState, Solver, SolverOptions, Then};
use caffe::{Error, data::Backend};
use caffe_proto::{Datum, SolverParameter};
use cudarc::driver::CudaContext;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use prost::Message;

/// What a pass is called when it is a graph.
const GRAPH: &str = "a pass is a CUDA graph of ";

/// All that changes from pass to pass: records of a mask, of a stochastic window, rates, scales. A PReLU
/// computes in f32, so in 16 bits there are conversions.
const NET: &str = "
layer { name: 'data' type: 'Input' top: 'data' input_param { shape { dim: 4 dim: 3 dim: 9 dim: 9 } } }
layer { name: 'label' type: 'Input' top: 'label' input_param { shape { dim: 4 } } }
layer { name: 'conv' type: 'Convolution' bottom: 'data' top: 'conv'
  convolution_param { num_output: 6 kernel_size: 3 weight_filler { type: 'xavier' } } }
layer { name: 'norm' type: 'BatchNorm' bottom: 'conv' top: 'conv' }
layer { name: 'scale' type: 'Scale' bottom: 'conv' top: 'conv' scale_param { bias_term: true } }
layer { name: 'relu' type: 'ReLU' bottom: 'conv' top: 'conv' }
layer { name: 'pool' type: 'Pooling' bottom: 'conv' top: 'pool' pooling_param { pool: STOCHASTIC kernel_size: 3 stride: 2 } }
layer { name: 'prelu' type: 'PReLU' bottom: 'pool' top: 'prelu' }
layer { name: 'drop' type: 'Dropout' bottom: 'prelu' top: 'prelu' }
layer { name: 'one' type: 'InnerProduct' bottom: 'prelu' top: 'one' param { name: 'w' } param { lr_mult: 2 }
  inner_product_param { num_output: 5 weight_filler { type: 'xavier' } } }
layer { name: 'two' type: 'InnerProduct' bottom: 'prelu' top: 'two' param { name: 'w' } param { lr_mult: 0 }
  inner_product_param { num_output: 5 weight_filler { type: 'xavier' } } }
layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'one' bottom: 'label' top: 'loss' include { phase: TRAIN } }
layer { name: 'other' type: 'EuclideanLoss' bottom: 'one' bottom: 'two' top: 'other' loss_weight: 0.1 include { phase: TRAIN } }
layer { name: 'accuracy' type: 'Accuracy' bottom: 'one' bottom: 'label' top: 'accuracy' include { phase: TEST } }
";

/// A device whose sums repeat.
fn device(math: Math) -> Option<CudaDevice> {
    common::cuda::device_with(math)?;
    Some(CudaDevice(Rc::new(Nvidia::new(0, math, true).unwrap())))
}

fn solver_of(net: &str, settings: &str, device: CudaDevice, graphs: bool) -> Solver {
    // A net that reads records would have to be given some for its tests.
    let tests = if net.contains("Input") { "test_iter: 1 test_interval: 5" } else { "" };
    let text = format!(
        "base_lr: 0.05 momentum: 0.9 weight_decay: 0.01 lr_policy: 'inv' gamma: 0.1 power: 0.75 max_iter: 50
         {tests} {settings} net_param {{ {net} }}"
    );
    let param: SolverParameter = caffe_proto::text::parse("solver", &text).unwrap();
    let plans = NetPlans::read(&param, 0, &[]).unwrap();
    let options = SolverOptions { cuda: Some(device), graphs, ..SolverOptions::new(1, 1) };
    Solver::new(&param, &plans, &options).unwrap()
}

fn noise(seed: u64, i: usize) -> f32 {
    let x = (seed * 7919 + i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (x >> 40) as f32 / (1u64 << 24) as f32 - 0.5
}

/// Gives the input of a pass.
fn feed(solver: &mut Solver, seed: u64) {
    let net = solver.net();
    let (data, label) = (net.blob("data").unwrap(), net.blob("label").unwrap());
    let values = net.data_mut(data).unwrap().iter_mut().enumerate();
    values.for_each(|(i, v)| *v = noise(seed, i));
    let labels = net.data_mut(label).unwrap().iter_mut().enumerate();
    labels.for_each(|(i, v)| *v = ((seed as usize + i) % 5) as f32);
}

/// The passes of an iteration, their losses.
fn passes(solver: &mut Solver, iter: u64, passes: u64, watch: &mut dyn Watch) -> Vec<f32> {
    solver.clear_gradient();
    let each = |pass| {
        feed(solver, iter * passes + pass);
        let step = Step { iter, first_record: 4 * (iter * passes + pass) };
        solver.forward_backward(&mut [], step, watch).unwrap()
    };
    (0..passes).map(each).collect()
}

fn weights(solver: &mut Solver) -> Vec<u32> {
    solver.net().params().data().unwrap().iter().map(|w| w.to_bits()).collect()
}

fn about(solver: &Solver) -> &str {
    solver.train_net().about_graphs().unwrap_or("nothing yet")
}

/// A solver after six iterations, the last ones as graphs.
fn at_graphs() -> Option<Solver> {
    let mut solver = solver_of(NET, "", device(Math::F32)?, true);
    for iter in 0..6 {
        passes(&mut solver, iter, 1, &mut Unwatched);
        solver.update(iter).unwrap();
    }
    assert!(about(&solver).starts_with(GRAPH), "{}", about(&solver));
    Some(solver)
}

#[test]
fn graphs_compute_what_layers_compute() {
    let cases = [
        ("type: 'SGD'", 1, Math::F32),
        ("type: 'Adam' momentum2: 0.99 iter_size: 2 clip_gradients: 0.5", 2, Math::F32),
        ("type: 'SGD' iter_size: 2", 2, Math::F16),
    ];
    for (settings, each, math) in cases {
        let Some(device) = device(math) else { return };
        let [mut plain, mut graphs] =
            [false, true].map(|graphs| solver_of(NET, settings, device.clone(), graphs));
        for solver in [&mut plain, &mut graphs] {
            solver.restore_scale(ScaleState { scale: 64.0, good: 0 });
        }
        for iter in 0..12 {
            let [a, b] =
                [&mut plain, &mut graphs].map(|solver| passes(solver, iter, each, &mut Unwatched));
            assert_eq!(a, b, "{settings} {iter}");
            for solver in [&mut plain, &mut graphs] {
                solver.update(iter).unwrap();
            }
            if iter % 4 == 3 {
                // Looking at outputs, testing and reading weights change nothing.
                let values = [&mut plain, &mut graphs].map(|s| s.train_values().unwrap());
                assert_eq!(values[0], values[1]);
                let [a, b] = [&mut plain, &mut graphs].map(|solver| {
                    solver.test(0, &mut []).unwrap();
                    weights(solver)
                });
                assert!(a == b, "{settings} {iter}: weights differ");
            }
        }
        assert_eq!(about(&plain), "nothing yet");
        assert!(about(&graphs).starts_with(GRAPH), "{settings}: {}", about(&graphs));
    }
}

#[test]
fn a_graph_is_run_in_place_of_the_layers() {
    let Some(device) = device(Math::Bf16) else { return };
    let mut solver = solver_of(NET, "", device, true);
    let conversions = |solver: &Solver| {
        let store = solver.train_net().store();
        let blob = &store.blobs[solver.train_net().blob("prelu").unwrap()];
        store.slabs[blob.data].reorders()
    };
    let mut seen = Vec::new();
    for iter in 0..8 {
        passes(&mut solver, iter, 1, &mut Unwatched);
        solver.update(iter).unwrap();
        seen.push(conversions(&solver));
    }
    // The host counts what it asks for.
    assert!(seen[0] < seen[1] && seen[1] < seen[2], "{seen:?}");
    assert!(seen[5] == seen[7], "{seen:?}: the last passes are still layer by layer");
}

#[test]
fn what_happens_between_passes_is_seen() {
    let Some(device) = device(Math::F16) else { return };
    let [mut plain, mut graphs] = [false, true].map(|graphs| {
        let mut solver = solver_of(NET, "", device.clone(), graphs);
        solver.restore_scale(ScaleState { scale: 64.0, good: 0 });
        solver
    });
    assert!(LossScale::usual(device.0.kind()) == LossScale::Dynamic);
    for iter in 0..30 {
        let [a, b] =
            [&mut plain, &mut graphs].map(|solver| passes(solver, iter, 1, &mut Unwatched));
        assert_eq!(a, b, "{iter}");
        for solver in [&mut plain, &mut graphs] {
            match iter {
                // Weights from elsewhere, as in a job of several replicas.
                8 | 9 | 10 | 20 => {
                    let net = solver.net();
                    let values: Vec<f32> =
                        net.params().data().unwrap().iter().map(|w| w * 0.9).collect();
                    net.params().data().unwrap().copy_from_slice(&values);
                }
                // Another scale, without any other sign of it.
                13 => assert!(solver.overflowed()),
                // The host has the gradient.
                16 => drop(solver.net().params().diff().unwrap().len()),
                _ => {}
            }
            if iter != 13 {
                solver.update(iter).unwrap();
            }
        }
        if iter == 18 {
            assert!(about(&graphs).starts_with(GRAPH), "{}", about(&graphs));
        }
    }
    assert!(weights(&mut plain) == weights(&mut graphs));
}

#[test]
fn a_loss_that_is_no_number_leaves_everything_as_it_was() {
    let Some(mut solver) = at_graphs() else { return };
    let before = weights(&mut solver);
    let statistics = solver.net().arena().learnable_len();
    solver.clear_gradient();
    feed(&mut solver, 6);
    let net = solver.net();
    let data = net.blob("data").unwrap();
    net.data_mut(data).unwrap()[17] = f32::INFINITY;
    let step = Step { iter: 6, first_record: 24 };
    net.set_step(step);
    // As a replica that is alone does it: the update is asked for before the loss is known.
    net.pass_watched(&mut Unwatched).unwrap();
    solver.begun(6, Then::Update).unwrap();
    let error = solver.finish(6).unwrap_err();
    assert!(matches!(error, Error::NotFinite { iter: 6, .. }), "{error}");
    let after = weights(&mut solver);
    assert!(before[..statistics] == after[..statistics], "weights have changed");
}

/// Wants to see a gradient in the middle of backward.
struct Looks {
    layer: usize,
    seen: Vec<f32>,
}

impl Watch for Looks {
    fn after(
        &mut self,
        pass: caffe::net::Pass,
        index: usize,
        params: &mut caffe::params::ParamArena,
    ) -> caffe::Result<()> {
        if pass == caffe::net::Pass::Backward && index == self.layer {
            let all = 0..params.learnable_len();
            params.send_diff(&all)?;
            self.seen.extend_from_slice(params.diff_in(all)?);
        }
        Ok(())
    }

    fn cuts(&self, pass: caffe::net::Pass, index: usize) -> Option<bool> {
        Some(pass == caffe::net::Pass::Backward && index == self.layer)
    }
}

#[test]
fn who_looks_in_the_middle_of_a_pass_cuts_it() {
    let Some(device) = device(Math::F32) else { return };
    let [plain, graphs] = [false, true].map(|graphs| {
        let mut solver = solver_of(NET, "", device.clone(), graphs);
        solver.share().unwrap();
        let layer = solver.train_net().layer("one").unwrap();
        let mut watch = Looks { layer, seen: Vec::new() };
        for iter in 0..8 {
            passes(&mut solver, iter, 1, &mut watch);
            solver.update(iter).unwrap();
        }
        (watch.seen, weights(&mut solver), about(&solver).to_owned())
    });
    assert!(plain.0 == graphs.0 && plain.1 == graphs.1);
    assert!(graphs.2.starts_with("a pass is 2 CUDA graphs of "), "{}", graphs.2);
}

#[test]
fn a_bad_label_in_a_graph_is_named_and_updates_nothing() {
    let Some(mut solver) = at_graphs() else { return };
    let before = weights(&mut solver);
    let learnable = solver.net().arena().learnable_len();
    solver.clear_gradient();
    feed(&mut solver, 6);
    let net = solver.net();
    let label = net.blob("label").unwrap();
    net.data_mut(label).unwrap()[3] = 5.0;
    net.pass_watched(&mut Unwatched).unwrap();
    solver.begun(6, Then::Update).unwrap();
    let message = solver.finish(6).unwrap_err().to_string();
    assert!(message.contains("`loss`") && message.contains("label 5 at position 3"), "{message}");
    assert!(before[..learnable] == weights(&mut solver)[..learnable], "weights have changed");
}

#[test]
fn a_net_that_cannot_be_a_graph_says_why_and_learns() {
    let Some(device) = device(Math::F32) else { return };
    let random = "layer { name: 'data' type: 'DummyData' top: 'data' top: 'label'
          dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 } data_filler { type: 'gaussian' }
                             data_filler { type: 'constant' value: 1 } } }
        layer { name: 'ip' type: 'InnerProduct' bottom: 'data' top: 'ip'
          inner_product_param { num_output: 5 weight_filler { type: 'xavier' } } }
        layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }";
    let mut solver = solver_of(random, "", device, true);
    let mut losses = Vec::new();
    for iter in 0..30 {
        solver.clear_gradient();
        let step = Step { iter, first_record: 4 * iter };
        losses.push(solver.forward_backward(&mut [], step, &mut Unwatched).unwrap());
        solver.update(iter).unwrap();
    }
    let why =
        "passes are no CUDA graphs: something is copied from the host in the middle of a pass";
    assert_eq!(about(&solver), why);
    assert!(losses[29] < losses[0] / 2.0, "{losses:?}");
}

#[test]
fn a_batch_that_was_sent_ahead_is_the_one_that_is_computed_on() {
    let Some(device) = device(Math::F32) else { return };
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("records");
    let mut writer = Writer::create(&source, Backend::LevelDb).unwrap();
    for i in 0..40u32 {
        let data = (0..3 * 8 * 8).map(|k| (i * 31 + k * 7) as u8).collect();
        let [channels, height, width] = [Some(3), Some(8), Some(8)];
        let label = Some((i % 5) as i32);
        let datum = Datum { channels, height, width, data: Some(data), label, ..Datum::default() };
        writer.put(format!("{i:04}").as_bytes(), &datum.encode_to_vec()).unwrap();
    }
    writer.finish().unwrap();
    let net = format!(
        "layer {{ name: 'in' type: 'Data' top: 'data' top: 'label'
           transform_param {{ crop_size: 6 mirror: true mean_value: 100 scale: 0.01 }}
           data_param {{ source: '{}' batch_size: 5 backend: LEVELDB }} }}
         layer {{ name: 'ip' type: 'InnerProduct' bottom: 'data' top: 'ip'
           inner_product_param {{ num_output: 5 weight_filler {{ type: 'xavier' }} }} }}
         layer {{ name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }}",
        source.display()
    );
    // Whether the next batch is sent ahead, or another one, or none, in turn.
    let run = |ahead: &dyn Fn(u64) -> Option<u64>, early: bool, raw: bool| {
        let mut solver = solver_of(&net, "", device.clone(), true);
        let nets = {
            let text = format!("net_param {{ {net} }}");
            NetPlans::read(&caffe_proto::text::parse("s", &text).unwrap(), 0, &[]).unwrap()
        };
        let reading = Reading { raw, ..Reading::new(1) };
        let mut feeds = Feeds::open(&nets, reading).unwrap();
        let mut losses = Vec::new();
        for iter in 0..12 {
            let step = Step { iter, first_record: feeds.first_record(iter) };
            solver.clear_gradient();
            let net = solver.net();
            net.feed(feeds.train(iter).unwrap()).unwrap();
            net.set_step(step);
            if early && iter == 0 {
                // The second waits for the first, before anybody has computed in the memory that both go to.
                (0..2).for_each(|_| net.feed_ahead(feeds.train(1).unwrap()).unwrap());
            }
            net.pass_watched(&mut Unwatched).unwrap();
            solver.begun(iter, Then::Update).unwrap();
            if let Some(next) = ahead(iter) {
                solver.prepare(feeds.train(next).unwrap()).unwrap();
            }
            losses.push(solver.finish(iter).unwrap());
            solver.update(iter).unwrap();
        }
        assert!(about(&solver).starts_with(GRAPH), "{}", about(&solver));
        (losses, weights(&mut solver))
    };
    for raw in [true, false] {
        let plain = run(&|_| None, false, raw);
        // Each batch has its own loss: a wrong one would be seen.
        assert!(plain.0.windows(2).all(|pair| pair[0] != pair[1]), "{:?}", plain.0);
        assert!(run(&|iter| Some(iter + 1), false, raw) == plain, "sent ahead");
        assert!(run(&|_| None, true, raw) == plain, "sent before the first pass");
        assert!(run(&|iter| Some(iter + iter % 3), false, raw) == plain, "not the next one");
    }
}

#[test]
fn a_replica_opens_a_device_on_which_another_captures() {
    let Some(CudaDevice(other)) = device(Math::F32) else { return };
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    stream.begin_capture(mode).unwrap();
    let opened = std::thread::spawn(|| Nvidia::new(0, Math::F32, true).map(drop));
    let opened = opened.join().unwrap().map_err(|why| why.to_string());
    let flags = CUgraphInstantiate_flags(0);
    drop(stream.end_capture(flags).unwrap());
    drop(other);
    assert_eq!(opened, Ok(()));
}
