//! Records that stay bytes until they are on the net's device: the same values as those that a reader
//! transforms, bit for bit, on the CPU and on a CUDA device (a simulated one, where there is no other).
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};

use caffe::data::image::{Format, Raster};
use caffe::data::mean::MeanImage;
use caffe::data::{Backend, Batch, Reading, Writer};
use caffe::device::Step;
use caffe::device::cuda::{CudaDevice, Math, Order};
use caffe::net::{Net, NetOptions, Unwatched};
use caffe::rng::Philox;
use caffe::solver::{DataLayers, Feeds, NetPlans, Solver, SolverOptions};
use caffe_proto::{Datum, Message, NetParameter, Phase, SolverParameter};

const FLOATS: Reading = Reading { seed: 1, threads: 2, shuffle: false, raw: false };
const RAW: Reading = Reading { raw: true, ..FLOATS };

/// How the values of the pixels are kept.
#[derive(Clone, Copy)]
enum Kind {
    Bytes,
    Floats,
    Png,
}

struct Set {
    folder: tempfile::TempDir,
}

impl Set {
    fn new() -> Set {
        Set { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A database of images of these sides (channels, height, width), of which `kind` says how number
    /// i is kept; the name of its folder.
    fn write(&self, sides: &[[usize; 3]], kind: impl Fn(usize) -> Kind) -> PathBuf {
        let path =
            self.path(&format!("db{}", std::fs::read_dir(self.folder.path()).unwrap().count()));
        let mut random = Philox::new(9, 9).sequence();
        let mut writer = Writer::create(&path, Backend::LevelDb).unwrap();
        for (i, &[channels, height, width]) in sides.iter().enumerate() {
            let values = channels * height * width;
            let pixels: Vec<u8> = (0..values).map(|_| random.below(256) as u8).collect();
            let mut datum = Datum { label: Some(i as i32 % 10), ..Datum::default() };
            match kind(i) {
                Kind::Png => {
                    let raster = Raster { height, width, channels, pixels };
                    datum.data = Some(raster.encode(Format::Png).unwrap().into());
                    datum.encoded = Some(true);
                }
                plain => {
                    let [c, h, w] = [channels, height, width].map(|side| Some(side as i32));
                    (datum.channels, datum.height, datum.width) = (c, h, w);
                    match plain {
                        Kind::Floats => {
                            datum.float_data = pixels.iter().map(|&p| f32::from(p) - 0.5).collect();
                        }
                        _ => datum.data = Some(pixels.into()),
                    }
                }
            }
            writer.put(format!("{i:05}").as_bytes(), &datum.encode_to_vec()).unwrap();
        }
        writer.finish().unwrap();
        path
    }
}

/// A net that is nothing but a data layer.
fn layer(source: &Path, batch: usize, transform: &str) -> String {
    format!(
        "layer {{ name: 'in' type: 'Data' top: 'data' top: 'label' transform_param {{ {transform} }}
         data_param {{ source: '{}' batch_size: {batch} backend: LEVELDB }} }}\n",
        source.display()
    )
}

/// The tops that `batches` batches give a net on a device (`None`: the CPU).
fn tops(text: &str, phase: Phase, device: Option<&CudaDevice>, reading: Reading) -> Vec<Vec<f32>> {
    let options = NetOptions { cuda: device.cloned(), threads: 2, ..NetOptions::new(phase) };
    let mut net: Net = common::net_of(text, &options).unwrap();
    let mut source = data_layers(text, phase).open(reading).unwrap();
    let mut batches = Vec::new();
    let mut all = Vec::new();
    for ticket in 0..3 {
        source.fill(ticket, &mut batches).unwrap();
        net.feed(&mut batches).unwrap();
        net.forward().unwrap();
        let [data, label] = ["data", "label"].map(|name| net.blob(name).unwrap());
        all.push(net.data(data).unwrap().to_vec());
        all.push(net.data(label).unwrap().to_vec());
    }
    all
}

fn data_layers(text: &str, phase: Phase) -> DataLayers {
    let net: NetParameter = caffe_proto::text::parse("net", text).unwrap();
    DataLayers { phase, layers: net.layer }
}

/// The first batch of who asks for raw records.
fn raw_batch(text: &str, phase: Phase) -> Batch {
    let mut batches = Vec::new();
    let mut source = data_layers(text, phase).open(RAW).unwrap();
    source.fill(0, &mut batches).unwrap();
    batches.remove(0)
}

fn assert_same_bits(ours: &[Vec<f32>], theirs: &[Vec<f32>], what: &str) {
    assert_eq!(ours.len(), theirs.len());
    for (a, b) in ours.iter().zip(theirs) {
        assert_eq!(a.len(), b.len(), "{what}");
        let odd = a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits());
        assert_eq!(odd, None, "{what}");
    }
}

/// Raw and transformed by the reader, on the CPU and on the device.
fn compare(text: &str, phase: Phase, device: Option<&CudaDevice>, what: &str) {
    let floats = tops(text, phase, None, FLOATS);
    assert_same_bits(&tops(text, phase, None, RAW), &floats, &format!("{what} on the CPU"));
    if device.is_some() {
        let there = tops(text, phase, device, RAW);
        assert_same_bits(&there, &floats, &format!("{what} on a device"));
    }
}

