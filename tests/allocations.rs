//! While shapes repeat, an iteration allocates nothing: counted over the bare loop, on all threads,
//! by an allocator that counts. A binary of its own, with one test, so that nothing else runs.
//!
//! Counted is what passes through Rust's allocator: everything but what the C libraries beneath
//! (oneDNN, OpenMP) do inside. Counted by themselves are
//! * the panels that the crate `gemm` packs matrices into (inner products' forward passes), told by
//!   their alignment: a few each iteration, each with one small piece of the crate's own beside it;
//! * reading: the crate `rusty-leveldb` makes some ten pieces for each record (blocks, keys), and a
//!   batch is a list of records.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use caffe::data::Reading;
use caffe::device::Step;
use caffe::net::Unwatched;
use caffe::solver::{Feeds, NetPlans, Solver, SolverOptions};
use caffe_proto::SolverParameter;
use caffe_proto::text::parse;

struct Counting;

static CALLS: AtomicU64 = AtomicU64::new(0);
/// What asks for a cache line's alignment: packed panels (and large buffers, which stay).
static ALIGNED: AtomicU64 = AtomicU64::new(0);

fn count(layout: Layout) {
    let counter = if layout.align() >= 64 { &ALIGNED } else { &CALLS };
    counter.fetch_add(1, Ordering::Relaxed);
}

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout);
        // SAFETY: as this function's own contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout);
        // SAFETY: as this function's own contract.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(layout);
        // SAFETY: as this function's own contract.
        unsafe { System.realloc(old, layout, size) }
    }
    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: as this function's own contract.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Records of a batch.
const BATCH: u64 = 20;

/// CIFAR-10's quick net from `examples/`, without what its data layers name.
fn quick() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = path.join("examples/cifar10/cifar10_quick_train_test.prototxt");
    let text = std::fs::read_to_string(text).unwrap();
    text[text.find("layer {\n  name: \"conv1\"").unwrap()..].to_owned()
}

/// Next to nothing behind the data.
const ONE: &str = "
layer { name: 'pool' type: 'Pooling' bottom: 'data' top: 'pool' pooling_param { pool: AVE kernel_size: 8 stride: 8 } }
layer { name: 'ip' type: 'InnerProduct' bottom: 'pool' top: 'ip'
        inner_product_param { num_output: 10 weight_filler { type: 'xavier' } } }
layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }";

/// Branches that meet in sums, products and a concatenation; every kind of pooling, both norms.
const BRANCHES: &str = "
layer { name: 'a' type: 'Convolution' bottom: 'data' top: 'a'
        convolution_param { num_output: 16 kernel_size: 3 pad: 1 weight_filler { type: 'msra' } } }
layer { name: 'a_bn' type: 'BatchNorm' bottom: 'a' top: 'a' }
layer { name: 'a_scale' type: 'Scale' bottom: 'a' top: 'a' scale_param { bias_term: true } }
layer { name: 'a_relu' type: 'ReLU' bottom: 'a' top: 'a' }
layer { name: 'b' type: 'Convolution' bottom: 'data' top: 'b'
        convolution_param { num_output: 16 kernel_size: 1 weight_filler { type: 'msra' } } }
layer { name: 'sum' type: 'Eltwise' bottom: 'a' bottom: 'b' top: 'sum' eltwise_param { operation: SUM } }
layer { name: 'max' type: 'Eltwise' bottom: 'a' bottom: 'b' top: 'max' eltwise_param { operation: MAX } }
layer { name: 'prod' type: 'Eltwise' bottom: 'sum' bottom: 'max' top: 'prod' eltwise_param { operation: PROD } }
layer { name: 'norm' type: 'LRN' bottom: 'prod' top: 'norm' lrn_param { local_size: 3 } }
layer { name: 'cat' type: 'Concat' bottom: 'norm' bottom: 'sum' top: 'cat' }
layer { name: 'pool' type: 'Pooling' bottom: 'cat' top: 'pool' pooling_param { pool: AVE kernel_size: 3 stride: 2 } }
layer { name: 'peak' type: 'Pooling' bottom: 'pool' top: 'peak' pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: 'drop' type: 'Dropout' bottom: 'peak' top: 'peak' }
layer { name: 'ip' type: 'InnerProduct' bottom: 'peak' top: 'ip'
        inner_product_param { num_output: 10 weight_filler { type: 'xavier' } } }
