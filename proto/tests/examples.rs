//! The example nets and solvers: they load, fit together, and are the published ones.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
#[path = "common/shapes.rs"]
mod shapes;

use std::{fs, path::Path};

use caffe_proto::{
    NetParameter, Phase, SolverParameter, net_from_file, solver_from_file,
    solver_parameter::SolverMode,
};
use common::{is_solver, prototxts, root};
use shapes::weights;

const FOLDERS: [&str; 10] = [
    "alexnet",
    "caffenet",
    "cifar10",
    "finetune",
    "googlenet",
    "hdf5_classification",
    "mnist",
    "resnet50",
    "squeezenet",
    "vgg16",
];

fn net(path: &str) -> NetParameter {
    net_from_file(root().join("examples").join(path)).unwrap_or_else(|error| panic!("{error}")).net
}

fn solver(path: &str) -> SolverParameter {
    let file = solver_from_file(root().join("examples").join(path));
    file.unwrap_or_else(|error| panic!("{error}")).solver
}

#[test]
fn all_load_and_need_no_upgrade() {
    let mut nets = 0;
    for folder in FOLDERS {
        let folder = root().join("examples").join(folder);
        assert!(folder.join("README.md").is_file(), "{}", folder.display());
        for path in prototxts(&folder) {
            let changes = if is_solver(&path) {
                solver_from_file(&path).unwrap_or_else(|error| panic!("{error}")).changes
            } else {
                nets += 1;
                let file = net_from_file(&path).unwrap_or_else(|error| panic!("{error}"));
                assert!(file.net.layer.len() >= 5);
                assert_eq!(file.line(file.net.layer.len()), None);
                file.changes
            };
            assert_eq!(changes, [], "{}", path.display());
        }
    }
    assert_eq!(nets, 30);
}

#[test]
fn solvers_name_their_nets_and_stay_in_their_folders() {
    for path in FOLDERS.iter().flat_map(|folder| prototxts(&root().join("examples").join(folder))) {
        if !is_solver(&path) {
            continue;
        }
        let solver = solver_from_file(&path).unwrap().solver;
        assert!(root().join(solver.net()).is_file(), "{}", path.display());
        let folder = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
        for named in [solver.net(), solver.snapshot_prefix()] {
            assert_eq!(Path::new(named).parent(), Some(&*Path::new("examples").join(folder)));
        }
        assert_eq!(solver.solver_mode(), SolverMode::Cpu);
        assert_eq!(solver.test_iter.len(), solver.test_state.len().max(1));
    }
}

#[test]
fn every_example_has_its_published_size() {
    let cases: [(&str, [u32; 3], u64); 14] = [
        ("cifar10/cifar10_quick_train_test.prototxt", [3, 32, 32], 145_578),
        ("cifar10/cifar10_quick.prototxt", [3, 32, 32], 145_578),
        ("cifar10/cifar10_full_train_test.prototxt", [3, 32, 32], 89_578),
        ("cifar10/cifar10_full.prototxt", [3, 32, 32], 89_578),
        ("mnist/lenet_train_test.prototxt", [1, 28, 28], 431_080),
        ("mnist/lenet.prototxt", [1, 28, 28], 431_080),
        ("alexnet/train_val.prototxt", [3, 256, 256], 60_965_224),
        ("alexnet/deploy.prototxt", [3, 256, 256], 60_965_224),
        ("caffenet/train_val.prototxt", [3, 256, 256], 60_965_224),
        ("caffenet/deploy.prototxt", [3, 256, 256], 60_965_224),
        ("googlenet/train_val.prototxt", [3, 256, 256], 13_378_280),
        ("googlenet/deploy.prototxt", [3, 256, 256], 6_998_552),
        ("resnet50/train_val.prototxt", [3, 256, 256], 25_557_096),
        ("resnet50/deploy.prototxt", [3, 256, 256], 25_557_096),
    ];
    for (path, record, count) in cases {
        let net = net(path);
        for phase in [Phase::Train, Phase::Test] {
            assert_eq!(weights(&net, phase, record).0, count, "{path}");
        }
        // The header says the same number to people.
        if !path.contains("deploy") && path.contains("train") {
            let text = fs::read_to_string(root().join("examples").join(path)).unwrap();
            let said = text.replace(',', "");
            assert!(said.contains(&count.to_string()), "{path}");
        }
    }
}

