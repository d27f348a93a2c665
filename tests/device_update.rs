//! The solver's update on a CUDA device, and where weights, gradients and histories are meanwhile. Where
//! there is no device it is simulated; what it is asked to copy is counted.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::cell::Cell;
use std::rc::Rc;

use caffe::blob::Shape;
use caffe::device::Step;
use caffe::device::cpu::gemm::Gemm;
use caffe::device::cpu::threads::Threads;
use caffe::device::cuda::backend::{Address, Arg, Backend, Correlation};
use caffe::device::cuda::source::Source;
use caffe::device::cuda::{CudaDevice, Kind};
use caffe::net::{Net, NetOptions, Unwatched};
use caffe::params::{Declared, ParamArena, ParamDef};
use caffe::solver::{NetPlans, Optimizer, Solver, SolverOptions};
use caffe::{Error, Result, snapshot};
use caffe_proto::{FillerParameter, ParamSpec, Phase, SolverParameter};

/// A device that counts what comes from it, and fails when told to.
struct Counted {
    device: Rc<dyn Backend>,
    downloaded: Cell<usize>,
    broken: Cell<bool>,
}

impl Counted {
    fn new() -> Option<Rc<Counted>> {
        let device = common::cuda::device()?.0;
        Some(Rc::new(Counted { device, downloaded: Cell::new(0), broken: Cell::new(false) }))
    }

    fn options(self: &Rc<Counted>) -> SolverOptions {
        SolverOptions { cuda: Some(CudaDevice(self.clone())), ..SolverOptions::new(1, 1) }
    }
}

impl Backend for Counted {
    fn describe(&self) -> String {
        self.device.describe()
    }

    fn kind(&self) -> Kind {
        self.device.kind()
    }

    fn free_memory(&self) -> Result<Option<u64>> {
        self.device.free_memory()
    }

    fn allocate(&self, floats: usize) -> Result<Address> {
        self.device.allocate(floats)
    }

    fn free(&self, at: Address) {
        self.device.free(at);
    }

    fn upload(&self, from: &[f32], to: Address) -> Result<()> {
        self.device.upload(from, to)
    }

    fn upload_bytes(&self, from: &[u8], to: Address) -> Result<()> {
        self.device.upload_bytes(from, to)
    }

    fn download(&self, from: Address, to: &mut [f32]) -> Result<()> {
        if self.broken.get() {
            return Err(Error::Invalid("the device has fallen off the bus".into()));
        }
        self.downloaded.set(self.downloaded.get() + to.len());
        self.device.download(from, to)
    }

    fn copy(&self, from: Address, to: Address, floats: usize) -> Result<()> {
        self.device.copy(from, to, floats)
    }

    fn zero(&self, at: Address, floats: usize) -> Result<()> {
        self.device.zero(at, floats)
    }

    fn launch(
        &self,
        source: &'static Source,
        kind: Kind,
        function: &'static str,
        blocks: usize,
        args: &[Arg],
    ) -> Result<()> {
        self.device.launch(source, kind, function, blocks, args)
    }

    fn product(&self, g: Gemm, kinds: [Kind; 2], a: Address, b: Address, c: Address) -> Result<()> {
        self.device.product(g, kinds, a, b, c)
    }

    fn correlate(
        &self,
        shape: &Correlation,
        kind: Kind,
        x: Address,
        w: Address,
        y: Address,
    ) -> Result<()> {
        self.device.correlate(shape, kind, x, w, y)
    }

    fn correlate_back(
        &self,
        shape: &Correlation,
        kind: Kind,
        w: Address,
        dy: Address,
        dx: Address,
    ) -> Result<()> {
        self.device.correlate_back(shape, kind, w, dy, dx)
    }

    fn correlate_weights(
        &self,
        shape: &Correlation,
        kind: Kind,
        x: Address,
        dy: Address,
        dw: Address,
    ) -> Result<()> {
        self.device.correlate_weights(shape, kind, x, dy, dw)
    }
}

/// Values without a pattern in [-1, 1), some of them zero.
fn noise(seed: usize, i: usize) -> f32 {
    let x = (seed * 7919 + i * 104_729) % 2003;
    if x.is_multiple_of(17) { 0.0 } else { x as f32 / 1001.5 - 1.0 }
}

