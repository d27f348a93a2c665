//! Every layer against recordings of BVLC Caffe (`$CAFFE_CONFORMANCE_LAYERS`, else
//! `../shared/conformance/layers`, whose README has the format of a case) and against its own
//! definition (`tests/definitions`, whose `make.py` wrote the cases).
//!
//! A case runs on the plain path at the recordings' tolerance, and on the fast path at 1e-3 of each
//! array's largest value: with all memory kept, as a training net plans it (shared memory, fused
//! ReLU), and with its four-axis inputs and output gradients handed over in channel blocks.
//! Once more on a CUDA device, or where there is none on a simulated one (`common::cuda`), in f32 and
//! in 16 bits; with channels last in f32 and bf16, in plain order in f32 and fp16.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::cuda;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use caffe::Result;
use caffe::blob::{BlobId, Layout, SlabId};
use caffe::device::cpu::threads::Threads;
use caffe::device::cuda::{CudaDevice, Kind, Math, Order};
use caffe::net::{Net, NetOptions, Origin};
use caffe_proto::{NetParameter, Phase};

/// One way of running a case.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Exact,
    Fast,
    Planned,
    Blocked(Layout),
    Cuda(Kind),
}

const WAYS: [Way; 5] = [
    Way::Exact,
    Way::Fast,
    Way::Planned,
    Way::Blocked(Layout::Blocked8),
    Way::Blocked(Layout::Blocked16),
];

/// Half the distance of neighbours among numbers just below 1: what one rounding may cost.
fn unit(kind: Kind) -> f32 {
    match kind {
        Kind::Bf16 => 1.0 / 256.0,
        _ => 1.0 / 2048.0,
    }
}

/// Roundings of the largest value of an array that may add up: of what goes in (both factors of a
/// product), of what comes out, and of what a layer keeps or has in between.
const UNITS: f32 = 4.0;

/// Cases whose gradients are not looked at in 16 bits, and why.
const FORWARD_ONLY: [(&str, &str); 3] = [
    ("pooling.max.wide", "the largest of many values: rounding makes others as large"),
    ("graph.inception", "the same, and ReLUs of sums near 0"),
    ("scale.2", "one number, the sum of many that cancel"),
];

/// The element that is furthest off, in units of what is allowed.
struct Worst {
    off: f32,
    text: String,
}

struct Case {
    param: NetParameter,
    arrays: BTreeMap<String, Vec<f32>>,
    /// One of [`FORWARD_ONLY`].
    forward_only: bool,
}

impl Case {
    fn read(folder: &Path) -> Case {
        Case {
            param: common::read_net(&folder.join("net.prototxt")),
            arrays: common::read_npz(&folder.join("case.npz")),
            forward_only: FORWARD_ONLY.iter().any(|(name, _)| folder.ends_with(name)),
        }
    }

