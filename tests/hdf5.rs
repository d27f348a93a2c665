//! HDF5 in and out: data sets, extracted features, models and solver states, among them files that
//! h5py wrote (`fixtures/hdf5/make.py`).
#![allow(clippy::unwrap_used, clippy::panic)]
#![cfg(feature = "hdf5")]

mod common;

use std::path::{Path, PathBuf};

use caffe::data::readers;
use caffe::data::{Batch, Reading};
use caffe::hdf5::{Reader, Writer};
use caffe::net::NetOptions;
use caffe::snapshot;
use caffe::solver::{Feeds, NetPlans, Silent, Solver, SolverOptions, train};
use caffe_proto::{LayerParameter, NetParameter, Phase, SolverParameter, text};

use common::net_of;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hdf5").join(name)
}

/// A list of the fixture's two files, of 3 and 4 rows.
fn list(folder: &Path) -> String {
    let path = folder.join("list.txt");
    let text =
        format!("{}\n\n{}\n", fixture("rows_a.h5").display(), fixture("rows_b.h5").display());
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn layer(source: &str, more: &str) -> LayerParameter {
    let text = format!(
        "name: 'd' type: 'HDF5Data' top: 'label' top: 'data' \
         hdf5_data_param {{ source: '{source}' batch_size: 5 {more} }}"
    );
    text::parse("layer", &text).unwrap()
}

/// The labels of so many batches.
fn labels(layer: &LayerParameter, tickets: impl IntoIterator<Item = u64>) -> Vec<Vec<f32>> {
    let mut source = readers::open(layer, Phase::Train, Reading::new(5)).unwrap();
    let mut batch = Batch::default();
    let mut read = |ticket| {
        source.fill(ticket, &mut batch).unwrap();
        for (row, label) in batch.tops[0].iter().enumerate() {
            let data: Vec<f32> = (0..4u8).map(|i| label * 10.0 + f32::from(i)).collect();
            assert_eq!(batch.tops[1][row * 4..][..4], data, "label and data of one row");
            assert_eq!(batch.records[row], *label as u64);
        }
        assert_eq!(batch.shapes, [vec![5], vec![5, 2, 2]]);
        batch.tops[0].clone()
    };
    tickets.into_iter().map(&mut read).collect()
}

#[test]
fn batches_cross_the_ends_of_files_and_of_epochs() {
    let folder = tempfile::tempdir().unwrap();
    let read = labels(&layer(&list(folder.path()), ""), 0..3);
    assert_eq!(read[0], [0.0, 1.0, 2.0, 3.0, 4.0]);
    assert_eq!(read[1], [5.0, 6.0, 0.0, 1.0, 2.0]);
    assert_eq!(read[2], [3.0, 4.0, 5.0, 6.0, 0.0]);
}

#[test]
fn shuffled_epochs_hold_every_row_once_and_depend_on_nothing_but_the_ticket() {
    let folder = tempfile::tempdir().unwrap();
    let layer = layer(&list(folder.path()), "shuffle: true");
    // 14 batches of 5 are 10 epochs of 7.
    let read = labels(&layer, 0..14);
    let epochs: Vec<Vec<f32>> = read.concat().chunks(7).map(<[f32]>::to_vec).collect();
    for epoch in &epochs {
        let mut sorted = epoch.clone();
        sorted.sort_by(f32::total_cmp);
        assert_eq!(sorted, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    }
    assert!(epochs.windows(2).any(|pair| pair[0] != pair[1]));
    assert!(epochs.iter().any(|epoch| epoch[0] > 2.5), "files change places too: {epochs:?}");
    let backwards: Vec<_> = labels(&layer, (0..14).rev()).into_iter().rev().collect();
    assert_eq!(backwards, read);
}

#[test]
fn what_is_wrong_with_a_data_set_is_said_with_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let error = |layer: &LayerParameter| match readers::open(layer, Phase::Train, Reading::new(5)) {
        Ok(_) => panic!("opened"),
        Err(e) => e.to_string(),
    };
    let of_list = |content: &str| {
        std::fs::write(path("bad.txt"), content).unwrap();
        error(&layer(&path("bad.txt"), ""))
    };
    assert!(of_list("").contains("bad.txt: lists no HDF5 files"));
    assert!(of_list("\nno.h5").contains("bad.txt:2: no.h5: no such file"));
    std::fs::write(path("text.h5"), "not HDF5 at all: text").unwrap();
    assert!(of_list(&path("text.h5")).contains("expected an HDF5 file, but this is text"));
    std::fs::write(path("empty.h5"), "").unwrap();
    assert!(of_list(&path("empty.h5")).contains("the file is empty; a HDF5 file was expected"));
    let whole = std::fs::read(fixture("rows_a.h5")).unwrap();
    std::fs::write(path("cut.h5"), &whole[..whole.len() / 2]).unwrap();
    let message = of_list(&path("cut.h5"));
    assert!(message.contains("cut.h5: damaged or truncated HDF5 file"), "{message}");
    let message = of_list(&fixture("sgd.solverstate.h5").display().to_string());
    assert!(
        message.contains("no dataset `label`; there are: current_step, history/0"),
        "{message}"
    );
    assert!(error(&layer("nowhere.txt", "")).contains("cannot read the list of HDF5 files"));

    let mut odd = Writer::create(&folder.path().join("odd.h5")).unwrap();
    odd.floats("label", &[2], &[0.0; 2]).unwrap();
    odd.floats("data", &[3, 2, 2], &[0.0; 12]).unwrap();
    odd.finish().unwrap();
    assert!(of_list(&path("odd.h5")).contains("dataset `data` has 3 rows, `label` has 2"));
    let mut wide = Writer::create(&folder.path().join("wide.h5")).unwrap();
    wide.floats("label", &[1], &[0.0]).unwrap();
    wide.floats("data", &[1, 5], &[0.0; 5]).unwrap();
    wide.finish().unwrap();
    let message = of_list(&format!("{} {}", fixture("rows_a.h5").display(), path("wide.h5")));
    assert!(message.contains("shape [5], those of the first file [2, 2]"), "{message}");

    let mut transformed = layer("x", "");
    transformed.transform_param = Some(Box::default());
    assert!(error(&transformed).contains("HDF5Data does not transform data"));
    let mut none = layer("x", "");
    none.hdf5_data_param = None;
    assert!(error(&none).contains("hdf5_data_param has no source"));
}

#[test]
fn hdf5_output_adds_the_rows_of_every_pass() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.h5");
    let text = format!(
        "layer {{ name: 'in' type: 'Input' top: 'a' top: 'b' \
           input_param {{ shape {{ dim: 2 dim: 3 }} shape {{ dim: 2 }} }} }}
         layer {{ name: 'out' type: 'HDF5Output' bottom: 'a' bottom: 'b' \
           hdf5_output_param {{ file_name: '{}' }} }}",
        out.display()
    );
    let mut net = net_of(&text, &NetOptions::new(Phase::Test)).unwrap();
    assert!(!out.exists(), "nothing is written before there is anything");
    let blank = NetOptions { blank: true, ..NetOptions::new(Phase::Test) };
    net_of(&text, &blank).unwrap().forward().unwrap();
    assert!(!out.exists(), "a forecast of memory leaves nothing behind");
    for pass in [0.0f32, 6.0] {
        let (a, b) = (net.blob("a").unwrap(), net.blob("b").unwrap());
        let values: Vec<f32> = (0..6u8).map(|i| pass + f32::from(i)).collect();
        net.data_mut(a).unwrap().copy_from_slice(&values);
        net.data_mut(b).unwrap().copy_from_slice(&[pass, pass + 1.0]);
        net.forward().unwrap();
    }
    drop(net);
    let file = Reader::open(&out).unwrap();
    let twelve: Vec<f32> = (0..12u8).map(f32::from).collect();
    assert_eq!(file.floats("data").unwrap(), (vec![4, 3], twelve));
    assert_eq!(file.floats("label").unwrap(), (vec![4], vec![0.0, 1.0, 6.0, 7.0]));

    let unequal = text.replace("shape { dim: 2 } }", "shape { dim: 5 } }");
    let error = net_of(&unequal, &NetOptions::new(Phase::Test)).map(drop).unwrap_err();
    assert!(error.to_string().contains("shapes are 2 3 (6) and 5 (5)"), "{error}");
    let nameless = text.replace(&format!("file_name: '{}'", out.display()), "");
    assert!(net_of(&nameless, &NetOptions::new(Phase::Test)).is_err());
}