/// Parameters of several multipliers, one of them fixed, whose lengths leave gaps.
fn arena() -> ParamArena {
    let declared = |(layer, (len, lr_mult, decay_mult)): (usize, (usize, f32, f32))| Declared {
        spec: ParamSpec {
            lr_mult: Some(lr_mult),
            decay_mult: Some(decay_mult),
            ..ParamSpec::default()
        },
        layer,
        index: 0,
        def: ParamDef::learned(Shape::new(vec![len]), FillerParameter::default()),
    };
    let params = [(300, 1.0, 1.0), (5, 2.0, 0.0), (40, 0.0, 1.0), (1001, 0.5, 2.0)];
    let params: Vec<Declared> = params.into_iter().enumerate().map(declared).collect();
    let mut arena = ParamArena::new(&params);
    for p in arena.params().to_vec() {
        let values: Vec<f32> = p.range.clone().map(|i| noise(1, i)).collect();
        arena.data_in_mut(p.range).unwrap().copy_from_slice(&values);
    }
    arena
}

fn give_gradient(arena: &mut ParamArena, iter: u64) {
    for p in arena.params().to_vec().iter().filter(|p| !p.statistic) {
        let values: Vec<f32> = p.range.clone().map(|i| noise(2 + iter as usize, i)).collect();
        arena.diff_in_mut(p.range.clone()).unwrap().copy_from_slice(&values);
    }
}

fn assert_near(ours: &[f32], theirs: &[f32], allowed: f32, what: &str) {
    assert_eq!(ours.len(), theirs.len());
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= allowed * b.abs().max(1e-3), "{what}, value {i}: {a}, not {b}");
    }
}

fn rules() -> Vec<String> {
    let rules = [
        "type: 'SGD' momentum: 0.9",
        "type: 'Nesterov' momentum: 0.9",
        "type: 'AdaGrad' delta: 1e-3",
        "type: 'RMSProp' rms_decay: 0.9 delta: 1e-3",
        "type: 'AdaDelta' momentum: 0.95 delta: 1e-4",
        "type: 'Adam' momentum: 0.9 momentum2: 0.99 delta: 1e-3",
    ];
    let numbers = [
        "iter_size: 2",
        "iter_size: 2 weight_decay: 0.05",
        "weight_decay: 0.05 regularization_type: 'L1' clip_gradients: 3",
        "iter_size: 2 weight_decay: 0.05 clip_gradients: 1e6",
    ];
    let fixed = "base_lr: 0.02 lr_policy: 'exp' gamma: 0.9";
    rules.iter().flat_map(|r| numbers.map(|n| format!("{r} {n} {fixed}"))).collect()
}

/// A net whose run is all that is wanted of it.
fn net_on_device() -> Option<Net> {
    let device = common::cuda::device()?;
    let options = NetOptions { cuda: Some(device), ..NetOptions::new(Phase::Train) };
    let text = "layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: 1 } } }";
    Some(common::net_of(text, &options).unwrap())
}

#[test]
fn every_rule_updates_a_device_as_the_host() {
    let Some(mut net) = net_on_device() else { return };
    let cuda = net.run().cuda().unwrap();
    for text in rules() {
        let param: SolverParameter = caffe_proto::text::parse("solver", &text).unwrap();
        let (mut here, mut there) = (arena(), arena());
        let [mut on_host, mut on_device] = [(); 2].map(|()| Optimizer::new(&param, &here).unwrap());
        for iter in 0..5 {
            for arena in [&mut here, &mut there] {
                give_gradient(arena, iter);
            }
            on_host.update(&mut here, iter, Threads::new(1)).unwrap();
            on_device.measure_on(&mut there, cuda).unwrap();
            on_device.update_on(&mut there, iter, cuda).unwrap();
        }
        assert_near(there.data().unwrap(), here.data().unwrap(), 1e-5, &text);
        let histories = on_device.histories().unwrap().concat();
        assert_near(&histories, &on_host.histories().unwrap().concat(), 1e-5, &text);
    }
}

