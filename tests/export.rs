//! Weights out and in again, and nets as ONNX, which onnxruntime has to compute alike.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use caffe::export::{Array, Weights, npz, onnx, safetensors};
use caffe::net::{Net, NetOptions, Origin};
use caffe::rng::Philox;
use caffe_proto::{NetParameter, Phase, net_from_file, read_binary_file};

use common::net_of;

fn weights() -> Weights {
    let array = |name: &str, shape: &[usize]| Array {
        name: name.into(),
        shape: shape.to_vec(),
        values: (0..shape.iter().product::<usize>()).map(|i| i as f32 / 8.0 - 1.0).collect(),
    };
    let arrays = vec![
        array("conv1/0", &[4, 3, 2, 2]),
        array("conv1/1", &[4]),
        array("inception/1x1/0", &[1, 5]),
    ];
    Weights { arrays }
}

fn caffe(args: &[&Path]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_caffe")).args(args).output().unwrap()
}

#[test]
fn arrays_come_back_from_both_formats() {
    let folder = tempfile::tempdir().unwrap();
    let (st, z) = (folder.path().join("w.safetensors"), folder.path().join("w.npz"));
    safetensors::write(&st, &weights()).unwrap();
    npz::write(&z, &weights()).unwrap();
    assert_eq!(safetensors::read(&st).unwrap(), weights());
    assert_eq!(npz::read(&z).unwrap(), weights());
}

#[test]
fn export_and_import_turn_a_model_round() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let model = weights().into_model(None).unwrap();
    caffe_proto::write_binary_file_atomic(path("a.caffemodel"), &model).unwrap();
    for ending in ["npz", "safetensors"] {
        let (arrays, back) = (path(&format!("a.{ending}")), path("b.caffemodel"));
        let words = [Path::new("export"), Path::new("-weights"), &path("a.caffemodel"), &arrays];
        let output = caffe(&words);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(caffe(&[Path::new("import"), &arrays, &back]).status.success());
        let read: NetParameter = read_binary_file(&back).unwrap();
        assert_eq!(read, model, "{ending}");
    }
}

#[test]
fn damaged_and_foreign_files_are_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    safetensors::write(&path("good.safetensors"), &weights()).unwrap();
    npz::write(&path("good.npz"), &weights()).unwrap();
    for (name, words) in [
        ("good.safetensors", "no safetensors file, or a damaged one"),
        ("good.npz", "no .npz file, or a damaged one"),
    ] {
        let good = std::fs::read(path(name)).unwrap();
        for keep in [0, 4, good.len() / 2, good.len() - 1] {
            std::fs::write(path("cut"), &good[..keep]).unwrap();
            let output = caffe(&[Path::new("import"), &path("cut"), &path("out.caffemodel")]);
            let log = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{name} cut to {keep}: {log}");
            assert!(log.contains("cut: "), "{log}");
            assert!(keep < 4 || log.contains(words), "{name} cut to {keep}: {log}");
            assert!(!path("out.caffemodel").exists());
        }
    }
}

/// What Python's own packages see.
#[test]
fn python_reads_what_we_write() {
    let script = "import sys, numpy, safetensors.numpy\n\
        a = numpy.load(sys.argv[1]); b = safetensors.numpy.load_file(sys.argv[2])\n\
        assert sorted(a) == sorted(b), (list(a), list(b))\n\
        for k in a: assert a[k].dtype == b[k].dtype == 'float32' and (a[k] == b[k]).all(), k\n\
        print(a['conv1/0'].shape, a['conv1/1'].tolist())";
    let Some(python) = common::python("numpy, safetensors.numpy") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (st, z) = (folder.path().join("w.safetensors"), folder.path().join("w.npz"));
    safetensors::write(&st, &weights()).unwrap();
    npz::write(&z, &weights()).unwrap();
    assert_eq!(python.run(script, &[&z, &st]).trim(), "(4, 3, 2, 2) [-1.0, -0.875, -0.75, -0.625]");
}

/// Runs an exported net with onnxruntime on the inputs in an .npz and compares its outputs.
const COMPARE: &str = "
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])
given = numpy.load(sys.argv[2])
wanted = {k[4:]: given[k] for k in given if k.startswith('out/')}
got = session.run(list(wanted), {k[3:]: given[k] for k in given if k.startswith('in/')})
worst = 0
for (name, w), g in zip(wanted.items(), got):
    assert w.shape == g.shape, (name, w.shape, g.shape)
    worst = max(worst, float(abs(w - g).max() / max(1e-3, abs(w).max())))