/// The net that the fixture's model and state belong to.
const NET: &str = "
  layer { name: 'data' type: 'Input' top: 'x' top: 'label'
          input_param { shape { dim: 1 dim: 2 } shape { dim: 1 } } }
  layer { name: 'ip1' type: 'InnerProduct' bottom: 'x' top: 'a' param { name: 'w' }
          inner_product_param { num_output: 3 } }
  layer { name: 'ip1_again' type: 'InnerProduct' bottom: 'x' top: 'b' param { name: 'w' }
          inner_product_param { num_output: 3 } }
  layer { name: 'sum' type: 'Eltwise' bottom: 'a' bottom: 'b' top: 'sum' }
  layer { name: 'inception/1x1' type: 'InnerProduct' bottom: 'sum' top: 'y'
          inner_product_param { num_output: 1 bias_term: false } }
  layer { name: 'hush' type: 'Silence' bottom: 'label' }";

fn solver_of(format: &str) -> Solver {
    let text = format!(
        "net_param {{ {NET} }} base_lr: 0.1 lr_policy: 'fixed' max_iter: 1 type: 'SGD' \
         momentum: 0.9 snapshot_format: {format}"
    );
    let param: SolverParameter = text::parse("solver", &text).unwrap();
    let plans = NetPlans::read(&param, 0, &[]).unwrap();
    let options = SolverOptions { exact: true, ..SolverOptions::new(1, 1) };
    Solver::new(&param, &plans, &options).unwrap()
}

