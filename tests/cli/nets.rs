//! The commands that run nets.

use std::fmt::Write;
use std::fs;

use caffe_proto::{BlobProto, BlobShape, LayerParameter, Message, NetParameter};

use crate::support::{Folder, fails, succeeds};

/// A net whose only output is the label of each record, two at a time.
fn label_net(database: &str) -> String {
    format!(
        "name: 'labels'\n\
         layer {{ name: 'in' type: 'Data' top: 'data' top: 'label'\n\
         \x20 data_param {{ source: '{database}' batch_size: 2 backend: LEVELDB }} }}\n\
         layer {{ name: 'relu' type: 'ReLU' bottom: 'data' top: 'relu' include {{ phase: TRAIN }} }}\n\
         layer {{ name: 'quiet' type: 'ReLU' bottom: 'label' top: 'label' }}\n"
    )
}

/// A model file with weights for one layer.
fn weights(layer: &str) -> Vec<u8> {
    let blob = BlobProto {
        shape: Some(BlobShape { dim: vec![1] }),
        data: vec![1.0],
        ..Default::default()
    };
    let layer = LayerParameter {
        name: Some(layer.into()),
        r#type: Some("ReLU".into()),
        blobs: vec![blob],
        ..Default::default()
    };
    NetParameter { layer: vec![layer], ..Default::default() }.encode_to_vec()
}

#[test]
fn test_prints_scores_as_caffe_does() {
    let folder = Folder::new();
    let net = folder.write("net.prototxt", label_net(&folder.database(4)));
    let model = folder.write("x.caffemodel", weights("ip"));
    let args = ["test", "-model", &net, "-weights", &model, "-iterations", "3"];
    let (out, log) = succeeds(&args);
    assert_eq!(out, "");
    // Labels 0 1, 2 3, and 0 1 again: the cursor turns round at the end of the data.
    for sentence in [
        "caffe.cpp:281] Use CPU.\n",
        "net.cpp:744] Ignoring source layer ip\n",
        "caffe.cpp:285] Running for 3 iterations.\n",
        "caffe.cpp:308] Batch 1, label = 2\ncaffe.cpp:308] Batch 1, label = 3\n",
        "caffe.cpp:308] Batch 2, label = 0\n",
        "caffe.cpp:313] Loss: 0\n",
        "caffe.cpp:325] label = 0.666667\ncaffe.cpp:325] label = 1.66667\n",
    ] {
        assert!(without_heads(&log).contains(sentence), "{sentence} is not in\n{log}");
    }
    let no_weights = folder.write("net.caffemodel", b"\x0a\x01x");
    let args = ["test", "-model", &net, "-weights", &no_weights];
    assert!(fails(&args).contains("holds no weights"));
    let args = ["test", "-model", &net, "-weights", &net];
    assert!(fails(&args).contains("net.prototxt"));
}

#[test]
fn only_a_net_without_weights_is_tested_without_a_model() {
    let folder = Folder::new();
    let drawn = "layer { name: 'x' type: 'DummyData' top: 'x' dummy_data_param { \
                 shape { dim: 1 dim: 1 } data_filler { type: 'gaussian' } } }\n";
    let net = folder.write("drawn.prototxt", drawn);
    let (_, log) = succeeds(&["test", "-model", &net, "-iterations", "2"]);
    let values: Vec<&str> = log
        .lines()
        .filter(|l| l.contains("] Batch "))
        .filter_map(|l| l.split(" = ").last())
        .collect();
    assert!(values.len() == 2 && values[0] != values[1], "each batch is drawn anew: {values:?}");
    let product = "layer { name: 'ip' type: 'InnerProduct' bottom: 'x' top: 'y' \
                   inner_product_param { num_output: 1 } }\n";
    let net = folder.write("product.prototxt", format!("{drawn}{product}"));
    assert!(fails(&["test", "-model", &net]).contains("needs --weights: layer `ip`"));
}

#[test]
fn time_prints_every_layer_as_caffe_does() {
    let folder = Folder::new();
    let net = folder.write("net.prototxt", label_net(&folder.database(4)));
    let (_, log) = succeeds(&["time", "-model", &net, "-iterations", "2"]);
    let plain = without_heads(&log);
    for sentence in [
        "caffe.cpp:360] Performing Forward\n",
        "caffe.cpp:375] Testing for 2 iterations.\n",
        "caffe.cpp:403] Iteration: 2 forward-backward time: ",
        "caffe.cpp:409]         in\tforward: ",
        "caffe.cpp:412]       relu\tbackward: ",
        "caffe.cpp:421] Average Forward-Backward: ",
        "caffe.cpp:424] *** Benchmark ends ***\n",
    ] {
        assert!(plain.contains(sentence), "{sentence} is not in\n{log}");
    }
    let (_, log) = succeeds(&["time", "-model", &net, "-iterations", "1", "-phase", "TEST"]);
    assert!(log.contains("quiet\tforward") && !log.contains("relu\tforward"), "{log}");

    let gone = folder.write("gone.prototxt", label_net("no-such-database"));
    let message = fails(&["time", "-model", &gone]);
    assert!(
        message.contains("layer `in` (Data) at") && message.contains("no-such-database"),
        "{message}"
    );
}