print(worst)
";

/// Fills a net with weights and inputs, exports it, and lets onnxruntime compute it.
fn compare(mut net: Net, name: &str) {
    let Some(python) = common::python("numpy, onnxruntime") else { return };
    let folder = tempfile::tempdir().unwrap();
    let (model, values) = (folder.path().join("net.onnx"), folder.path().join("values.npz"));
    let mut numbers = Philox::new(7, 1).sequence();
    for id in 0..net.arena().params().len() {
        let param = net.arena().params()[id].clone();
        // BatchNorm's mean, variance and weight want to be positive.
        let fan = (param.range.len() / param.shape.dims().first().copied().unwrap_or(1)).max(1);
        let spread = (1.0 / fan as f64).sqrt();
        let mut value = || match param.maintained {
            true => 0.5 + numbers.uniform_f32(),
            false => (numbers.normal() * spread) as f32,
        };
        let values: Vec<f32> = param.range.clone().map(|_| value()).collect();
        net.params().set_values(id, &values).unwrap();
    }
    let mut arrays = Vec::new();
    for id in net.inputs().to_vec() {
        let data = net.data_mut(id).unwrap();
        data.iter_mut().for_each(|value| *value = numbers.normal() as f32);
        arrays.push(array(&mut net, "in", id));
    }
    net.forward().unwrap();
    for id in net.outputs().to_vec() {
        arrays.push(array(&mut net, "out", id));
    }
    onnx::write(&model, &mut net).unwrap();
    npz::write(&values, &Weights { arrays }).unwrap();
    let worst: f32 = python.run(COMPARE, &[&model, &values]).trim().parse().unwrap();
    println!("{name}: onnxruntime differs by {worst} at most");
    assert!(worst < 1e-4, "{name}: onnxruntime differs by {worst}");
}

fn array(net: &mut Net, what: &str, id: usize) -> Array {
    let blob = &net.store().blobs[id];
    let (name, shape) = (format!("{what}/{}", blob.name), blob.shape.dims().to_vec());
    Array { name, shape, values: net.data(id).unwrap().to_vec() }
}

fn options() -> NetOptions {
    NetOptions { keep_all: true, ..NetOptions::new(Phase::Test) }
}

/// An example's net, for one image.
fn example(path: &str) -> Net {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples").join(path);
    let mut net = net_from_file(&path).unwrap().net;
    for layer in &mut net.layer {
        let shapes = layer.input_param.iter_mut().flat_map(|p| &mut p.shape);
        shapes.for_each(|shape| shape.dim[0] = 1);
    }
    Net::new(&net, &Origin::default(), &options()).unwrap()
}

#[test]
fn onnxruntime_computes_lenet_alike() {
    compare(example("mnist/lenet.prototxt"), "LeNet");
}

#[test]
fn onnxruntime_computes_cifar10_quick_alike() {
    compare(example("cifar10/cifar10_quick.prototxt"), "cifar10_quick");
}

#[test]
fn onnxruntime_computes_squeezed_examples_alike() {
    // The examples' own structure on smaller images, so that it is quick without optimization.
    for (path, name) in
        [("googlenet/deploy.prototxt", "GoogLeNet"), ("resnet50/deploy.prototxt", "ResNet-50")]
    {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples").join(path);
        let mut net = net_from_file(&path).unwrap().net;
        for layer in &mut net.layer {
            for shape in layer.input_param.iter_mut().flat_map(|p| &mut p.shape) {
                shape.dim = vec![1, 3, 64, 64];
            }
            if let Some(pool) = layer.pooling_param.as_mut()
                && pool.kernel_size() == 7
            {
                **pool = caffe_proto::PoolingParameter {
                    pool: pool.pool,
                    global_pooling: Some(true),
                    ..Default::default()
                };
            }
        }
        compare(Net::new(&net, &Origin::default(), &options()).unwrap(), name);
    }
}

