//! Layers with odd parameters against plain definitions, written down here a second time, in f64 and
//! without regard to speed: what the recorded cases do not reach. Both paths (oneDNN's and `--exact`)
//! are held to them.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod losses;
mod shapes;
mod windows;

use caffe::net::{Net, NetOptions};
use caffe::rng::Philox;
use caffe_proto::Phase;

/// Values with their extents.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Extents.
    pub dims: Vec<usize>,
    /// Values, the last axis' side by side.
    pub data: Vec<f64>,
}

impl Tensor {
    /// Zeros.
    pub fn zeros(dims: &[usize]) -> Tensor {
        Tensor { dims: dims.to_vec(), data: vec![0.0; dims.iter().product()] }
    }

    /// Values around 0, other ones for every seed.
    pub fn noise(dims: &[usize], seed: u64) -> Tensor {
        let mut random = Philox::new(seed, 77).sequence();
        let mut tensor = Tensor::zeros(dims);
        // As f32, since the layer gets them so.
        tensor.data.fill_with(|| f64::from(random.normal() as f32));
        tensor
    }

    /// Whole numbers below `n`: class numbers, and values that often tie.
    pub fn whole(dims: &[usize], n: u64, seed: u64) -> Tensor {
        let mut random = Philox::new(seed, 78).sequence();
        let mut tensor = Tensor::zeros(dims);
        tensor.data.fill_with(|| random.below(n) as f64);
        tensor
    }

    /// Product of the extents in a range of axes.
    pub fn count(&self, axes: std::ops::Range<usize>) -> usize {
        self.dims[axes].iter().product()
    }

    /// The value at these indices.
    pub fn at(&self, index: &[usize]) -> f64 {
        self.data[index.iter().zip(&self.dims).fold(0, |at, (i, n)| at * n + i)]
    }
}

/// One layer over inputs, with its parameters as fillers drew them.
pub struct Case {
    net: Net,
    /// The layer's parameters.
    pub params: Vec<Tensor>,
    /// The layer, for messages.
    pub what: String,
}

impl Case {
    /// A layer `kind { param }` over inputs of these extents; `tops` of them named `y0`, `y1`, ….
    pub fn new(kind: &str, param: &str, inputs: &[&Tensor], tops: usize, exact: bool) -> Case {
        let mut text = String::new();
        let mut layer = format!("layer {{ name: 'test' type: '{kind}' {param}");
        for (i, input) in inputs.iter().enumerate() {
            let dims: String = input.dims.iter().map(|d| format!("dim: {d} ")).collect();
            text += &format!(
                "layer {{ name: 'in{i}' type: 'Input' top: 'x{i}' input_param {{ shape {{ {dims} }} }} }}\n"
            );
            layer += &format!(" bottom: 'x{i}'");
        }
        (0..tops).for_each(|i| layer += &format!(" top: 'y{i}'"));
        let options = NetOptions { exact, seed: 5, ..NetOptions::new(Phase::Test) };
        let what = format!("{kind} {{ {param} }}, exact: {exact}");
        let net = common::net_of(&format!("{text}{layer} }}"), &options);
        let mut net = net.unwrap_or_else(|e| panic!("{what}: {e}"));
        for (i, input) in inputs.iter().enumerate() {
            let id = net.blob(&format!("x{i}")).unwrap();
            let values: Vec<f32> = input.data.iter().map(|v| *v as f32).collect();
            net.data_mut(id).unwrap().copy_from_slice(&values);
        }
        net.forward().unwrap_or_else(|e| panic!("{what}: {e}"));
        let model = net.to_proto().unwrap();
        let blobs = model.layer.iter().find(|l| l.name() == "test").map(|l| l.blobs.clone());
        let tensor = |blob: caffe_proto::BlobProto| Tensor {
            dims: blob.shape.unwrap().dim.iter().map(|d| *d as usize).collect(),
            data: blob.data.iter().map(|v| f64::from(*v)).collect(),
        };
        let params = blobs.unwrap_or_default().into_iter().map(tensor).collect();
        Case { net, params, what }
    }

    /// Compares top `i` with what the definition says.
    #[track_caller]
    pub fn expect(&mut self, i: usize, wanted: &Tensor) {
        let id = self.net.blob(&format!("y{i}")).unwrap();
        let dims = self.net.store().blobs[id].shape.dims().to_vec();
        assert_eq!(dims, wanted.dims, "{}", self.what);
        let largest = wanted.data.iter().fold(1e-3f64, |most, v| most.max(v.abs()));
        for (at, (got, want)) in self.net.data(id).unwrap().iter().zip(&wanted.data).enumerate() {
            let apart = (f64::from(*got) - want).abs();
            assert!(apart <= 2e-5 * largest, "{}: value {at} is {got}, not {want}", self.what);
        }
    }
}

/// Runs `check` on both paths.
pub fn both(check: impl Fn(bool)) {
    check(false);
    check(true);
}

/// An axis as written, counted from the front.
pub fn axis(written: i32, axes: usize) -> usize {
    if written < 0 { (written + axes as i32) as usize } else { written as usize }
}
