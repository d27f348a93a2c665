//! The example models: every net builds in every state its solvers ask for, with the published
//! number of weights and the published shapes; every script names a solver that is there.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use caffe::blob::Shape;
use caffe::device::cuda::CudaDevice;
use caffe::device::cuda::meter::Meter;
use caffe::filler::{self, Key};
use caffe::net::{Net, NetOptions, Unwatched};
use caffe::solver::{LrPolicy, NetPlan, NetPlans, rules};
use caffe_proto::{
    BlobShape, FillerParameter, InputParameter, LayerParameter, NetState, Phase, net_from_file,
    solver_from_file,
};

/// A net, its learned weights, and shapes of some blobs without the batch.
type Fact = (&'static str, usize, &'static [(&'static str, &'static [usize])]);

/// Each count is a sum over layers, which anybody can do by hand: inputs ÷ groups × outputs + biases.
/// Where others give numbers, these agree: 138 million for VGG-16 (Simonyan and Zisserman, 2014,
/// Table 2), 240 MB for AlexNet (Iandola and others, 2016, Table 2), and torchvision's `vgg16`
/// (138.36 million), `resnet50` (25,557,032: it has no bias in `conv1`, the published Caffe net has
/// 64) and `squeezenet1_1` (1.24 million). Spatial sizes are those of the papers' tables.
const FACTS: &[Fact] = &[
    ("mnist/lenet_train_test", 431_080, &[("pool2", &[50, 4, 4]), ("ip2", &[10])]),
    ("mnist/lenet", 431_080, &[("pool1", &[20, 12, 12]), ("prob", &[10])]),
    ("mnist/mnist_autoencoder", 2_837_314, &[("encode4", &[30]), ("decode1neuron", &[784])]),
    ("mnist/mnist_siamese_train_test", 431_102, &[("feat", &[2]), ("feat_p", &[2]), ("sim", &[])]),
    ("mnist/mnist_siamese", 431_102, &[("ip2", &[10]), ("feat", &[2])]),
    ("cifar10/cifar10_quick_train_test", 145_578, &[("pool3", &[64, 4, 4]), ("ip2", &[10])]),
    ("cifar10/cifar10_quick", 145_578, &[("prob", &[10])]),
    ("cifar10/cifar10_full_train_test", 89_578, &[("norm2", &[32, 8, 8]), ("ip1", &[10])]),
    ("cifar10/cifar10_full", 89_578, &[("pool3", &[64, 4, 4]), ("prob", &[10])]),
    ("cifar10/cifar10_full_sigmoid_train_test", 89_578, &[("pool3", &[64, 4, 4])]),
    ("cifar10/cifar10_full_sigmoid", 89_578, &[("prob", &[10])]),
    ("cifar10/cifar10_full_sigmoid_bn_train_test", 89_450, &[("bn1", &[32, 16, 16])]),
    ("cifar10/cifar10_full_sigmoid_bn", 89_450, &[("prob", &[10])]),
    ("alexnet/train_val", 60_965_224, &[("conv1", &[96, 55, 55]), ("pool5", &[256, 6, 6])]),
    ("alexnet/deploy", 60_965_224, &[("prob", &[1000])]),
    ("caffenet/train_val", 60_965_224, &[("pool1", &[96, 27, 27]), ("pool5", &[256, 6, 6])]),
    ("caffenet/deploy", 60_965_224, &[("prob", &[1000])]),
    (
        "googlenet/train_val",
        13_378_280,
        &[("inception_3a/output", &[256, 28, 28]), ("pool5/7x7_s1", &[1024, 1, 1])],
    ),
    ("googlenet/deploy", 6_998_552, &[("inception_5b/output", &[1024, 7, 7]), ("prob", &[1000])]),
    ("resnet50/train_val", 25_557_096, &[("res5c", &[2048, 7, 7]), ("fc1000", &[1000])]),
    ("resnet50/deploy", 25_557_096, &[("res2a", &[256, 56, 56]), ("prob", &[1000])]),
    ("vgg16/train_val", 138_357_544, &[("pool5", &[512, 7, 7]), ("fc8", &[1000])]),
    ("vgg16/deploy", 138_357_544, &[("conv3_3", &[256, 56, 56]), ("prob", &[1000])]),
    (
        "squeezenet/train_val",
        1_235_496,
        &[("fire9/concat", &[512, 14, 14]), ("pool10", &[1000, 1, 1])],
    ),
    ("squeezenet/deploy", 1_235_496, &[("conv1", &[64, 113, 113]), ("prob", &[1000, 1, 1])]),
    ("hdf5_classification/hidden_train_test", 282, &[("fc1", &[40]), ("fc2", &[2])]),
    ("hdf5_classification/logistic_train_test", 10, &[("fc1", &[2])]),
    ("hdf5_classification/make_data", 0, &[("train_data", &[4]), ("test_label", &[1])]),
    ("finetune/train_val", 56_950_164, &[("pool5", &[256, 6, 6]), ("fc8_flickr", &[20])]),
    ("finetune/deploy", 56_950_164, &[("prob", &[20])]),
];