#[test]
fn onnxruntime_computes_every_kind_of_pooling_alike() {
    for image in [7, 8, 9] {
        let mut text = format!(
            "layer {{ name: 'in' type: 'Input' top: 'x' \
               input_param {{ shape {{ dim: [2, 3, {image}, 9] }} }} }}"
        );
        for (kernel, stride, pad) in
            [(2, 2, 0), (3, 2, 0), (3, 2, 1), (2, 2, 1), (3, 3, 2), (3, 1, 1)]
        {
            for (pool, round) in
                [("MAX", "CEIL"), ("AVE", "CEIL"), ("MAX", "FLOOR"), ("AVE", "FLOOR")]
            {
                let name = format!("{pool}_{round}_{kernel}_{stride}_{pad}");
                text += &format!(
                    "layer {{ name: '{name}' type: 'Pooling' bottom: 'x' top: '{name}' \
                       pooling_param {{ pool: {pool} kernel_size: {kernel} stride: {stride} \
                         pad: {pad} round_mode: {round} }} }}"
                );
            }
        }
        compare(net_of(&text, &options()).unwrap(), &format!("pooling of {image} x 9"));
    }
}

#[test]
fn onnxruntime_computes_the_other_layers_alike() {
    let text = "
        layer { name: 'in' type: 'Input' top: 'x' input_param { shape { dim: [2, 4, 6, 5] } } }
        layer { name: 'dc' type: 'Deconvolution' bottom: 'x' top: 'dc' convolution_param {
                num_output: 6 kernel_size: 3 stride: 2 pad: 1 group: 2 } }
        layer { name: 'cv' type: 'Convolution' bottom: 'dc' top: 'cv' convolution_param {
                num_output: 4 kernel_h: 3 kernel_w: 2 dilation: 2 bias_term: false } }
        layer { name: 'bn' type: 'BatchNorm' bottom: 'cv' top: 'cv' }
        layer { name: 'sc' type: 'Scale' bottom: 'cv' top: 'cv' scale_param { bias_term: true } }
        layer { name: 'leaky' type: 'ReLU' bottom: 'cv' top: 'cv' relu_param { negative_slope: 0.1 } }
        layer { name: 'lrn' type: 'LRN' bottom: 'cv' top: 'lrn' lrn_param { local_size: 3 alpha: 0.5 k: 2 } }
        layer { name: 'sig' type: 'Sigmoid' bottom: 'lrn' top: 'sig' }
        layer { name: 'tanh' type: 'TanH' bottom: 'sig' top: 'tanh' }
        layer { name: 'bias' type: 'Bias' bottom: 'tanh' top: 'bias' bias_param { axis: 1 num_axes: 2 } }
        layer { name: 'pow' type: 'Power' bottom: 'bias' top: 'pow' power_param { power: 2 scale: 0.5 shift: 3 } }
        layer { name: 'sum' type: 'Eltwise' bottom: 'pow' bottom: 'lrn' top: 'sum'
                eltwise_param { coeff: 0.25 coeff: -1 } }
        layer { name: 'prod' type: 'Eltwise' bottom: 'sum' bottom: 'lrn' bottom: 'pow' top: 'prod'
                eltwise_param { operation: PROD } }
        layer { name: 'max' type: 'Eltwise' bottom: 'sum' bottom: 'lrn' top: 'max' eltwise_param { operation: MAX } }
        layer { name: 'slice' type: 'Slice' bottom: 'max' top: 's0' top: 's1' slice_param { slice_point: 1 } }
        layer { name: 'cat' type: 'Concat' bottom: 's1' bottom: 's0' bottom: 'prod' top: 'cat' }
        layer { name: 'drop' type: 'Dropout' bottom: 'cat' top: 'dropped' }
        layer { name: 'softmax' type: 'Softmax' bottom: 'dropped' top: 'softmax' softmax_param { axis: 2 } }
        layer { name: 'rows' type: 'InnerProduct' bottom: 'softmax' top: 'rows'
                inner_product_param { num_output: 3 axis: -1 transpose: true } }
        layer { name: 'flat' type: 'Flatten' bottom: 'rows' top: 'flat' }
        layer { name: 're' type: 'Reshape' bottom: 'flat' top: 're' reshape_param { shape { dim: 0 dim: 3 dim: -1 } } }
        layer { name: 'by' type: 'Scale' bottom: 're' bottom: 're' top: 'by' scale_param { axis: 0 } }
        layer { name: 'prelu' type: 'PReLU' bottom: 'x' top: 'prelu' }
        layer { name: 'shared' type: 'PReLU' bottom: 'x' top: 'shared' prelu_param { channel_shared: true } }
        layer { name: 'elu' type: 'ELU' bottom: 'x' top: 'elu' elu_param { alpha: 0.5 } }
        layer { name: 'abs' type: 'AbsVal' bottom: 'x' top: 'abs' }
        layer { name: 'bnll' type: 'BNLL' bottom: 'x' top: 'bnll' }
        layer { name: 'swish' type: 'Swish' bottom: 'x' top: 'swish' swish_param { beta: 1.5 } }
        layer { name: 'clip' type: 'Clip' bottom: 'x' top: 'clip' clip_param { min: -0.5 max: 0.25 } }
        layer { name: 'exp' type: 'Exp' bottom: 'clip' top: 'exp' exp_param { base: 3 scale: 0.5 shift: 0.25 } }
        layer { name: 'log' type: 'Log' bottom: 'exp' top: 'log' log_param { base: 10 scale: 2 shift: 1 } }
        layer { name: 'last' type: 'Dropout' bottom: 'by' top: 'y' }";
    compare(net_of(text, &options()).unwrap(), "other layers");
}