    /// The arrays under `kind/`, with the rest of their names.
    fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a [f32])> {
        self.arrays.iter().filter_map(move |(name, values)| {
            Some((name.strip_prefix(kind)?.strip_prefix('/')?, values.as_slice()))
        })
    }

    fn run(&self, way: Way, device: Option<&CudaDevice>) -> Result<Worst> {
        let phase = if self.arrays["phase"][0] == 1.0 { Phase::Test } else { Phase::Train };
        let options = NetOptions {
            exact: way == Way::Exact,
            keep_all: way != Way::Planned,
            threads: 2,
            cuda: device.cloned(),
            ..NetOptions::new(phase)
        };
        let mut net = Net::new(&self.param, &Origin::default(), &options)?;
        for (blob, values) in self.of("input") {
            let id = net.blob(blob)?;
            net.data_mut(id)?.copy_from_slice(values);
            block(&net, id, net.store().blobs[id].data, way)?;
        }
        for (name, values) in self.of("param") {
            let id = param_id(&net, name)?;
            net.params().set_values(id, values)?;
        }
        net.clear_param_diffs();
        net.forward()?;
        let mut worst = Worst { off: 0.0, text: "nothing was compared".into() };
        for (blob, theirs) in self.of("output") {
            let id = net.blob(blob)?;
            compare(&mut worst, way, &format!("output/{blob}"), net.data(id)?, theirs);
        }
        for (name, theirs) in self.of("param_after") {
            let id = param_id(&net, name)?;
            compare(
                &mut worst,
                way,
                &format!("param_after/{name}"),
                net.params().values(id)?,
                theirs,
            );
        }
        if !(self.forward_only && matches!(way, Way::Cuda(Kind::Bf16 | Kind::F16))) {
            self.backward(&mut net, way, &mut worst)?;
        }
        Ok(worst)
    }

    fn backward(&self, net: &mut Net, way: Way, worst: &mut Worst) -> Result<()> {
        let results = ["input_diff", "param_diff"];
        if results.iter().all(|kind| self.of(kind).next().is_none()) {
            return Ok(());
        }
        for (blob, values) in self.of("output_diff") {
            let id = net.blob(blob)?;
            net.diff_mut(id)?.copy_from_slice(values);
            block(net, id, net.store().blobs[id].diff, way)?;
        }
        net.backward()?;
        for (blob, theirs) in self.of("input_diff") {
            let id = net.blob(blob)?;
            compare(worst, way, &format!("input_diff/{blob}"), net.diff(id)?, theirs);
        }
        for (name, theirs) in self.of("param_diff") {
            let id = param_id(net, name)?;
            compare(worst, way, &format!("param_diff/{name}"), net.params().gradient(id)?, theirs);
        }
        Ok(())
    }
}

/// Turns a blob's memory into channel blocks, so that layers meet what a convolution gives them.
fn block(net: &Net, id: BlobId, slab: SlabId, way: Way) -> Result<()> {
    let shape = &net.store().blobs[id].shape;
    if let Way::Blocked(layout) = way
        && shape.axes() == 4
    {
        // The number of a call that the net will not come to.
        let call = u64::MAX;
        net.store().slabs[slab].update(call, layout, shape, Threads::one())?;
    }
    Ok(())
}

/// `layer/i` as the number of a parameter.
fn param_id(net: &Net, name: &str) -> Result<usize> {
    let (layer, index) = name.rsplit_once('/').unwrap();
    Ok(net.layers()[net.layer(layer)?].params[index.parse::<usize>().unwrap()])
}

fn compare(worst: &mut Worst, way: Way, array: &str, ours: &[f32], theirs: &[f32]) {
    if ours.len() != theirs.len() {
        *worst = Worst {
            off: f32::INFINITY,
            text: format!("{array} has {} elements, theirs {}", ours.len(), theirs.len()),
        };
        return;
    }
    let largest = theirs.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    for (i, (&ours, &theirs)) in ours.iter().zip(theirs).enumerate() {
        let allowed = match way {
            Way::Exact => 1e-4 + 1e-4 * theirs.abs(),
            Way::Cuda(kind @ (Kind::Bf16 | Kind::F16)) => 1e-6 + UNITS * unit(kind) * largest,
            _ => 1e-6 + 1e-3 * largest,
        };
        let same = ours == theirs || (ours.is_nan() && theirs.is_nan());
        let off = if same { 0.0 } else { (ours - theirs).abs() / allowed };
        let off = if off.is_nan() { f32::INFINITY } else { off };
        if off >= worst.off {
            let text = format!("{array}[{i}]: ours {ours}, theirs {theirs}");
            *worst = Worst { off, text };
        }
    }
}

/// What came of a run.
enum Outcome {
    Pass,
    Fail,
    /// A layer has no CUDA code, as `cuda::WITHOUT_CODE` says.
    NoCode(String),
}