fn blobs(net: &NetParameter) -> Vec<(&str, Vec<Vec<f32>>)> {
    let of = |layer: &caffe_proto::LayerParameter| -> Vec<Vec<f32>> {
        layer.blobs.iter().map(|b| b.data.clone()).collect()
    };
    let with = net.layer.iter().filter(|l| !l.blobs.is_empty());
    with.map(|l| (l.name.as_deref().unwrap(), of(l))).collect()
}

#[test]
fn a_state_and_model_that_h5py_wrote_are_restored() {
    let mut solver = solver_of("HDF5");
    let resumed = snapshot::restore(&mut solver, &fixture("sgd.solverstate.h5")).unwrap();
    assert_eq!((resumed.iter, resumed.sidecar), (7, None));
    let model = solver.net().to_proto().unwrap();
    let weights: Vec<f32> = (0..6u8).map(|i| f32::from(i) / 8.0).collect();
    let expected = [
        ("ip1", vec![weights.clone(), vec![1.0, 2.0, 3.0]]),
        ("ip1_again", vec![weights, vec![4.0, 5.0, 6.0]]),
        ("inception/1x1", vec![vec![0.25; 3]]),
    ];
    assert_eq!(blobs(&model), expected);
    let ranges: Vec<_> =
        solver.train_net().arena().params().iter().map(|p| p.range.clone()).collect();
    let history = &solver.optimizer().histories().unwrap()[0];
    let firsts: Vec<f32> = ranges.iter().map(|r| history[r.start]).collect();
    assert_eq!(firsts, [0.0, 10.0, 40.0, 70.0]);
}

#[test]
fn both_formats_hold_the_same_and_read_back_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let mut nets = Vec::new();
    for format in ["HDF5", "BINARYPROTO"] {
        let mut solver = solver_of(format);
        snapshot::restore(&mut solver, &fixture("sgd.solverstate.h5")).unwrap();
        let prefix = folder.path().join(format).display().to_string();
        let paths = snapshot::write(&mut solver, &prefix, 7).unwrap();
        assert_eq!(paths.state.extension().is_some_and(|e| e == "h5"), format == "HDF5");
        let mut fresh = solver_of(format);
        assert_eq!(snapshot::restore(&mut fresh, &paths.state).unwrap().iter, 7);
        let history = fresh.optimizer().histories().unwrap()[0].to_vec();
        nets.push((fresh.net().to_proto().unwrap(), history));
    }
    assert_eq!(nets[0], nets[1]);
    // Shared weights once, with their owner; nothing but the files that were asked for.
    let file = Reader::open(&folder.path().join("HDF5_iter_7.caffemodel.h5")).unwrap();
    let mut datasets = file.datasets("data").unwrap();
    datasets.sort();
    assert_eq!(datasets, ["inception/1x1/0", "ip1/0", "ip1/1", "ip1_again/1"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4);
}

