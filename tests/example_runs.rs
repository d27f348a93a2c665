//! Example models that really train for a few iterations, from images to weights: fine-tuning from a
//! model file with ImageData, and an ILSVRC net from a database that `convert_imageset` made.
//!
//! Files are those of `examples/`; only where data lies and how large batches are is changed. The
//! images are photographs where `../shared` has them, else generated.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use caffe::data::image::{Format, Raster};
use caffe_proto::{NetParameter, NetState, Phase, model_from_file, net_from_file, text::print};

/// Runs the program; it has to succeed. Returns the log.
fn caffe(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_caffe")).args(args).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}\n{log}");
    log
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// A folder with six images and a list of them.
struct Work(tempfile::TempDir);

impl Work {
    fn new() -> Work {
        let work = Work(tempfile::tempdir().unwrap());
        let photos = common::shared().join("data/photos");
        let mut list = String::new();
        for i in 0..6 {
            let name = format!("image{i}.jpg");
            let photo = photos.join(["cat.jpg", "fish-bike.jpg"][i % 2]);
            if std::fs::copy(&photo, work.0.path().join(&name)).is_err() {
                let pixels = (0..300 * 300 * 3).map(|p| (p * (i + 3) / 700 % 251) as u8).collect();
                let raster = Raster { height: 300, width: 300, channels: 3, pixels };
                std::fs::write(work.0.path().join(&name), raster.encode(Format::Jpeg).unwrap())
                    .unwrap();
            }
            list += &format!("{name} {}\n", i % 3);
        }
        std::fs::write(work.0.path().join("list.txt"), list).unwrap();
        work
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    /// The train net of `name`, its data changed by `change`, and a solver of three iterations.
    fn solver(&self, name: &str, change: impl Fn(&mut caffe_proto::LayerParameter)) -> String {
        let mut net: NetParameter =
            net_from_file(example(&format!("{name}/train_val.prototxt"))).unwrap().net;
        let train = NetState { phase: Some(Phase::Train as i32), ..NetState::default() };
        net.layer.retain(|layer| caffe::net::is_included(layer, &train).unwrap());
        net.layer.iter_mut().filter(|layer| layer.bottom.is_empty()).for_each(change);
        std::fs::write(self.path("net.prototxt"), print(&net)).unwrap();
        let mut solver = caffe_proto::solver_from_file(example(&format!("{name}/solver.prototxt")))
            .unwrap()
            .solver;
        solver.net = Some(self.path("net.prototxt"));
        (solver.test_iter, solver.test_interval) = (Vec::new(), None);
        (solver.max_iter, solver.iter_size, solver.display) = (Some(3), Some(1), Some(1));
        solver.snapshot_prefix = Some(self.path("snap"));
        std::fs::write(self.path("solver.prototxt"), print(&solver)).unwrap();
        self.path("solver.prototxt")
    }
}

/// The losses that a log displays.
fn losses(log: &str) -> Vec<f32> {
    let lines =
        log.lines().filter(|line| line.contains("Iteration ") && line.contains(", loss = "));
    lines.map(|line| line.rsplit("loss = ").next().unwrap().trim().parse().unwrap()).collect()
}

fn weights(model: &NetParameter, layer: &str) -> Vec<f32> {
    model.layer.iter().find(|l| l.name() == layer).unwrap().blobs[0].data.clone()
}

#[test]
fn squeezenet_trains_on_what_convert_imageset_makes() {
    let work = Work::new();
    let root = format!("{}/", work.path(""));
    caffe(&[
        "convert_imageset",
        "-resize_width=256",
        "-resize_height=256",
        "-shuffle",
        "-backend=lmdb",
        &root,
        &work.path("list.txt"),
        &work.path("images_lmdb"),
    ]);
    let log =
        caffe(&["compute_image_mean", &work.path("images_lmdb"), &work.path("mean.binaryproto")]);
    assert!(log.contains("Number of channels: 3"), "{log}");
    let solver = work.solver("squeezenet", |layer| {
        let data = layer.data_param.as_mut().unwrap();
        data.source = Some(work.path("images_lmdb"));
        data.batch_size = Some(4);
        data.backend = Some(caffe_proto::data_parameter::Db::Lmdb as i32);
    });
    let log = caffe(&["train", "-solver", &solver]);
    let losses = losses(&log);
    assert!(
        losses.len() >= 3 && losses.iter().all(|loss| loss.is_finite() && *loss > 0.0),
        "{log}"
    );
    let model = model_from_file(work.path("snap_iter_3.caffemodel")).unwrap().0;
    assert_eq!(weights(&model, "conv10").len(), 512_000);
}

#[test]
fn finetuning_takes_all_layers_but_the_renamed_one_and_trains_them() {
    let work = Work::new();
    // CaffeNet's convolutions as somebody else's training may have left them.
    let mut given: NetParameter = net_from_file(example("caffenet/deploy.prototxt")).unwrap().net;
    let fc6 = given.layer.iter().position(|layer| layer.name() == "fc6").unwrap();
    given.layer.truncate(fc6);
    // A net for use says nothing of first values.
    let gaussian = caffe_proto::FillerParameter {
        r#type: Some("gaussian".to_owned()),
        std: Some(0.05),
        ..Default::default()
    };
    for setting in given.layer.iter_mut().filter_map(|layer| layer.convolution_param.as_mut()) {
        setting.weight_filler = Some(gaussian.clone());
    }
    let options = caffe::net::NetOptions { seed: 77, ..caffe::net::NetOptions::new(Phase::Test) };
    let mut given = caffe::net::Net::new(&given, &caffe::net::Origin::default(), &options).unwrap();
    let given = given.to_proto().unwrap();
    caffe_proto::write_binary_file_atomic(work.path("given.caffemodel"), &given).unwrap();
    let solver = work.solver("finetune", |layer| {
        let transform = layer.transform_param.as_mut().unwrap();
        transform.mean_file = None;
        transform.mean_value = vec![104.0, 117.0, 123.0];
        let images = layer.image_data_param.as_mut().unwrap();
        images.source = Some(work.path("list.txt"));
        images.root_folder = Some(format!("{}/", work.path("")));
        images.batch_size = Some(2);
    });
    // The inner products' 57 million weights would only be waited for.
    let text = std::fs::read_to_string(work.path("net.prototxt")).unwrap();
    std::fs::write(work.path("net.prototxt"), text.replace("num_output: 4096", "num_output: 64"))
        .unwrap();
    let log = caffe(&["train", "-solver", &solver, "-weights", &work.path("given.caffemodel")]);
    let losses = losses(&log);
    // With weights drawn anew in each run a batch of two may happen to cost nothing.
    assert!(
        losses.len() >= 3 && losses.iter().all(|loss| loss.is_finite() && *loss >= 0.0),
        "{log}"
    );
    let model = model_from_file(work.path("snap_iter_3.caffemodel")).unwrap().0;
    // Three small steps: moved, but from where the file said.
    let (before, after) = (weights(&given, "conv2"), weights(&model, "conv2"));
    assert_ne!(before, after);
    let apart = before.iter().zip(&after).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let largest = before.iter().map(|w| w.abs()).fold(0.0, f32::max);
    assert!(apart < 0.2 * largest, "{apart} of {largest}");
    assert_eq!(weights(&model, "fc8_flickr").len(), 20 * 64);
}