#[test]
fn a_gradient_without_a_norm_changes_nothing() {
    let Some(mut net) = net_on_device() else { return };
    let cuda = net.run().cuda().unwrap();
    let text = "type: 'SGD' momentum: 0.9 base_lr: 0.1 lr_policy: 'fixed' clip_gradients: 1";
    let param: SolverParameter = caffe_proto::text::parse("solver", text).unwrap();
    let mut params = arena();
    let mut optimizer = Optimizer::new(&param, &params).unwrap();
    give_gradient(&mut params, 0);
    let mut norm = |params: &mut ParamArena| {
        optimizer.measure_on(params, cuda).unwrap();
        cuda.report.ask().unwrap();
        cuda.report.get().unwrap().norm
    };
    assert!(norm(&mut params).is_finite());
    params.diff().unwrap()[400] = f32::NAN;
    assert!(norm(&mut params).is_nan());
    optimizer.update_on(&mut params, 3, cuda).unwrap();
    assert_eq!(params.data().unwrap(), arena().data().unwrap());
    assert!(optimizer.histories().unwrap().concat().iter().all(|h| *h == 0.0));
}

const LENET: &str = "
layer { name: 'data' type: 'Input' top: 'data' input_param { shape { dim: 4 dim: 1 dim: 14 dim: 14 } } }
layer { name: 'label' type: 'Input' top: 'label' input_param { shape { dim: 4 } } }
layer { name: 'conv1' type: 'Convolution' bottom: 'data' top: 'conv1' param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: 'xavier' } } }
layer { name: 'pool1' type: 'Pooling' bottom: 'conv1' top: 'pool1' pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: 'norm' type: 'BatchNorm' bottom: 'pool1' top: 'pool1' }
layer { name: 'conv2' type: 'Convolution' bottom: 'pool1' top: 'conv2' param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  convolution_param { num_output: 6 kernel_size: 3 weight_filler { type: 'xavier' } } }
layer { name: 'fixed' type: 'InnerProduct' bottom: 'conv2' top: 'fixed' param { lr_mult: 0 } param { lr_mult: 0 }
  inner_product_param { num_output: 12 weight_filler { type: 'xavier' } } }
layer { name: 'relu' type: 'ReLU' bottom: 'fixed' top: 'fixed' }
layer { name: 'ip' type: 'InnerProduct' bottom: 'fixed' top: 'ip'
  inner_product_param { num_output: 5 weight_filler { type: 'xavier' } } }
layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }
";

fn solver(kind: &str, options: &SolverOptions) -> Solver {
    let text = format!(
        "{kind} weight_decay: 0.01 iter_size: 2 clip_gradients: 0.5 base_lr: 0.01 lr_policy: 'fixed' max_iter: 10
         test_iter: 1 test_interval: 5 net_param {{ name: 'lenet' {LENET} }}"
    );
    let param: SolverParameter = caffe_proto::text::parse("solver", &text).unwrap();
    let plans = NetPlans::read(&param, 0, &[]).unwrap();
    Solver::new(&param, &plans, options).unwrap()
}

/// One iteration; its loss.
fn iterate(solver: &mut Solver, iter: u64) -> f32 {
    let loss = passes(solver, iter);
    solver.update(iter).unwrap();
    loss
}

/// The two passes of an iteration; their loss.
fn passes(solver: &mut Solver, iter: u64) -> f32 {
    solver.clear_gradient();
    let mut loss = 0.0;
    for pass in 0..2 {
        let net = solver.net();
        let seed = (2 * iter + pass) as usize;
        let (data, label) = (net.blob("data").unwrap(), net.blob("label").unwrap());
        let values = net.data_mut(data).unwrap().iter_mut().enumerate();
        values.for_each(|(i, v)| *v = noise(seed, i));
        let labels = net.data_mut(label).unwrap().iter_mut().enumerate();
        labels.for_each(|(i, v)| *v = ((seed + i) % 5) as f32);
        let step = Step { iter, first_record: 0 };
        loss += solver.forward_backward(&mut [], step, &mut Unwatched).unwrap();
    }
    loss
}

fn weights(solver: &mut Solver) -> Vec<f32> {
    let model = solver.net().to_proto().unwrap();
    model.layer.iter().flat_map(|l| &l.blobs).flat_map(|blob| blob.data.clone()).collect()
}

