//! Caffe's tools by their own names, and `extract_features`.

use std::path::Path;
use std::process::Command;

use caffe::data::image::{Format, Raster};
use caffe::data::{Backend, Database};
use caffe_proto::{Datum, Message};

use crate::support::{Folder, caffe, fails, succeeds, text};

#[test]
fn through_a_link_of_its_name_the_program_is_that_tool() {
    let folder = Folder::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install-links.sh");
    let tools = folder.path("build/tools");
    let install = || {
        let done = Command::new("sh").arg(&script).arg(&tools).arg(caffe().get_program()).output();
        let done = done.unwrap();
        assert!(done.status.success(), "{}", text(&done.stderr));
    };
    install();
    // A second time changes nothing.
    install();

    let [images, labels] = folder.idx(5);
    let database = folder.name("db");
    let tool = |name: &str, args: &[&str]| Command::new(tools.join(name)).args(args).output();
    let made = tool("convert_mnist_data.bin", &[&images, &labels, &database, "--backend=leveldb"]);
    assert!(made.unwrap().status.success());
    let mean = folder.name("mean.binaryproto");
    let output = tool("compute_image_mean", &["-backend=leveldb", &database, &mean]).unwrap();
    let log = text(&output.stderr);
    assert!(output.status.success() && log.contains("mean_value channel [0]: 2"), "{log}");
    assert!(folder.path("mean.binaryproto").exists());

    let help = text(&tool("convert_imageset", &["--help"]).unwrap().stdout);
    assert!(help.contains("ROOTFOLDER/"), "{help}");
    let wrong = tool("upgrade_net_proto_text", &["one"]).unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("needs <NET_PROTO_FILE_OUT>"));
    for (name, instead) in [
        ("train_net", "caffe train"),
        ("test_net.bin", "caffe test"),
        ("net_speed_benchmark", "time"),
    ] {
        let output = tool(name, &["solver.prototxt"]).unwrap();
        assert_eq!(output.status.code(), Some(1));
        let log = text(&output.stderr);
        assert!(log.contains("Deprecated. Use ") && log.contains(instead), "{log}");
    }
    let caffe = text(&tool("caffe", &["--version"]).unwrap().stdout);
    assert!(caffe.starts_with("caffe "), "{caffe}");
}

/// Twice the pixels of two images a batch, behind a layer that works in place.
fn doubling_net(database: &str) -> String {
    format!(
        "layer {{ name: 'in' type: 'Data' top: 'data' top: 'label'\n\
         \x20 data_param {{ source: '{database}' batch_size: 2 backend: LEVELDB }} }}\n\
         layer {{ name: 'double' type: 'Scale' bottom: 'data' top: 'double'\n\
         \x20 scale_param {{ axis: 0 num_axes: 0 filler {{ value: 9 }} }} }}\n\
         layer {{ name: 'relu' type: 'ReLU' bottom: 'double' top: 'double' }}\n\
         layer {{ name: 'sum' type: 'Reduction' bottom: 'double' top: 'sum'\n\
         \x20 reduction_param {{ axis: 1 }} }}\n"
    )
}

/// Weights of `double`: the number 2.
fn weights(folder: &Folder) -> String {
    use caffe_proto::{BlobProto, BlobShape, LayerParameter, NetParameter};
    let two =
        BlobProto { shape: Some(BlobShape::default()), data: vec![2.0], ..Default::default() };
    let layer = LayerParameter {
        name: Some("double".into()),
        r#type: Some("Scale".into()),
        blobs: vec![two],
        ..Default::default()
    };
    let net = NetParameter { layer: vec![layer], ..Default::default() };
    folder.write("two.caffemodel", net.encode_to_vec())
}

fn records(path: &str, backend: Backend) -> Vec<(String, Datum)> {
    let mut database = Database::open(path, backend).unwrap();
    let mut cursor = database.cursor().unwrap();
    let next = || cursor.next_record().unwrap();
    std::iter::from_fn(next).map(|r| (text(&r.key), Datum::decode(r.value).unwrap())).collect()
}