/// Extents of a record of the nets in a folder, as their readers would give it.
fn record(net: &str) -> Vec<i64> {
    match net.split('/').next().unwrap() {
        "mnist" => vec![1, 28, 28],
        "cifar10" => vec![3, 32, 32],
        "hdf5_classification" => vec![4],
        "googlenet" | "resnet50" | "vgg16" => vec![3, 224, 224],
        _ => vec![3, 227, 227],
    }
}

/// The prototxt files in `examples/`, from the repository's root.
fn prototxts() -> Vec<PathBuf> {
    let files = |folder: PathBuf| std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let folders = files("examples".into()).filter(|path| path.is_dir());
    let mut found: Vec<PathBuf> = folders
        .flat_map(files)
        .filter(|path| path.extension().is_some_and(|e| e == "prototxt"))
        .collect();
    found.sort();
    found
}

fn is_solver(path: &Path) -> bool {
    path.file_stem().unwrap().to_string_lossy().contains("solver")
}

/// `examples/a/b.prototxt` → `a/b`.
fn name_of(file: &str) -> String {
    file.trim_start_matches("examples/").trim_end_matches(".prototxt").to_owned()
}

/// Builds a net without its databases, for one record: readers become inputs of the shapes they
/// would give. Weights stay zero: drawing 138 million numbers would take longer than all else.
fn build(name: &str, plan: &NetPlan) -> Net {
    build_on(name, plan, None)
}