/// A classifier of the images of [`Folder::idx`] and its solver; `extra` goes into the solver.
fn trainable(folder: &Folder, outputs: usize, extra: &str) -> String {
    let net = format!(
        "layer {{ name: 'in' type: 'Data' top: 'data' top: 'label'\n\
         \x20 data_param {{ source: '{}' batch_size: 5 }} }}\n\
         layer {{ name: 'ip' type: 'InnerProduct' bottom: 'data' top: 'ip'\n\
         \x20 inner_product_param {{ num_output: {outputs} weight_filler {{ type: 'xavier' }} }} }}\n\
         layer {{ name: 'loss' type: 'SoftmaxWithLoss' bottom: 'ip' bottom: 'label' top: 'loss' }}\n",
        folder.name("db")
    );
    let net = folder.write(&format!("net{outputs}.prototxt"), net);
    let solver = format!(
        "net: '{net}' base_lr: 0.01 lr_policy: 'fixed' display: 1 max_iter: 4 snapshot: 2\n\
         random_seed: 1 {extra}\n"
    );
    folder.write("solver.prototxt", solver)
}

#[test]
fn train_learns_writes_snapshots_and_resumes() {
    let folder = Folder::new();
    folder.database(10);
    let prefix = format!("snapshot_prefix: '{}'", folder.name("out"));
    let solver = trainable(&folder, 10, &prefix);
    let (_, log) = succeeds(&["train", "-solver", &solver, "--mode=sync", "--threads=1"]);
    for sentence in
        ["solver.cpp:239] Iteration 0 (", "] Iteration 3, lr = 0.01", "Optimization Done."]
    {
        assert!(log.contains(sentence), "{sentence} is not in\n{log}");
    }
    let (model, state) =
        (folder.name("out_iter_4.caffemodel"), folder.name("out_iter_2.solverstate"));
    let whole = fs::read(&model).unwrap();
    fs::remove_file(&model).unwrap();
    let (_, log) = succeeds(&["train", "-solver", &solver, "-snapshot", &state, "--mode=sync"]);
    assert!(!log.contains("Iteration 0 ("), "{log}");
    assert!(fs::read(&model).unwrap() == whole, "a resumed run is the undisturbed one");
    succeeds(&["train", "-solver", &solver, "-weights", &model]);
    succeeds(&[
        "test",
        "-model",
        &folder.name("net10.prototxt"),
        "-weights",
        &model,
        "-iterations",
        "2",
    ]);

    let both = ["train", "-solver", &solver, "-snapshot", &state, "-weights", &model];
    assert!(fails(&both).contains("not both"));
    let other = trainable(&folder, 7, &prefix);
    let message = fails(&["train", "-solver", &other, "-weights", &model]);
    assert!(message.contains("layer `ip`") && message.contains("shape"), "{message}");
    let message = fails(&["train", "-solver", &other, "-snapshot", &state]);
    assert!(message.contains("shape"), "{message}");
    let adam = trainable(&folder, 10, &format!("{prefix} type: 'Adam'"));
    let message = fails(&["train", "-solver", &adam, "-snapshot", &state]);
    assert!(message.contains("another solver type"), "{message}");
    let cut = folder.write("cut.caffemodel", &whole[..whole.len() / 2]);
    assert!(fails(&["train", "-solver", &adam, "-weights", &cut]).contains("truncated"));
    let nowhere = trainable(&folder, 10, "snapshot_prefix: '/dev/null/out'");
    assert!(fails(&["train", "-solver", &nowhere]).contains("snapshot_prefix"));
}

/// A log without level, date, time and thread.
fn without_heads(log: &str) -> String {
    let mut plain = String::new();
    for line in log.lines() {
        let rest = line.split_whitespace().skip(2).collect::<Vec<_>>();
        let from = rest.get(1).and_then(|place| line.find(place)).unwrap_or(0);
        writeln!(plain, "{}", &line[from..]).unwrap();
    }
    plain
}