#[test]
fn a_net_learns_on_a_device_and_only_numbers_come_back() {
    let Some(device) = Counted::new() else { return };
    // A convolution's bias before a norm has a gradient of rounding errors; the delta keeps Adam from
    // making steps of them.
    let adam = "type: 'Adam' momentum: 0.9 momentum2: 0.99 delta: 1e-3";
    for kind in ["type: 'SGD' momentum: 0.9", adam] {
        let mut here = solver(kind, &SolverOptions::new(1, 1));
        let mut there = solver(kind, &device.options());
        for iter in 0..10 {
            device.downloaded.set(0);
            let (theirs, ours) = (iterate(&mut here, iter), iterate(&mut there, iter));
            assert!((ours - theirs).abs() <= 1e-4 * theirs, "{kind} {iter}: {ours}, not {theirs}");
            // The losses, and the norm: three reports of four numbers.
            assert!(device.downloaded.get() <= 12, "{iter}: {} floats", device.downloaded.get());
            if iter == 4 || iter == 8 {
                let theirs = here.test(0, &mut []).unwrap().1;
                let ours = there.test(0, &mut []).unwrap().1;
                assert!((ours - theirs).abs() <= 1e-4 * theirs.abs(), "{kind}: {ours} {theirs}");
            }
        }
        assert_near(&weights(&mut there), &weights(&mut here), 1e-2, kind);
    }
}

#[test]
fn a_device_resumes_from_its_snapshot() {
    let Some(device) = Counted::new() else { return };
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("snap").display().to_string();
    let kind = "type: 'Adam' momentum: 0.9 momentum2: 0.99";
    let mut first = solver(kind, &device.options());
    for iter in 0..4 {
        iterate(&mut first, iter);
    }
    let paths = snapshot::write(&mut first, &prefix, 4).unwrap();
    let mut second = solver(kind, &device.options());
    iterate(&mut second, 0);
    snapshot::restore(&mut second, &paths.state).unwrap();
    for iter in 4..7 {
        assert_eq!(iterate(&mut first, iter), iterate(&mut second, iter), "iteration {iter}");
    }
    assert_eq!(weights(&mut first), weights(&mut second));
}

#[test]
fn the_host_gets_what_is_new_or_an_error() {
    let Some(device) = Counted::new() else { return };
    let mut solver = solver("type: 'SGD' momentum: 0.9", &device.options());
    let before = weights(&mut solver);
    iterate(&mut solver, 0);
    device.broken.set(true);
    let failed = |error: Error| assert!(error.to_string().contains("off the bus"), "{error}");
    failed(solver.net().to_proto().unwrap_err());
    failed(solver.net().params().data().map(|_| ()).unwrap_err());
    failed(solver.optimizer().histories().map(|_| ()).unwrap_err());
    failed(snapshot::take(&mut solver, "nowhere", 1, None).map(|_| ()).unwrap_err());
    device.broken.set(false);
    let after = weights(&mut solver);
    assert_ne!(before, after);
    // What the host writes counts from then on.
    solver.net().params().data().unwrap().fill(0.0);
    assert!(weights(&mut solver).iter().all(|w| *w == 0.0));
    let loss = iterate(&mut solver, 1);
    assert!((loss - 2.0 * 5f32.ln()).abs() < 1e-5, "{loss}");
}

#[test]
fn a_gradient_that_the_host_has_asked_for_is_applied_there() {
    let Some(device) = Counted::new() else { return };
    let kind = "type: 'SGD' momentum: 0.9";
    let [mut stays, mut comes] = [(); 2].map(|()| solver(kind, &device.options()));
    for iter in 0..4 {
        passes(&mut stays, iter);
        passes(&mut comes, iter);
        assert!(stays.net().params().gradient_is_away());
        // Every other time: the histories change sides, too.
        if iter % 2 == 0 {
            let learnable = comes.net().params().learnable_len();
            comes.net().params().diff_in(0..learnable).unwrap();
            assert!(!comes.net().params().gradient_is_away());
        }
        stays.update(iter).unwrap();
        comes.update(iter).unwrap();
    }
    assert_near(&weights(&mut comes), &weights(&mut stays), 1e-4, kind);
}
