//! The nets: the examples' prototxt with their data in memory instead of a database.

use std::path::Path;

use caffe::net::Origin;
use caffe::rng::Philox;
use caffe::solver::{NetPlan, NetPlans, Solver, SolverOptions};
use caffe::{Error, Result};
use caffe_proto::{BlobShape, InputParameter, LayerParameter, NetState, Phase, SolverParameter};

/// An example net.
pub struct Known {
    name: &'static str,
    /// Its prototxt below `examples`.
    file: &'static str,
    /// Records in a batch.
    pub batch: usize,
    /// Channels, height and width of a record.
    record: [i64; 3],
    classes: usize,
}

const NETS: [Known; 4] = [
    Known {
        name: "cifar10_quick",
        file: "cifar10/cifar10_quick_train_test.prototxt",
        batch: 100,
        record: [3, 32, 32],
        classes: 10,
    },
    Known {
        name: "googlenet",
        file: "googlenet/train_val.prototxt",
        batch: 32,
        record: [3, 224, 224],
        classes: 1000,
    },
    Known {
        name: "alexnet",
        file: "alexnet/train_val.prototxt",
        batch: 16,
        record: [3, 227, 227],
        classes: 1000,
    },
    Known {
        name: "resnet50",
        file: "resnet50/train_val.prototxt",
        batch: 16,
        record: [3, 224, 224],
        classes: 1000,
    },
];

/// The net called `name`.
pub fn find(name: &str) -> Result<&'static Known> {
    let names = || NETS.map(|net| net.name).join(", ");
    NETS.iter()
        .find(|net| net.name == name)
        .ok_or_else(|| Error::Invalid(format!("no such net; there are {}", names())))
}

/// A solver for the net's TRAIN phase: SGD with momentum and weight decay, as the peer has it.
pub fn solver(net: &Known, batch: usize, threads: usize, exact: bool) -> Result<Solver> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(net.file);
    let mut param = caffe_proto::net_from_file(&path)?.net;
    let state = NetState { phase: Some(Phase::Train as i32), ..Default::default() };
    for layer in param.layer.iter_mut().filter(|l| l.r#type() == "Data") {
        let [c, h, w] = net.record;
        let shapes = [vec![batch as i64, c, h, w], vec![batch as i64]];
        *layer = LayerParameter {
            r#type: Some("Input".into()),
            input_param: Some(Box::new(InputParameter {
                shape: shapes.map(|dim| BlobShape { dim }).into(),
            })),
            data_param: None,
            transform_param: None,
            ..layer.clone()
        };
    }
    let settings = SolverParameter {
        base_lr: Some(1e-4),
        lr_policy: Some("fixed".into()),
        momentum: Some(0.9),
        weight_decay: Some(5e-4),
        ..Default::default()
    };
    let plans = NetPlans {
        train: NetPlan { param, origin: Origin::default(), state },
        test: Vec::new(),
        changes: Vec::new(),
    };
    let mut solver =
        Solver::new(&settings, &plans, &SolverOptions { exact, ..SolverOptions::new(threads, 1) })?;
    fill(&mut solver, net)?;
    Ok(solver)
}

/// Random records and labels.
fn fill(solver: &mut Solver, net: &Known) -> Result<()> {
    let random = Philox::new(7, 0);
    let inputs = solver.net().inputs().to_vec();
    for (k, id) in inputs.into_iter().enumerate() {
        for (i, value) in solver.net().data_mut(id)?.iter_mut().enumerate() {
            let uniform = random.uniform((i as u64) << 1 | k as u64);
            *value = match k {
                0 => 2.0 * uniform - 1.0,
                _ => (uniform * net.classes as f32).floor().min(net.classes as f32 - 1.0),
            };
        }
    }
    Ok(())
}
