//! The program as its users meet it: the real binary, its exit codes and what it says.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use caffe_proto::{BlobProto, BlobShape, LayerParameter, Message, NetParameter};

const COMMANDS: [&str; 9] = [
    "train",
    "test",
    "time",
    "device_query",
    "layers",
    "convert_cifar_data",
    "convert_mnist_data",
    "compute_image_mean",
    "generate_data",
];

fn caffe() -> Command {
    Command::new(env!("CARGO_BIN_EXE_caffe"))
}

fn run<A: AsRef<OsStr>>(args: &[A]) -> Output {
    caffe().args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a command line that has to succeed; returns standard output and the log.
#[track_caller]
fn succeeds<A: AsRef<OsStr>>(args: &[A]) -> (String, String) {
    let output = run(args);
    let (out, log) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{log}");
    (out, log)
}

/// Runs a command line that has to fail: code 1 and one E-line. Returns the message.
#[track_caller]
fn fails<A: AsRef<OsStr>>(args: &[A]) -> String {
    let output = run(args);
    let log = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(log.lines().filter(|l| l.starts_with('E')).count(), 1, "{log}");
    let error = log.lines().skip_while(|l| !l.starts_with('E')).collect::<Vec<_>>().join("\n");
    assert!(error.contains("] "), "{error}");
    error.split_once("] ").map(|(_, message)| message.to_owned()).unwrap_or_default()
}

/// Splits a command line at its spaces.
fn line(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), content).unwrap();
        self.name(name)
    }

    /// Everything in it, hidden or not.
    fn entries(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// A pair of idx files: `n` images of 2 × 2, all pixels of image i being i, its label i mod 10.
    fn idx(&self, n: u8) -> [String; 2] {
        let mut images = vec![0, 0, 8, 3, 0, 0, 0, n, 0, 0, 0, 2, 0, 0, 0, 2];
        let mut labels = vec![0, 0, 8, 1, 0, 0, 0, n];
        for i in 0..n {
            images.extend([i; 4]);
            labels.push(i % 10);
        }
        [self.write("images", images), self.write("labels", labels)]
    }

    /// A database of `n` such images.
    fn database(&self, n: u8) -> String {
        let [images, labels] = self.idx(n);
        let database = self.name("db");
        succeeds(&["convert_mnist_data", &images, &labels, &database]);
        database
    }
}

/// A file of CIFAR-10's form: `n` records, label i mod 10, all pixels i.
fn cifar(n: usize) -> Vec<u8> {
    (0..n).flat_map(|i| [vec![(i % 10) as u8], vec![i as u8; 3072]].concat()).collect()
}

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
fn every_command_explains_itself() {
    let (help, _) = succeeds(&["--help"]);
    for command in COMMANDS {
        assert!(help.contains(command), "{command} is not in\n{help}");
        let (long, log) = succeeds(&[command, "--help"]);
        assert!(long.contains("Usage: caffe ") && long.contains("Examples:"), "{long}");
        assert_eq!(log, "");
        for spelling in
            [format!("{command} -help"), format!("help {command}"), format!("{command} -h")]
        {
            assert_eq!(succeeds(&line(&spelling)).0, long, "{spelling}");
        }
    }
    let (version, _) = succeeds(&["--version"]);
    assert!(version.starts_with(concat!("caffe ", env!("CARGO_PKG_VERSION"))), "{version}");
}

#[test]
fn without_a_command_the_help_is_shown_and_the_exit_code_is_1() {
    let output = caffe().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("Usage: caffe"));
    assert!(output.stdout.is_empty());
}

#[test]
fn all_spellings_of_a_flag_reach_the_command() {
    for spelling in [
        "train -solver no-such.prototxt",
        "train --solver=no-such.prototxt",
        "train -solver=no-such.prototxt",
        "train --solver no-such.prototxt",
        "-solver no-such.prototxt train",
        "train -solver no-such.prototxt -level -1 -stage a,b -sigint_effect stop",
        "train --solver=no-such.prototxt --sighup-effect=none -sigint_effect snapshot",
        "train -solver no-such.prototxt --mode=sync --workers=2 --threads=2 --readers=2",
        "train -solver no-such.prototxt --batch=global --exact --noexact --trace=t --trace_layers",
        "train -logtostderr -solver no-such.prototxt -weights a,b -gpu=",
    ] {
        let message = fails(&line(spelling));
        assert!(
            message.contains("no-such.prototxt") && message.contains("no such file"),
            "{message}"
        );
    }
}