#[test]
fn what_onnx_cannot_say_is_refused_by_name() {
    let input = "layer { name: 'in' type: 'Input' top: 'x' top: 'l'
                 input_param { shape { dim: [2, 4, 6, 6] } shape { dim: 2 } } }";
    for (layer, words) in [
        (
            "name: 'p' type: 'Pooling' bottom: 'x' top: 'y' top: 'm' pooling_param { kernel_size: 2 }",
            "the mask",
        ),
        (
            "name: 'n' type: 'LRN' bottom: 'x' top: 'y' lrn_param { norm_region: WITHIN_CHANNEL }",
            "WITHIN_CHANNEL",
        ),
        (
            "name: 'b' type: 'BatchNorm' bottom: 'x' top: 'y' batch_norm_param { use_global_stats: false }",
            "use_global_stats",
        ),
        ("name: 's' type: 'SoftmaxWithLoss' bottom: 'x' bottom: 'l' top: 'y'", "deploy form"),
        (
            "name: 'd' type: 'DummyData' top: 'y' dummy_data_param { shape { dim: 1 } }",
            "no data layers",
        ),
    ] {
        let flat = "layer { name: 'f' type: 'InnerProduct' bottom: 'x' top: 'xf' inner_product_param { num_output: 2 } }";
        let layer = layer.replace("bottom: 'x' bottom: 'l'", "bottom: 'xf' bottom: 'l'");
        let flat = if layer.contains("'xf'") { flat } else { "" };
        let text = format!("{input} {flat} layer {{ {layer} }}");
        let mut net = net_of(&text, &options()).unwrap();
        let error = onnx::model_of(&mut net).unwrap_err().to_string();
        let name = layer.split('\'').nth(1).unwrap();
        assert!(error.contains(words) && error.contains(&format!("layer `{name}`")), "{error}");
    }
}

#[test]
fn the_command_writes_onnx_and_says_what_it_misses() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let deploy = "layer { name: 'in' type: 'Input' top: 'x' input_param { shape { dim: [1, 2] } } }
                  layer { name: 'ip' type: 'InnerProduct' bottom: 'x' top: 'y' inner_product_param { num_output: 2 } }";
    std::fs::write(path("deploy.prototxt"), deploy).unwrap();
    let model = net_of(deploy, &options()).unwrap().to_proto().unwrap();
    caffe_proto::write_binary_file_atomic(path("w.caffemodel"), &model).unwrap();
    let export = |weights: &str, more: &[&Path], out: &str| {
        let mut words = vec![Path::new("export"), Path::new("-weights")];
        let (weights, out) = (path(weights), path(out));
        words.push(&weights);
        words.extend(more);
        words.push(&out);
        let output = caffe(&words);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let net = [Path::new("-model"), &path("deploy.prototxt")];
    assert_eq!(export("w.caffemodel", &net, "net.onnx").0, Some(0));
    assert!(path("net.onnx").metadata().unwrap().len() > 50);
    for (more, out, words) in [
        (&[][..], "b.onnx", "give its deploy form with -model"),
        (&[], "b.weights", "its name says no format"),
        (&net[..], "b.npz", "-model is for ONNX"),
    ] {
        let (code, log) = export("w.caffemodel", more, out);
        assert!(code == Some(1) && log.contains(words), "{log}");
        assert!(!path(out).exists());
    }
    let mut other = model.clone();
    other.layer[1].name = Some("other".into());
    caffe_proto::write_binary_file_atomic(path("o.caffemodel"), &other).unwrap();
    let (code, log) = export("o.caffemodel", &net, "c.onnx");
    assert!(code == Some(1) && log.contains("has no weights for layer `ip`"), "{log}");
}