#[test]
fn features_of_several_blobs_become_float_datums() {
    let folder = Folder::new();
    let net = folder.write("net.prototxt", doubling_net(&folder.database(4)));
    let weights = weights(&folder);
    for (kind, backend) in [("leveldb", Backend::LevelDb), ("lmdb", Backend::Lmdb)] {
        let (doubled, sums) =
            (folder.name(&format!("{kind}_a")), folder.name(&format!("{kind}_b")));
        let both = format!("{doubled},{sums}");
        // Three batches of two from four records: the cursor turns round.
        let args = ["extract_features", &weights, &net, "double,sum", &both, "3", kind, "CPU"];
        let (_, log) = succeeds(&args);
        assert!(log.contains("Extracted features of 6 query images for feature blob sum"), "{log}");
        assert!(log.contains("Successfully extracted the features!"), "{log}");

        let doubled = records(&doubled, backend);
        let keys: Vec<&str> = doubled.iter().map(|(key, _)| &**key).collect();
        assert_eq!(keys[..2], ["0000000000", "0000000001"]);
        assert_eq!(keys.len(), 6);
        let third = &doubled[3].1;
        assert_eq!([third.channels(), third.height(), third.width()], [1, 2, 2]);
        assert_eq!(third.float_data, [6.0; 4]);
        let sums: Vec<f32> = records(&sums, backend).iter().map(|(_, d)| d.float_data[0]).collect();
        assert_eq!(sums, [0.0, 8.0, 16.0, 24.0, 0.0, 8.0]);
    }
}

#[test]
fn an_image_is_classified_as_caffes_example_does() {
    use caffe_proto::{BlobProto, BlobShape, LayerParameter, NetParameter};
    let folder = Folder::new();
    // Six classes, each the sum of one of the values blue and red of two pixels, or nothing.
    let net = "name: 'six' layer { name: 'in' type: 'Input' top: 'data' \
               input_param { shape { dim: 10 dim: 3 dim: 1 dim: 2 } } } \
               layer { name: 'ip' type: 'InnerProduct' bottom: 'data' top: 'ip' \
               inner_product_param { num_output: 6 bias_term: false } }";
    let net = folder.write("deploy.prototxt", net);
    let mut weights = vec![0.0; 36];
    // Class 2: blue of the first pixel; class 4: red of the second, halved.
    (weights[2 * 6], weights[4 * 6 + 5]) = (1.0, 0.5);
    let shape = BlobShape { dim: vec![6, 6] };
    let blob = BlobProto { shape: Some(shape), data: weights, ..Default::default() };
    let layer = LayerParameter { name: Some("ip".into()), blobs: vec![blob], ..Default::default() };
    let model = NetParameter { layer: vec![layer], ..Default::default() };
    let model = folder.write("six.caffemodel", model.encode_to_vec());
    let mean = BlobProto {
        shape: Some(BlobShape { dim: vec![1, 3, 1, 2] }),
        data: vec![10.0, 30.0, 0.0, 0.0, 1.0, 1.0],
        ..Default::default()
    };
    let mean = folder.write("mean.binaryproto", mean.encode_to_vec());
    let labels = folder.write("labels.txt", "zero\none\ntwo words\nthree\nfour\nfive\n");
    let raster = Raster { height: 1, width: 2, channels: 3, pixels: vec![120, 5, 6, 7, 8, 201] };
    let image = folder.write("x.png", raster.encode(Format::Png).unwrap());
    let (out, _) = succeeds(&["classification", &net, &model, &mean, &labels, &image]);
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("---------- Prediction for ") && lines.len() == 6, "{out}");
    // The mean of blue is 20, that of red 1.
    assert_eq!(lines[1..3], ["100.0000 - \"two words\"", "100.0000 - \"four\""]);
    assert_eq!(lines[3], "0.0000 - \"zero\"");
    let short = folder.write("short.txt", "zero\none\n");
    let message = fails(&["classification", &net, &model, &mean, &short, &image]);
    assert!(message.contains("2 labels for the 6 outputs"), "{message}");
    let message = fails(&["classification", &net, &model, &mean, &labels, &labels]);
    assert!(message.contains("only JPEG and PNG"), "{message}");
}

#[test]
fn what_cannot_be_extracted_is_named_and_nothing_is_made() {
    let folder = Folder::new();
    let net = folder.write("net.prototxt", doubling_net(&folder.database(4)));
    let weights = weights(&folder);
    let out = folder.name("out");
    let extract = |rest: [&str; 5]| {
        let [blobs, names, batches, kind, device] = rest;
        fails(&["extract_features", &weights, &net, blobs, names, batches, kind, device])
    };
    assert!(extract(["duoble", &out, "1", "lmdb", "CPU"]).contains("no blob called `duoble`"));
    assert!(extract(["sum,double", &out, "1", "lmdb", "CPU"]).contains("2 blobs need as many"));
    assert!(extract(["sum", &out, "0", "lmdb", "CPU"]).contains("cannot be `0`"));
    assert!(extract(["sum", &out, "1", "rocksdb", "CPU"]).contains("use leveldb or lmdb"));
    assert!(extract(["sum", &out, "1", "lmdb", "GPU"]).contains("leave -gpu out"));
    assert!(!folder.path("out").exists());
}