#[test]
fn what_is_wrong_on_a_command_line_is_said_in_one_line() {
    for (args, needle) in [
        ("trian -solver x", "unknown command `trian`; did you mean `train`?"),
        ("-solver x", "no command"),
        ("train -slover x", "no flag `-slover`; did you mean `-solver`?"),
        ("train -iterations 5", "belongs to `caffe test`, `caffe time`"),
        ("train -log_dir x", "standard error"),
        ("train", "`caffe train` needs --solver <FILE>"),
        ("train -solver", "`-solver` needs a value"),
        ("train -solver x y", "has no use for `y`"),
        ("train -solver x --mode=asynk", "--mode is one of sync, hogwild, not `asynk`"),
        ("train -solver x -sigint_effect stp", "did you mean `stop`?"),
        ("train -solver x --batch=all", "replica, global"),
        ("train -solver x --workers=0", "--workers cannot be `0`"),
        ("train -solver x --threads=many", "--threads cannot be `many`"),
        ("train -solver x --exact=perhaps", "true or false"),
        ("train -solver x -gpu first", "-gpu takes `all` or numbers"),
        ("test -model x", "needs --weights"),
        ("test -model x -weights y -iterations 0", "-iterations must be at least 1"),
        ("test -model no-such -weights y", "no-such: no such file"),
        ("time -model no-such", "no-such: no such file"),
        ("time -model x -phase BOTH", "--phase is one of TRAIN, TEST"),
        ("layers Covnolution", "unknown layer type `Covnolution`"),
        ("convert_cifar_data", "needs <INPUT_FOLDER>, <OUTPUT_FOLDER>"),
        ("convert_cifar_data a b lmdb", "LMDB is not supported yet"),
        ("convert_mnist_data a b c -backend rocksdb", "unknown database type"),
        ("convert_mnist_data no-such b c", "cannot read `no-such`"),
        ("compute_image_mean no-such", "`no-such` is not a LevelDB"),
        ("generate_data x --train=0", "--train cannot be `0`"),
        ("help trian", "did you mean `train`?"),
    ] {
        let message = fails(&line(args));
        assert!(message.contains(needle), "{args}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn arguments_that_are_not_utf8_are_no_reason_to_panic() {
    let odd = OsStr::from_bytes(b"\xff\xfe");
    assert!(fails(&[odd]).contains("unknown command"));
    assert!(fails(&["train".as_ref(), "-solver".as_ref(), odd]).contains("no such file"));
    fails(&["train".as_ref(), "-mode".as_ref(), odd]);
    fails(&["layers".as_ref(), odd]);
}

#[test]
fn faults_of_a_prototxt_are_shown_with_their_place() {
    let folder = Folder::new();
    let solver = folder.write("solver.prototxt", "net: 'x'\nbase_lr: 0.1\nmax_itr: 10\n");
    let message = fails(&["train", "-solver", &solver]);
    assert!(message.contains("solver.prototxt:3:1"), "{message}");
    assert!(message.contains("   3 | max_itr: 10") && message.contains("| ^^^^^^^"), "{message}");
    assert!(message.contains("did you mean `max_iter`?"), "{message}");

    let net = folder.write("net.prototxt", "layer { name: 'a' type: 'RelU' }\n");
    let message = fails(&["time", "-model", &net]);
    assert!(
        message.contains("net.prototxt:1") && message.contains("did you mean `ReLU`?"),
        "{message}"
    );

    let solver = folder.write("bare.prototxt", "base_lr: 0.1 lr_policy: 'fixed' max_iter: 1\n");
    assert!(fails(&["train", "-solver", &solver]).contains("must name one train net"));
}

#[test]
fn a_gpu_is_refused_and_what_there_is_is_named() {
    let folder = Folder::new();
    let solver = folder.write("s.prototxt", "net: 'no-such-net' solver_mode: GPU base_lr: 1\n");
    let message = fails(&["train", "-solver", &solver, "-gpu", "0"]);
    assert!(message.contains("computes on the CPU only") && message.contains("CUDA"), "{message}");
    assert!(fails(&["test", "-model", "x", "-weights", "y", "-gpu", "all"]).contains("CPU only"));
    // A solver file that says GPU is taken as it is.
    let output = run(&["train", "-solver", &solver]);
    let log = text(&output.stderr);
    let warning = log.lines().find(|l| l.starts_with('W')).unwrap_or_default();
    assert!(warning.contains("solver_mode is GPU"), "{log}");
    assert!(log.contains("no-such-net"), "{log}");
}

#[test]
fn device_query_tells_what_there_is() {
    let (out, _) = succeeds(&["device_query"]);
    for label in ["Processor:", "Cores open to this process:", "Vector extensions:", "oneDNN:"] {
        assert!(out.contains(label), "{label} is not in\n{out}");
    }
    assert!(
        out.contains("no CUDA driver found (looked for libcuda.so") || out.contains("CUDA driver:")
    );
    if out.contains("Device id:") {
        println!("skipped: this machine has a GPU");
        return;
    }
    assert!(fails(&["device_query", "-gpu", "all"]).starts_with("-gpu all: "));
}

#[test]
fn layers_lists_and_describes() {
    let (list, _) = succeeds(&["layers"]);
    assert!(list.lines().any(|l| l.starts_with("ReLU ")), "{list}");
    let (data, _) = succeeds(&["layers", "Data"]);
    assert!(data.contains("bottoms   0") && data.contains("data_param {"), "{data}");
    assert!(data.contains("  mirror: bool, default false"), "{data}");
    assert!(fails(&["layers", "Relu"]).contains("did you mean `ReLU`?"));
}

#[test]
fn a_reader_that_closes_the_pipe_is_no_error() {
    for args in [&["layers"][..], &["--help"], &["device_query"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = caffe().args(args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    }
    if let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") {
        let output = caffe().arg("layers").stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("cannot write to standard output"));
    }
}

#[test]
fn mnist_is_converted_and_its_mean_computed() {
    let folder = Folder::new();
    let [images, labels] = folder.idx(5);
    let database = folder.name("mnist_leveldb");
    let convert = ["convert_mnist_data", "-backend", "leveldb", &images, &labels, &database];
    let (out, log) = succeeds(&convert);
    assert!(
        out.is_empty() && log.contains("convert_mnist_data.cpp:117] Processed 5 files."),
        "{log}"
    );
    assert!(fails(&convert).contains("exists already"));

    let mean = folder.name("mean.binaryproto");
    let (_, log) = succeeds(&["compute_image_mean", "--backend=leveldb", &database, &mean]);
    assert!(
        log.contains("] Processed 5 files.") && log.contains("] Number of channels: 1"),
        "{log}"
    );
    assert!(log.contains("] mean_value channel [0]: 2\n"), "{log}");
    let blob = BlobProto::decode(fs::read(&mean).unwrap().as_slice()).unwrap();
    assert_eq!(blob.data, [2.0; 4]);
    let (_, log) = succeeds(&["compute_image_mean", &database]);
    assert!(log.contains("mean_value") && !log.contains("Write to"), "{log}");
    let nowhere = folder.name("no/such/mean");
    assert!(fails(&["compute_image_mean", &database, &nowhere]).contains("cannot write"));
}

#[test]
fn a_conversion_that_fails_leaves_nothing_behind() {
    let folder = Folder::new();
    let [images, labels] = folder.idx(5);
    let cut = fs::read(&images).unwrap();
    fs::write(&images, &cut[..cut.len() - 3]).unwrap();
    let before = folder.entries();
    let database = folder.name("db");
    assert!(fails(&["convert_mnist_data", &images, &labels, &database]).contains("cut short"));
    assert!(fails(&["convert_mnist_data", &labels, &images, &database]).contains("swapped"));
    assert_eq!(folder.entries(), before);
}

#[test]
fn cifar_is_converted_from_what_there_is() {
    let (input, output) = (Folder::new(), Folder::new());
    let folder = |f: &Folder| f.0.path().display().to_string();
    let convert =
        ["convert_cifar_data".to_owned(), folder(&input), folder(&output), "leveldb".into()];
    assert!(fails(&convert).contains("holds none of data_batch_1.bin"));
    input.write("data_batch_1.bin", cifar(20));
    input.write("data_batch_3.bin", cifar(10));
    assert!(fails(&convert).contains("is missing; it belongs to CIFAR-10"));
    input.write("test_batch.bin", &cifar(10)[..100]);
    assert!(fails(&convert).contains("cut short"));
    assert_eq!(output.entries(), [""; 0]);

    input.write("test_batch.bin", cifar(10));
    let (_, log) = succeeds(&convert);
    for sentence in [
        "convert_cifar_data.cpp:52] Writing Training data\n",
        "convert_cifar_data.cpp:55] Training Batch 1\n",
        "convert_cifar_data.cpp:55] Training Batch 3\n",
        "data_batch_2.bin is missing",
        "] Training data: 30 records in ",
        "] Testing data: 10 records in ",
    ] {
        assert!(log.contains(sentence), "{sentence} is not in\n{log}");
    }
    assert!(!log.contains("Training Batch 2"), "{log}");
    assert_eq!(output.entries(), ["cifar10_test_leveldb", "cifar10_train_leveldb"]);
    assert!(fails(&convert).contains("exists already"));
}

#[test]
fn a_generated_set_has_as_many_records_as_asked_for() {
    let folder = Folder::new();
    let set = folder.name("set");
    let (_, log) = succeeds(&["generate_data", &set, "--train=30", "--test", "10", "-seed", "3"]);
    assert!(log.contains("30 generated records") && log.contains("10 generated"), "{log}");
    let train = Path::new(&set).join("cifar10_train_leveldb").display().to_string();
    assert!(succeeds(&["compute_image_mean", &train]).1.contains("Processed 30 files."));
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
    let mut plain = Vec::new();
    for line in log.lines() {
        let rest = line.split_whitespace().skip(2).collect::<Vec<_>>();
        let from = rest.get(1).and_then(|place| line.find(place)).unwrap_or(0);
        writeln!(plain, "{}", &line[from..]).unwrap();
    }
    text(&plain)
}
