//! Models, states, mean files and HDF5 files that are missing, empty, cut, of another kind or of
//! another net: one message that names file and place, exit code 1, and nothing written.
//!
//! What is said stands in `files_errors/NAME.txt`, with the folder written as `DIR`. After a change
//! that is meant, `UPDATE_GOLDEN=1 cargo test --test files_errors` writes these files anew.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use caffe_proto::{
    BlobProto, BlobShape, LayerParameter, NetParameter, SolverState, write_binary_file_atomic,
};

/// A folder with good files of every kind, from which bad ones are made.
struct Folder(tempfile::TempDir);

const NET: &str = "
  layer { name: 'in' type: 'DummyData' top: 'x' top: 'l'
          dummy_data_param { shape { dim: 1 dim: 2 } shape { dim: 1 } } }
  layer { name: 'ip' type: 'InnerProduct' bottom: 'x' top: 'y' inner_product_param { num_output: 2 } }
  layer { name: 'loss' type: 'SoftmaxWithLoss' bottom: 'y' bottom: 'l' }";

impl Folder {
    fn new() -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.write("net.prototxt", NET.as_bytes());
        let solver = format!(
            "net: '{}' base_lr: 0.1 lr_policy: 'fixed' max_iter: 1 snapshot: 1 snapshot_prefix: '{}'",
            folder.path("net.prototxt").display(),
            folder.path("snap").display()
        );
        folder.write("solver.prototxt", solver.as_bytes());
        folder.model("good.caffemodel", &[("ip", vec![vec![2, 2], vec![2]])]);
        folder.state("good.solverstate", &[vec![2, 2], vec![2]]);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    fn model(&self, name: &str, layers: &[(&str, Vec<Vec<i64>>)]) {
        let layer = |(name, blobs): &(&str, Vec<Vec<i64>>)| LayerParameter {
            name: Some((*name).to_owned()),
            r#type: Some("InnerProduct".to_owned()),
            blobs: blobs.iter().map(|dims| blob(dims)).collect(),
            ..Default::default()
        };
        let net = NetParameter { layer: layers.iter().map(layer).collect(), ..Default::default() };
        write_binary_file_atomic(self.path(name), &net).unwrap();
    }

    fn state(&self, name: &str, history: &[Vec<i64>]) {
        let state = SolverState {
            iter: Some(3),
            learned_net: Some(self.path("good.caffemodel").display().to_string()),
            history: history.iter().map(|dims| blob(dims)).collect(),
            current_step: Some(0),
        };
        write_binary_file_atomic(self.path(name), &state).unwrap();
    }

    /// Everything in the folder, with its size.
    fn content(&self) -> BTreeMap<PathBuf, u64> {
        let entries = std::fs::read_dir(self.0.path()).unwrap().map(Result::unwrap);
        entries.map(|e| (e.path(), e.metadata().unwrap().len())).collect()
    }

    /// Runs `caffe` with words of which those beginning with `@` are files of the folder; it has to
    /// fail with the golden message.
    fn fails(&self, case: &str, words: &str) {
        let before = self.content();
        let word = |w: &str| match w.strip_prefix('@') {
            Some(name) => self.path(name).display().to_string(),
            None => w.to_owned(),
        };
        let output = Command::new(env!("CARGO_BIN_EXE_caffe"))
            .args(words.split_whitespace().map(word))
            .output()
            .unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{case}: {log}");
        assert!(!log.contains("panicked"), "{case}: {log}");
        let errors: Vec<&str> = log.lines().filter(|line| line.starts_with('E')).collect();
        assert_eq!(errors.len(), 1, "{case}: {log}");
        let message = errors[0].split_once("] ").map_or("", |(_, message)| message);
        let message = message.replace(&self.0.path().display().to_string(), "DIR") + "\n";
        // Which machine found it is not the point.
        let message = match message.split_once(", start: ") {
            Some((place, message)) if place.starts_with("rank 0 (host ") => message,
            _ => message.as_str(),
        };
        golden(case, message);
        assert_eq!(self.content(), before, "{case}: something was written");
    }
}

fn blob(dims: &[i64]) -> BlobProto {
    BlobProto {
        shape: Some(BlobShape { dim: dims.to_vec() }),
        data: vec![0.5; dims.iter().product::<i64>() as usize],
        ..Default::default()
    }
}