#[test]
fn googlenet_has_its_published_shapes() {
    let blobs = weights(&net("googlenet/train_val.prototxt"), Phase::Test, [3, 256, 256]).1;
    for (blob, shape) in [
        ("data", [3, 224, 224]),
        ("conv1/7x7_s2", [64, 112, 112]),
        ("pool1/3x3_s2", [64, 56, 56]),
        ("conv2/3x3", [192, 56, 56]),
        ("pool2/3x3_s2", [192, 28, 28]),
        ("inception_3a/output", [256, 28, 28]),
        ("inception_3b/output", [480, 28, 28]),
        ("inception_4a/output", [512, 14, 14]),
        ("inception_4d/output", [528, 14, 14]),
        ("inception_4e/output", [832, 14, 14]),
        ("inception_5b/output", [1024, 7, 7]),
        ("pool5/7x7_s1", [1024, 1, 1]),
        ("loss1/ave_pool", [512, 4, 4]),
        ("loss2/ave_pool", [528, 4, 4]),
    ] {
        assert_eq!(blobs[blob], shape, "{blob}");
    }
}

#[test]
fn googlenet_weighs_its_heads() {
    let net = net("googlenet/train_val.prototxt");
    let losses: Vec<_> = net
        .layer
        .iter()
        .filter(|layer| layer.r#type() == "SoftmaxWithLoss")
        .map(|layer| (layer.name(), layer.loss_weight[0]))
        .collect();
    assert_eq!(losses, [("loss1/loss", 0.3), ("loss2/loss", 0.3), ("loss3/loss3", 1.0)]);
    let dropouts: Vec<_> = net
        .layer
        .iter()
        .filter_map(|layer| layer.dropout_param.as_ref().map(|param| param.dropout_ratio()))
        .collect();
    assert_eq!(dropouts, [0.7, 0.7, 0.4]);
}

#[test]
fn resnet_shapes_halve_from_stage_to_stage() {
    let blobs = weights(&net("resnet50/train_val.prototxt"), Phase::Train, [3, 256, 256]).1;
    for (blob, shape) in [
        ("pool1", [64, 56, 56]),
        ("res2c", [256, 56, 56]),
        ("res3d", [512, 28, 28]),
        ("res4f", [1024, 14, 14]),
        ("res5c", [2048, 7, 7]),
        ("pool5", [2048, 1, 1]),
    ] {
        assert_eq!(blobs[blob], shape, "{blob}");
    }
}

#[test]
fn layers_of_deploy_nets_carry_the_names_of_trained_ones() {
    for (train, deploy) in [
        ("cifar10/cifar10_quick_train_test.prototxt", "cifar10/cifar10_quick.prototxt"),
        ("cifar10/cifar10_full_train_test.prototxt", "cifar10/cifar10_full.prototxt"),
        ("mnist/lenet_train_test.prototxt", "mnist/lenet.prototxt"),
        ("alexnet/train_val.prototxt", "alexnet/deploy.prototxt"),
        ("caffenet/train_val.prototxt", "caffenet/deploy.prototxt"),
        ("googlenet/train_val.prototxt", "googlenet/deploy.prototxt"),
        ("resnet50/train_val.prototxt", "resnet50/deploy.prototxt"),
    ] {
        let trained = net(train);
        for layer in net(deploy).layer {
            if !matches!(layer.r#type(), "Input" | "Softmax") {
                let known = trained.layer.iter().any(|other| other.name() == layer.name());
                assert!(known, "{deploy}: {}", layer.name());
            }
        }
    }
}

#[test]
fn cifar10_quick_has_its_published_settings() {
    let first = solver("cifar10/cifar10_quick_solver.prototxt");
    assert_eq!((first.base_lr(), first.momentum(), first.weight_decay()), (0.001, 0.9, 0.004));
    assert_eq!((first.lr_policy(), first.max_iter(), first.display()), ("fixed", 4000, 100));
    assert_eq!((&first.test_iter[..], first.test_interval()), (&[100][..], 500));
    let second = solver("cifar10/cifar10_quick_solver_lr1.prototxt");
    assert_eq!((second.base_lr(), second.max_iter()), (0.0001, 5000));
    let net = net("cifar10/cifar10_quick_train_test.prototxt");
    let stds: Vec<_> = net
        .layer
        .iter()
        .filter_map(|layer| {
            let conv = layer.convolution_param.as_deref().and_then(|p| p.weight_filler.as_ref());
            conv.or(layer.inner_product_param.as_deref().and_then(|p| p.weight_filler.as_ref()))
        })
        .map(|filler| filler.std())
        .collect();
    assert_eq!(stds, [0.0001, 0.01, 0.01, 0.1, 0.1]);
    let order: Vec<_> = net.layer[2..].iter().map(|layer| layer.name()).collect();
    assert_eq!(
        order,
        [
            "conv1", "pool1", "relu1", "conv2", "relu2", "pool2", "conv3", "relu3", "pool3", "ip1",
            "ip2", "accuracy", "loss"
        ]
    );
}