/// The same on a device.
fn build_on(name: &str, plan: &NetPlan, cuda: Option<CudaDevice>) -> Net {
    let mut param = plan.param.clone();
    for layer in &mut param.layer {
        if ["Data", "ImageData", "HDF5Data"].contains(&layer.r#type()) {
            let image = [vec![1], record(name)].concat();
            let shape = [image, vec![1]].map(|dim| BlobShape { dim });
            let shape = shape.into_iter().take(layer.top.len()).collect();
            *layer = LayerParameter {
                r#type: Some("Input".into()),
                input_param: Some(Box::new(InputParameter { shape })),
                data_param: None,
                image_data_param: None,
                hdf5_data_param: None,
                transform_param: None,
                ..layer.clone()
            };
        }
        // The deploy nets: one record instead of ten.
        for shape in layer.input_param.iter_mut().flat_map(|input| &mut input.shape) {
            shape.dim[0] = 1;
        }
        for filler in fillers(layer) {
            let mut values = [0.0; 36];
            let key = Key { seed: 1, layer: 0, blob: 0 };
            filler::fill(filler, &Shape::new(vec![2, 2, 3, 3]), key, &mut values).unwrap();
            *filler = FillerParameter::default();
        }
    }
    let phase = plan.state.phase();
    let state = plan.state.clone();
    let options = NetOptions { state, exact: true, cuda, ..NetOptions::new(phase) };
    Net::new(&param, &plan.origin, &options).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn fillers(layer: &mut LayerParameter) -> Vec<&mut FillerParameter> {
    let mut found = Vec::new();
    if let Some(p) = layer.convolution_param.as_mut() {
        found.extend(p.weight_filler.as_mut().into_iter().chain(p.bias_filler.as_mut()));
    }
    if let Some(p) = layer.inner_product_param.as_mut() {
        found.extend(p.weight_filler.as_mut().into_iter().chain(p.bias_filler.as_mut()));
    }
    found
}

/// Compares a net with what is published about it.
fn check(name: &str, net: &Net) {
    let fact = FACTS.iter().find(|(known, ..)| *known == name);
    let Some((_, weights, blobs)) = fact else {
        panic!("examples/{name}.prototxt has no line in FACTS");
    };
    let learned = net.arena().params().iter().filter(|p| !p.maintained);
    assert_eq!(learned.map(|p| p.shape.count()).sum::<usize>(), *weights, "weights of {name}");
    for (blob, dims) in *blobs {
        let id = net.blob(blob).unwrap();
        assert_eq!(&net.store().blobs[id].shape.dims()[1..], *dims, "{blob} of {name}");
    }
}

#[test]
fn every_net_builds_in_all_its_states_with_the_published_numbers() {
    let mut built = BTreeSet::new();
    for path in prototxts().into_iter().filter(|path| is_solver(path)) {
        let solver = solver_from_file(&path).unwrap().solver;
        LrPolicy::new(&solver).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        rules::rule_for(&solver).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let plans = NetPlans::read(&solver, 0, &[]).unwrap();
        assert!(!plans.test.is_empty(), "{} tests nothing", path.display());
        for plan in [plans.train].iter().chain(&plans.test) {
            let name = name_of(&plan.origin.file);
            if built.insert((name.clone(), format!("{:?}", plan.state))) {
                check(&name, &build(&name, plan));
            }
        }
    }
    let trained: BTreeSet<String> = built.into_iter().map(|(name, _)| name).collect();
    for path in prototxts().into_iter().filter(|path| !is_solver(path)) {
        let name = name_of(&path.to_string_lossy());
        let writes_hdf5 = name.ends_with("make_data");
        if trained.contains(&name) || (writes_hdf5 && !cfg!(feature = "hdf5")) {
            continue;
        }
        let state = NetState { phase: Some(Phase::Test as i32), ..Default::default() };
        let param = net_from_file(&path).unwrap().net;
        check(&name, &build(&name, &NetPlan { param, origin: Default::default(), state }));
    }
}

/// Passes of the example nets are CUDA graphs but where a layer looks at something on the host.
#[test]
fn training_passes_are_graphs() {
    let mut others = BTreeSet::new();
    for path in prototxts().into_iter().filter(|path| is_solver(path)) {
        let solver = solver_from_file(&path).unwrap().solver;
        let plan = NetPlans::read(&solver, 0, &[]).unwrap().train;
        let name = name_of(&plan.origin.file);
        let device = CudaDevice(Rc::new(Meter::default()));
        let mut net = build_on(&name, &plan, Some(device));
        net.set_graphs(true);
        for _ in 0..30 {
            net.clear_param_diffs();
            net.pass_watched(&mut Unwatched).unwrap();
            if net.about_graphs().is_some() {
                break;
            }
        }
        let about = net.about_graphs().unwrap();
        println!("{name}: {about}");
        if !about.starts_with("a pass is a CUDA graph of ") {
            others.insert(format!("{name}: {about}"));
        }
    }
    let siamese = "mnist/mnist_siamese_train_test: passes are no CUDA graphs: a layer looks at its bottom on \
                   the host";
    assert_eq!(others, [siamese.to_owned()].into());
}

#[test]
fn every_fact_is_about_a_file() {
    for (name, ..) in FACTS {
        assert!(Path::new(&format!("examples/{name}.prototxt")).exists(), "{name}");
    }
}

/// Runs a script with `echo` in the place of the program; returns the command lines it would run.
fn commands(script: &Path, args: &[&str]) -> String {
    let mut command = Command::new(script);
    command.args(args).env("CAFFE", "echo").env_remove("SLURM_JOB_ID").env_remove("NODES");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}: {output:?}", script.display());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_folder_has_a_page_and_a_script_that_names_solvers_that_are_there() {
    let folders: BTreeSet<PathBuf> =
        prototxts().iter().map(|p| p.parent().unwrap().to_owned()).collect();
    for folder in folders {
        let page = std::fs::read_to_string(folder.join("README.md")).unwrap();
        assert!(page.contains("train.sh") && page.contains("srun"), "{}", folder.display());
        let words: &[&str] = match folder.file_name().unwrap().to_str().unwrap() {
            "mnist" => {
                &["adam", "rmsprop", "adadelta", "nesterov", "multistep", "autoencoder", "siamese"]
            }
            "cifar10" => &["quick", "full", "full_sigmoid", "full_sigmoid_bn"],
            "hdf5_classification" => &["hidden", "logistic"],
            // What finetune starts from.
            "finetune" => &["some.caffemodel"],
            _ => &[],
        };
        let script = folder.join("train.sh");
        let plain =
            if folder.ends_with("finetune") { vec![] } else { vec![commands(&script, &[])] };
        let named = words.iter().map(|word| commands(&script, &[word, "--mode=sync"]));
        for text in plain.into_iter().chain(named) {
            let solvers: Vec<&str> =
                text.split_whitespace().filter_map(|word| word.strip_prefix("--solver=")).collect();
            assert!(!solvers.is_empty(), "{} starts no training: {text}", script.display());
            for solver in solvers {
                assert!(Path::new(solver).exists(), "{} names {solver}", script.display());
            }
        }
    }
}