fn golden(case: &str, message: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files_errors");
    let path = folder.join(format!("{case}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, message).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(message, expected, "{case}");
}

#[test]
fn models() {
    let folder = Folder::new();
    let good = folder.read("good.caffemodel");
    folder.write("empty.caffemodel", b"");
    folder.write("cut.caffemodel", &good[..good.len() - 3]);
    folder.write("noise.caffemodel", &[0xff; 40]);
    folder.write("torch.caffemodel", b"PK\x03\x04 a PyTorch file");
    folder.write("lfs.caffemodel", b"version https://git-lfs.github.com/spec/v1\noid sha256:0");
    folder.model("other_net.caffemodel", &[("ip", vec![vec![3, 2], vec![3]])]);
    folder.model("one_blob.caffemodel", &[("ip", vec![vec![2, 2]])]);
    folder.write("many.caffemodel", &[0x12, 0].repeat(20_000));
    let test = |case: &str, file: &str| {
        let words = format!("test -model @net.prototxt -weights @{file} -iterations 1");
        folder.fails(&format!("model_{case}"), &words);
    };
    test("missing", "no-such.caffemodel");
    test("empty", "empty.caffemodel");
    test("truncated", "cut.caffemodel");
    test("noise", "noise.caffemodel");
    test("text", "net.prototxt");
    test("zip", "torch.caffemodel");
    test("lfs_pointer", "lfs.caffemodel");
    test("of_another_net", "other_net.caffemodel");
    test("with_fewer_blobs", "one_blob.caffemodel");
    test("too_many_layers", "many.caffemodel");
    folder.fails("model_train", "train -solver @solver.prototxt -weights @cut.caffemodel");
}

#[test]
fn states() {
    let folder = Folder::new();
    let good = folder.read("good.solverstate");
    folder.write("empty.solverstate", b"");
    folder.write("cut.solverstate", &good[..good.len() - 3]);
    folder.state("adam.solverstate", &[vec![2, 2], vec![2], vec![2, 2], vec![2]]);
    folder.state("wide.solverstate", &[vec![4, 2], vec![4]]);
    folder.state("orphan.solverstate", &[vec![2, 2], vec![2]]);
    let orphan = SolverState {
        iter: Some(1),
        learned_net: Some(folder.path("gone.caffemodel").display().to_string()),
        history: vec![blob(&[2, 2]), blob(&[2])],
        ..Default::default()
    };
    write_binary_file_atomic(folder.path("orphan.solverstate"), &orphan).unwrap();
    let train = |case: &str, file: &str| {
        folder.fails(
            &format!("state_{case}"),
            &format!("train -solver @solver.prototxt -snapshot @{file} -threads 1"),
        );
    };
    train("missing", "no-such.solverstate");
    train("empty", "empty.solverstate");
    train("truncated", "cut.solverstate");
    train("is_a_model", "good.caffemodel");
    train("is_text", "net.prototxt");
    train("of_another_solver", "adam.solverstate");
    train("of_another_net", "wide.solverstate");
    train("without_its_model", "orphan.solverstate");
}

#[test]
fn mean_files() {
    let folder = Folder::new();
    let data = folder.path("data");
    caffe::data::synthetic::write_synthetic(&data, 5, 1, 5).unwrap();
    let net = |mean: &str| {
        let text = format!(
            "layer {{ name: 'data' type: 'Data' top: 'data'
               data_param {{ source: '{}' batch_size: 1 }} transform_param {{ mean_file: '{}' }} }}",
            data.join("cifar10_train_leveldb").display(),
            folder.path(mean).display()
        );
        folder.write("data.prototxt", text.as_bytes());
    };
    write_binary_file_atomic(folder.path("good.binaryproto"), &blob(&[1, 3, 32, 32])).unwrap();
    let good = folder.read("good.binaryproto");
    folder.write("empty.binaryproto", b"");
    folder.write("cut.binaryproto", &good[..good.len() / 2]);
    write_binary_file_atomic(folder.path("small.binaryproto"), &blob(&[1, 3, 8, 8])).unwrap();
    for (case, mean) in [
        ("missing", "no-such.binaryproto"),
        ("empty", "empty.binaryproto"),
        ("truncated", "cut.binaryproto"),
        ("text", "net.prototxt"),
        ("of_other_images", "small.binaryproto"),
    ] {
        net(mean);
        folder.fails(&format!("mean_{case}"), "time -model @data.prototxt -iterations 1");
    }
}

#[cfg(feature = "hdf5")]
#[test]
fn hdf5_files() {
    let folder = Folder::new();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hdf5");
    let fixture = |name: &str| std::fs::read(fixtures.join(name)).unwrap();
    let (model, state) = (fixture("model.caffemodel.h5"), fixture("sgd.solverstate.h5"));
    folder.write("cut.caffemodel.h5", &model[..model.len() / 2]);
    folder.write("rows.h5", &fixture("rows_a.h5"));
    folder.write("other.caffemodel.h5", &model);
    folder.write("cut.solverstate.h5", &state[..state.len() - 100]);
    folder.write("other.solverstate.h5", &state);
    let test = |case: &str, file: &str| {
        let words = format!("test -model @net.prototxt -weights @{file} -iterations 1");
        folder.fails(&format!("hdf5_model_{case}"), &words);
    };
    test("truncated", "cut.caffemodel.h5");
    test("without_data_group", "rows.h5");
    let train = |case: &str, file: &str| {
        let words = format!("train -solver @solver.prototxt -snapshot @{file} -threads 1");
        folder.fails(&format!("hdf5_state_{case}"), &words);
    };
    train("truncated", "cut.solverstate.h5");
    train("is_a_model", "other.caffemodel.h5");
    train("of_another_net", "other.solverstate.h5");
    let layer = "layer { name: 'd' type: 'HDF5Data' top: 'data' top: 'label'
                 hdf5_data_param { source: 'LIST' batch_size: 2 } }";
    let layer = layer.replace("LIST", &folder.path("list.txt").display().to_string());
    folder.write("data.prototxt", layer.as_bytes());
    for (case, file) in [
        ("missing", "gone.h5"),
        ("truncated", "cut.caffemodel.h5"),
        ("text", "net.prototxt"),
        ("of_other_datasets", "other.solverstate.h5"),
    ] {
        folder.write("list.txt", folder.path(file).display().to_string().as_bytes());
        folder.fails(&format!("hdf5_data_{case}"), "time -model @data.prototxt -iterations 1");
    }
}