fn outcome(case: &Case, way: Way, device: Option<&CudaDevice>) -> (Outcome, String) {
    let without = |kind: &str| matches!(way, Way::Cuda(_)) && cuda::WITHOUT_CODE.contains(&kind);
    match case.run(way, device) {
        Ok(worst) if worst.off <= 1.0 => {
            if let Some(layer) = case.param.layer.iter().find(|layer| without(layer.r#type())) {
                let kind = layer.r#type();
                return (Outcome::Fail, format!("FAIL, {kind} stands in cuda::WITHOUT_CODE"));
            }
            let text = format!("pass, worst {:.3} of allowed at {}", worst.off, worst.text);
            (Outcome::Pass, text)
        }
        Ok(worst) => {
            (Outcome::Fail, format!("FAIL, {:.3} times allowed at {}", worst.off, worst.text))
        }
        Err(e) => match cuda::refused(&e) {
            Some(kind) if without(&kind) => {
                let text = format!("skipped: {kind} has no CUDA code");
                (Outcome::NoCode(kind), text)
            }
            _ => (Outcome::Fail, format!("FAIL, {e}")),
        },
    }
}

/// Runs all cases in all ways.
fn run(folders: &[PathBuf], ways: &[Way], device: Option<&CudaDevice>) {
    let (mut passed, mut failed, mut refused) = (0, Vec::new(), BTreeMap::new());
    for folder in folders {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let case = Case::read(folder);
        for &way in ways {
            let (outcome, what) = outcome(&case, way, device);
            println!("{name} {way:?}: {what}");
            match outcome {
                Outcome::Pass => passed += 1,
                Outcome::Fail => failed.push(format!("{name} {way:?}: {what}")),
                Outcome::NoCode(kind) => *refused.entry(kind).or_insert(0) += 1,
            }
        }
    }
    let cases = folders.len();
    println!("{cases} cases: {passed} runs pass, {} fail", failed.len());
    if !refused.is_empty() {
        println!("not run, by layer without CUDA code: {refused:?}");
    }
    assert!(failed.is_empty(), "failed: {failed:#?}");
}

#[test]
fn layers_do_what_caffe_does() {
    if let Some(folders) = common::cases("CAFFE_CONFORMANCE_LAYERS", "conformance/layers") {
        run(&folders, &WAYS, None);
    }
}

#[test]
fn layers_do_what_they_are_defined_to_do() {
    run(&definitions(), &WAYS, None);
}

fn definitions() -> Vec<PathBuf> {
    common::folders(&common::repository().join("tests/definitions/cases")).unwrap()
}

#[test]
fn layers_do_on_cuda_what_they_are_defined_to_do() {
    if let Some(device) = cuda::device() {
        run(&definitions(), &[Way::Cuda(Kind::F32)], Some(&device));
    }
}

#[test]
fn layers_do_on_cuda_what_caffe_does() {
    if let Some(folders) = common::cases("CAFFE_CONFORMANCE_LAYERS", "conformance/layers")
        && let Some(device) = cuda::device()
    {
        run(&folders, &[Way::Cuda(Kind::F32)], Some(&device));
    }
}

/// Every case with such numbers in such an order.
fn run_in(math: Math, order: Order) {
    let Some(device) = cuda::device_in(math, order) else { return };
    let mut folders = definitions();
    folders.extend(
        common::cases("CAFFE_CONFORMANCE_LAYERS", "conformance/layers").unwrap_or_default(),
    );
    run(&folders, &[Way::Cuda(math.kind())], Some(&device));
}

#[test]
fn layers_on_cuda_do_the_same_with_channels_last() {
    run_in(Math::F32, Order::ChannelsLast);
}

#[test]
fn layers_on_cuda_in_bf16_stay_within_its_roundings() {
    run_in(Math::Bf16, Order::ChannelsLast);
}

#[test]
fn layers_on_cuda_in_fp16_stay_within_its_roundings() {
    run_in(Math::F16, Order::Plain);
}