#[test]
fn weights_that_do_not_fit_are_refused_and_nothing_is_copied() {
    let model = snapshot::read_weights(&fixture("model.caffemodel.h5")).unwrap();
    let narrow = NET.replace("num_output: 3", "num_output: 4");
    let mut net = net_of(&narrow, &NetOptions::new(Phase::Train)).unwrap();
    let error = net.copy_trained_from(&model).unwrap_err().to_string();
    assert!(error.contains("the saved shape is 1 3 (3), this layer needs 1 4 (4)"), "{error}");
    // A blob may be missing only where another layer owns it.
    let apart = NET.replace("param { name: 'w' }", "");
    let mut net = net_of(&apart, &NetOptions::new(Phase::Train)).unwrap();
    let error = net.copy_trained_from(&model).unwrap_err().to_string();
    assert!(error.contains("ip1_again"), "{error}");
    let error = snapshot::read_weights(&fixture("rows_a.h5")).unwrap_err().to_string();
    assert!(error.contains("rows_a.h5: there is no group `data`"), "{error}");
}

/// Trains on HDF5 data, snapshots as HDF5 on the way, and goes on from there.
#[test]
fn training_resumes_from_an_hdf5_snapshot_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("s").display().to_string();
    for kind in ["SGD", "Adam", "AdaDelta"] {
        let text = format!(
            "net_param {{ layer {{ name: 'd' type: 'HDF5Data' top: 'data' top: 'label'
               hdf5_data_param {{ source: '{}' batch_size: 5 shuffle: true }} }}
             layer {{ name: 'scale' type: 'Power' bottom: 'data' top: 'small' power_param {{ scale: 0.01 }} }}
             layer {{ name: 'ip' type: 'InnerProduct' bottom: 'small' top: 'ip'
               inner_product_param {{ num_output: 7 weight_filler {{ type: 'xavier' }} }} }}
             layer {{ name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }} }}
             base_lr: 0.1 lr_policy: 'multistep' gamma: 0.5 stepvalue: 2 stepvalue: 5 momentum: 0.9
             delta: 1e-6 max_iter: 8 type: '{kind}' snapshot_format: HDF5 random_seed: 1",
            list(folder.path())
        );
        let param: SolverParameter = text::parse("solver", &text).unwrap();
        let plans = NetPlans::read(&param, 0, &[]).unwrap();
        let options = SolverOptions { exact: true, ..SolverOptions::new(1, 1) };
        let run = |max_iter: i32, from: Option<&Path>| {
            let param = SolverParameter { max_iter: Some(max_iter), ..param.clone() };
            let mut solver = Solver::new(&param, &plans, &options).unwrap();
            let start = from.map_or(0, |p| snapshot::restore(&mut solver, p).unwrap().iter);
            let mut feeds = Feeds::open(&plans, Reading::new(1)).unwrap();
            train(&mut solver, &mut feeds, start, &mut Silent).unwrap();
            solver
        };
        let mut straight = run(8, None);
        let mut half = run(5, None);
        let paths = snapshot::write(&mut half, &prefix, 5).unwrap();
        let file = Reader::open(&paths.state).unwrap();
        // Of iteration 4, the last one done: one step.
        assert_eq!(file.integer("current_step").unwrap(), 1);
        let expected = if kind == "SGD" { 2 } else { 4 };
        assert_eq!(file.datasets("history").unwrap().len(), expected);
        let mut resumed = run(8, Some(&paths.state));
        assert_eq!(resumed.net().to_proto().unwrap(), straight.net().to_proto().unwrap(), "{kind}");
    }
}

/// What h5py sees in our files.
#[test]
fn h5py_reads_what_we_write() {
    let script = "import sys, h5py\n\
        f = h5py.File(sys.argv[1])\n\
        print(int(f['iter'][0]), f['learned_net'][()].decode(), int(f['current_step'][0]),\n\
        [list(f['history'][str(i)].shape) for i in range(len(f['history']))],\n\
        f['history/1'].dtype, f['history/1'][()].tolist())";
    let Some(python) = common::python("h5py") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut solver = solver_of("HDF5");
    snapshot::restore(&mut solver, &fixture("sgd.solverstate.h5")).unwrap();
    let prefix = folder.path().join("t").display().to_string();
    let paths = snapshot::write(&mut solver, &prefix, 3).unwrap();
    let output = python.run(script, &[&paths.state]);
    let expected = format!(
        "3 {} 0 [[3, 2], [3], [3], [1, 3]] float32 [10.0, 20.0, 30.0]",
        paths.model.display()
    );
    assert_eq!(output.trim(), expected);
}