layer { name: 'accuracy' type: 'Accuracy' bottom: 'ip' bottom: 'label' top: 'accuracy' }
layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }";

/// Allocations of ten iterations behind as many to warm up: of computing, of packing, of reading.
fn steady(folder: &Path, layers: &str, solver: &str, exact: bool, raw: bool) -> [u64; 3] {
    let net = folder.join("net.prototxt");
    let data = format!(
        "layer {{ name: 'in' type: 'Data' top: 'data' top: 'label' include {{ phase: TRAIN }}
         transform_param {{ scale: 0.0078125 mean_value: 128 mirror: true }}
         data_param {{ source: '{}' batch_size: {BATCH} backend: LEVELDB }} }}\n",
        folder.join("cifar10_train_leveldb").display()
    );
    std::fs::write(&net, data + layers).unwrap();
    let text = format!("train_net: '{}' base_lr: 0.0001 {solver}", net.display());
    let param: SolverParameter = parse("solver", &text).unwrap();
    let nets = NetPlans::read(&param, 0, &[]).unwrap();
    let options = SolverOptions { exact, ..SolverOptions::new(2, 1) };
    let mut solver = Solver::new(&param, &nets, &options).unwrap();
    let mut feeds = Feeds::open(&nets, Reading { raw, ..Reading::new(1) }).unwrap();
    let [mut computing, mut packing, mut reading] = [0; 3];
    let calls = || CALLS.load(Ordering::Relaxed);
    let aligned = || ALIGNED.load(Ordering::Relaxed);
    for iter in 0..20 {
        let begun = calls();
        let step = Step { iter, first_record: feeds.first_record(iter) };
        let batches = feeds.train(iter).unwrap();
        let (read, packed) = (calls(), aligned());
        solver.clear_gradient();
        solver.forward_backward(batches, step, &mut Unwatched).unwrap();
        solver.update(iter).unwrap();
        if iter >= 10 {
            reading += read - begun;
            computing += calls() - read;
            packing += aligned() - packed;
        }
    }
    [computing, packing, reading]
}

#[test]
fn an_iteration_allocates_nothing_but_what_reading_needs() {
    let dir = tempfile::tempdir().unwrap();
    caffe::data::synthetic::write_synthetic(dir.path(), 500, 1, 5).unwrap();
    let adam = "lr_policy: 'step' gamma: 0.1 stepsize: 3 type: 'Adam' momentum: 0.9 momentum2: 0.99 \
                clip_gradients: 1 weight_decay: 0.01";
    let sgd = "lr_policy: 'fixed' momentum: 0.9 weight_decay: 0.004";
    let mut found = Vec::new();
    for (name, layers, solver, exact, raw) in [
        ("cifar10_quick", quick(), sgd, false, false),
        ("one layer, from bytes", ONE.to_owned(), sgd, false, true),
        ("branches, clipped, Adam", BRANCHES.to_owned(), adam, false, false),
        ("cifar10_quick, exact", quick(), adam, true, false),
    ] {
        let [computing, packing, reading] = steady(dir.path(), &layers, solver, exact, raw);
        let each = reading as f64 / (10 * BATCH) as f64;
        println!("{name}: computing {computing}, packing {packing}, reading {each:.2} a record");
        found.push((name, computing.saturating_sub(packing)));
        // A few for each of two products: one a block of the result.
        assert!(exact || packing <= 10 * 8, "{name}: {packing} packed panels");
        assert!(each <= 20.0, "{name}: {each} allocations a record read");
    }
    // The plain path keeps a few buffers a call: its place is the oracle's, not the hot loop's.
    found.retain(|(name, computing)| *computing > 0 && !name.ends_with("exact"));
    assert!(found.is_empty(), "{found:?}");
}