#[test]
fn raw_records_become_the_floats_that_a_reader_makes_of_them() {
    let device = common::cuda::device();
    let set = Set::new();
    for (channels, height, width) in [(3, 9, 7), (1, 5, 5), (2, 8, 11)] {
        let sides = vec![[channels, height, width]; 17];
        let mean = set.path(&format!("mean{channels}.binaryproto"));
        let values = channels * height * width;
        let data = (0..values).map(|i| (i as f32 * 0.37).sin() * 90.0 + 128.0).collect();
        MeanImage { shape: [channels, height, width], data }.write(&mean).unwrap();
        let many: String = (0..channels).map(|c| format!("mean_value: {}.3 ", 100 + c)).collect();
        let means = [
            String::new(),
            "mean_value: 117.7".to_owned(),
            many,
            format!("mean_file: '{}'", mean.display()),
        ];
        for kind in [Kind::Bytes, Kind::Png] {
            if matches!(kind, Kind::Png) && channels == 2 {
                continue;
            }
            let path = set.write(&sides, |_| kind);
            for mean in &means {
                for rest in ["", "crop_size: 4", "crop_size: 5 mirror: true scale: 0.017"] {
                    for phase in [Phase::Train, Phase::Test] {
                        let transform = format!("{mean} {rest}");
                        let text = layer(&path, 6, &transform);
                        let raw = raw_batch(&text, phase).raw;
                        assert_eq!(raw.cuts.len(), 6, "records are raw");
                        let what =
                            format!("{channels} x {height} x {width}, {transform}, {phase:?}");
                        compare(&text, phase, device.as_ref(), &what);
                    }
                }
            }
        }
    }
}

#[test]
fn records_of_several_sizes_are_cut_where_they_are_read() {
    let device = common::cuda::device();
    let set = Set::new();
    let sides: Vec<_> = (0..9).map(|i| [3, 6 + i % 4, 9 - i % 3]).collect();
    for kind in [Kind::Bytes, Kind::Png] {
        let text =
            layer(&set.write(&sides, |_| kind), 4, "crop_size: 6 mirror: true mean_value: 9");
        assert_eq!(raw_batch(&text, Phase::Train).raw.pixels.len(), 4 * 3 * 36);
        compare(&text, Phase::Train, device.as_ref(), "several sizes");
    }
}

#[test]
fn a_batch_with_floats_is_one_of_floats() {
    let device = common::cuda::device();
    let set = Set::new();
    let sides = [[2, 4, 5]; 8];
    let transform = "crop_size: 3 mirror: true scale: 0.3";
    // All of them, and one in the second batch.
    let floats = layer(&set.write(&sides, |_| Kind::Floats), 4, transform);
    let one = set.write(&sides, |i| if i == 6 { Kind::Floats } else { Kind::Bytes });
    let one = layer(&one, 4, transform);
    for text in [&floats, &one] {
        compare(text, Phase::Train, device.as_ref(), "with floats");
    }
    assert!(raw_batch(&floats, Phase::Train).raw.is_empty());
    assert!(!raw_batch(&one, Phase::Train).raw.is_empty());
}

/// Weights after a few iterations on a device, with records raw or not.
fn trained(set: &Set, source: &Path, device: &CudaDevice, raw: bool) -> Vec<f32> {
    let net = set.path("net.prototxt");
    let data = layer(source, 5, "crop_size: 24 mirror: true mean_value: 120 scale: 0.0078125");
    let layers = "
layer { name: 'conv' type: 'Convolution' bottom: 'data' top: 'conv'
  convolution_param { num_output: 4 kernel_size: 5 stride: 3 weight_filler { type: 'xavier' } } }
layer { name: 'relu' type: 'ReLU' bottom: 'conv' top: 'conv' }
layer { name: 'ip' type: 'InnerProduct' bottom: 'conv' top: 'ip'
  inner_product_param { num_output: 10 weight_filler { type: 'xavier' } } }
layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }";
    std::fs::write(&net, data + layers).unwrap();
    let text =
        format!("train_net: '{}' base_lr: 0.01 momentum: 0.9 lr_policy: 'fixed'", net.display());
    let param: SolverParameter = caffe_proto::text::parse("solver", &text).unwrap();
    let nets = NetPlans::read(&param, 0, &[]).unwrap();
    let options = SolverOptions { cuda: Some(device.clone()), ..SolverOptions::new(1, 1) };
    let mut solver = Solver::new(&param, &nets, &options).unwrap();
    let mut feeds = Feeds::open(&nets, if raw { RAW } else { FLOATS }).unwrap();
    for iter in 0..4 {
        let step = Step { iter, first_record: feeds.first_record(iter) };
        let batches = feeds.train(iter).unwrap();
        assert_eq!(batches[0].raw.is_empty(), !raw);
        solver.clear_gradient();
        solver.forward_backward(batches, step, &mut Unwatched).unwrap();
        solver.update(iter).unwrap();
    }
    let store = solver.train_net().store();
    let data = &store.blobs[solver.train_net().blob("data").unwrap()];
    assert_eq!(store.slabs[data.data].reorders(), 0, "records were converted");
    solver.net().params().data().unwrap().to_vec()
}

#[test]
fn a_device_learns_the_same_from_bytes_as_from_floats() {
    let set = Set::new();
    let source = set.write(&[[3, 32, 32]; 20], |_| Kind::Bytes);
    let mut all = Vec::new();
    // The kernels make what the convolution reads: f32 and 16 bits, in both orders.
    for math in [Math::F32, Math::Bf16] {
        for order in [Order::Plain, Order::ChannelsLast] {
            let Some(device) = common::cuda::device_in(math, order) else { return };
            let [bytes, floats] = [true, false].map(|raw| trained(&set, &source, &device, raw));
            assert!(floats.iter().all(|w| w.is_finite()));
            assert_same_bits(std::slice::from_ref(&bytes), &[floats], "weights");
            all.push(bytes);
        }
    }
    for (other, allowed) in [(1, 1e-5), (2, 2e-2), (3, 2e-2)] {
        let off = all[0].iter().zip(&all[other]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off <= allowed, "{other}: {off}");
    }
}
